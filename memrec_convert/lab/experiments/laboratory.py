"""The bench of experiments: checkpoint and logs opened once, and what several cells share made once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from memrec_convert.artifact.metadata import Metadata
from memrec_convert.conversion.inputs.kept_fits import FitStore, open_work
from memrec_convert.conversion.inputs.metering import Stopwatch
from memrec_convert.conversion.inputs.preparing import Job, prepare, stay_silent
from memrec_convert.conversion.inputs.subject import Subject
from memrec_convert.conversion.options import InputChoices, LogPaths
from memrec_convert.conversion.steps.assembly import replace_tables
from memrec_convert.conversion.steps.coding.search import Search
from memrec_convert.conversion.steps.fitting import Fitted, fit_subject
from memrec_convert.conversion.steps.outcome import describe_wish
from memrec_convert.conversion.steps.published_form import fit_published
from memrec_convert.conversion.steps.sizing import make_counter
from memrec_convert.encoding.spec import HashSpec, TableSpec
from memrec_convert.errors import LogError
from memrec_convert.kernels.hashing import FIRST_HASH_SEED, WEIGHT_LANES
from memrec_convert.lab.compare import _facts, _fit_facts
from memrec_convert.lab.contest import Contest
from memrec_convert.lab.own import _CLASSES
from memrec_convert.lookup import CompressedModule
from memrec_convert.version import __version__

HASH_SEEDS_APART = 100_000
"""Seeds of one experiment's repetitions share no table's hash seed."""


@dataclass
class Lab:
    """A checkpoint with its logs. `quick` experiments are smaller; seeds change hashes, k-means and training order."""

    checkpoint: Path | None
    choices: InputChoices
    evaluation: LogPaths | None = None
    quick: bool = False
    domain: str = ""
    folder: Path | None = None
    _memory: dict[Any, Any] = field(default_factory=dict)

    @cached_property
    def job(self) -> Job:
        """Everything opened and checked; LogError where logs are missing."""
        if self.checkpoint is None:
            raise LogError("this experiment measures a model: give its checkpoint, --data, --val and --eval.")
        logs = {"data": self.choices.get("data"), "val": self.choices.get("val"), "eval": self.evaluation}
        missing = [f"--{name}" for name, log in logs.items() if not log]
        if missing:
            raise LogError(f"this experiment measures a model and needs {', '.join(missing)} besides its checkpoint.")
        return prepare(self.checkpoint, "100x", self.choices, eval=self.evaluation)

    @cached_property
    def contest(self) -> Contest:
        """What measures models against the original."""
        return Contest(self.job)

    @cached_property
    def _fits(self) -> FitStore:
        """Fits on disk beside the finished cells, for other experiments on the same model."""
        folder = None if self.folder is None else open_work(self.folder / "fits")
        return FitStore(folder, _fit_facts(_facts(self.job)))

    @property
    def subject(self) -> Subject:
        """The model under experiment."""
        return self.job.subject

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What every row depends on besides its cell and seed."""
        if self.checkpoint is None:
            return {"version": __version__, "quick": self.quick}
        facts = _facts(self.job)
        facts["options"] = {name: value for name, value in facts["options"].items() if name != "seed"}
        return {**facts, "quick": self.quick}

    @property
    def replaceable(self) -> list[int]:
        """Numbers of the tables that are large enough to be replaced."""
        options = self.job.options
        return [n for n, site in enumerate(self.subject.sites) if options.may_replace(site.rows, site.nbytes)]

    def fit(self, method: str, seed: int) -> Fitted:
        """Weights and fits of a method, made once per seed."""
        options = self.job.options.change(method=method, seed=seed)
        make = partial(fit_subject, self.subject, options, stay_silent, Stopwatch())
        fitted: Fitted = self.remember(
            (method, seed), lambda: self._fits.recall(f"experiment: {method}, seed {seed}", make, _CLASSES)
        )
        return fitted

    def remember(self, key: Any, make: Callable[[], Any]) -> Any:  # noqa: ANN401 - whatever cells share
        """What `make` gives, made once."""
        if key not in self._memory:
            self._memory[key] = make()
        return self._memory[key]

    def make_hashed(
        self, d: int, k: int, k_weights: int, *, blocks: int, seed: int
    ) -> tuple[tuple[CompressedModule, ...], int]:
        """All replaceable tables hashed into d tokens per width, the best of centre and none; and the file's bytes."""
        fitted, options = self.fit("memrec", 0), self.job.options.change(method="memrec", seed=seed)
        specs = [
            TableSpec(
                site.rows,
                site.dim,
                "replaced",
                hash_seed=seed * HASH_SEEDS_APART + FIRST_HASH_SEED + number,
                hashing=HashSpec(
                    f"dim{site.dim}", site.dim, d, k, blocks=blocks if k_weights else 0, k_weights=k_weights
                ),
            )
            if number in self.replaceable
            else TableSpec(site.rows, site.dim, "kept", codec="int8")
            for number, site in enumerate(self.subject.sites)
        ]
        blank = Metadata(
            modules={},
            architecture=self.subject.architecture,
            dense=options.dense,
            seed=seed,
            profile={"weights": fitted.source},
            plan=describe_wish("", 0, "memrec"),
        )
        count = make_counter(self.subject, blank, oov=options.oov)
        _, modules, _ = fit_published(Search(self.subject, fitted, 0, options, count), specs)
        return modules, count(specs)

    def measure(self, model: nn.Module, nbytes: int) -> dict[str, Any]:
        """The columns of a row that every AUC has: bytes, AUC, its change with DeLong's interval, log loss."""
        difference, loss = self.contest.measure(model)
        return {
            "bytes": nbytes,
            "auc": difference.after,
            "auc_delta": difference.delta,
            "ci_low": difference.ci95[0],
            "ci_high": difference.ci95[1],
            "log_loss": loss,
        }

    def measure_tables(self, modules: Sequence[CompressedModule], nbytes: int) -> dict[str, Any]:
        """As `measure`, for the model with these modules for its tables."""
        return self.measure(replace_tables(self.subject, modules), nbytes)

    @cached_property
    def seen(self) -> list[np.ndarray]:
        """Per table the ids that the profile shows, int64."""
        assert self.subject.counts is not None
        return [np.flatnonzero(np.asarray(counts)) for counts in self.subject.counts]

    def hashed_rows(self) -> int:
        """Rows of the replaceable tables together."""
        return sum(self.subject.sites[number].rows for number in self.replaceable)


def count_blocks(entries: int) -> int:
    """Blocks of a weight table of about so many entries; at least one."""
    return max(1, entries // WEIGHT_LANES)
