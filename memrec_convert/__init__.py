"""Converts a trained click model into one file within a byte budget, with its measured cost in AUC.

The public verbs are imported when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memrec_convert.artifact.reader import load as load
    from memrec_convert.artifact.verification import verify as verify
    from memrec_convert.benchmarking.compare import compare as compare
    from memrec_convert.checkpoint.inspection import inspect as inspect
    from memrec_convert.conversion.files import convert as convert
    from memrec_convert.conversion.files import plan as plan
    from memrec_convert.conversion.judging import evaluate as evaluate
    from memrec_convert.conversion.live import compress as compress
    from memrec_convert.conversion.live import save as save

__version__ = "0.1.0"

_VERBS = {
    "inspect": "memrec_convert.checkpoint.inspection",
    "plan": "memrec_convert.conversion.files",
    "convert": "memrec_convert.conversion.files",
    "compare": "memrec_convert.benchmarking.compare",
    "compress": "memrec_convert.conversion.live",
    "save": "memrec_convert.conversion.live",
    "load": "memrec_convert.artifact.reader",
    "evaluate": "memrec_convert.conversion.judging",
    "verify": "memrec_convert.artifact.verification",
}

__all__ = ["__version__", "compare", "compress", "convert", "evaluate", "inspect", "load", "plan", "save", "verify"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a verb, each with its own signature
    if name not in _VERBS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_VERBS[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
