"""The place pt2: a package for AOTInductor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from memrec_convert.errors import ExportError
from memrec_convert.exports.place import Place, Proved, Subject, Target
from memrec_convert.safe_files import check_target


def refuse_place(sentence: str) -> Place:
    """A place that nothing can be written for; `sentence` says so, and what to do."""

    def check(target: Target) -> None:
        check_target(target.path, force=target.force)

    def write(_subject: Subject, _target: Target) -> Sequence[Path]:
        raise ExportError(sentence)

    def prove(path: Path) -> Proved:
        raise ExportError(f"{path}: {sentence}")

    return Place(check, write, lambda _path: False, prove)


PT2 = refuse_place("this version writes no .pt2 packages; export to onnx, or serve with load() or the C library.")
