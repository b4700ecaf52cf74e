"""Converts a trained click model into one file within a byte budget, with its measured cost in AUC.

The public verbs are imported when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from memrec_convert.version import __version__

if sys.platform == "win32":
    raise ImportError("memrec_convert runs on Linux and macOS; on Windows, install and run it inside WSL.")

if TYPE_CHECKING:
    from memrec_convert.artifact.reader import load as load
    from memrec_convert.checkpoint.inspect import inspect as inspect
    from memrec_convert.conversion.compress import compress as compress
    from memrec_convert.conversion.compress import save as save
    from memrec_convert.conversion.convert import convert as convert
    from memrec_convert.conversion.evaluate import evaluate as evaluate
    from memrec_convert.conversion.plan import plan as plan
    from memrec_convert.conversion.verify import verify as verify
    from memrec_convert.exports.export import export as export
    from memrec_convert.lab.compare import compare as compare
    from memrec_convert.patches.apply import apply as apply
    from memrec_convert.patches.diff import diff as diff

_VERBS = {
    "inspect": "checkpoint.inspect",
    "plan": "conversion.plan",
    "convert": "conversion.convert",
    "compare": "lab.compare",
    "compress": "conversion.compress",
    "save": "conversion.compress",
    "load": "artifact.reader",
    "evaluate": "conversion.evaluate",
    "verify": "conversion.verify",
    "export": "exports.export",
    "diff": "patches.diff",
    "apply": "patches.apply",
}
"""Where each verb is defined, by the name of its module in this package."""

__all__ = [
    "__version__",
    "apply",
    "compare",
    "compress",
    "convert",
    "diff",
    "evaluate",
    "export",
    "inspect",
    "load",
    "plan",
    "save",
    "verify",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a verb, each with its own signature
    if name not in _VERBS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_VERBS[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
