"""The method's own experiments: one small module each, on one runner that goes on where it was interrupted."""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import TYPE_CHECKING

from memrec_convert.errors import OptionError

if TYPE_CHECKING:
    from memrec_convert.lab.experiments.experiment import Experiment

NAMES = {
    "sizes": "sweep of d, k and k' of the published form, with the knee",
    "iso-auc": "bytes that each method needs for the original's AUC",
    "collisions": "collision rate of hashed ids against AUC loss, beside Bloom's prediction",
    "weight-table": "sensitivity to d' at fixed d, with latency",
    "domains": "the same budgets on another domain's model",
    "epochs": "epochs to convergence: from scratch, warm start, warm start and stored tokens",
    "cache": "last-level cache misses and cycles, simulated, beside the slides' table",
    "latency": "latency per item by batch size, beside the slides' table",
    "equal-bytes": "AUC at equal bytes from 10x to 1000x: published MEM-REC, codes, int8",
}
"""Name -> what it finds out."""


def find_experiment(name: str) -> Experiment:
    """The experiment of this name; OptionError with the nearest name for any other."""
    if name not in NAMES:
        near = difflib.get_close_matches(name[:100].lower(), NAMES, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise OptionError(f"there is no experiment {name!r}: known are {', '.join(NAMES)}{hint}")
    module = import_module(f"{__name__}.{name.replace('-', '_')}")
    experiment: Experiment = module.EXPERIMENT
    return experiment
