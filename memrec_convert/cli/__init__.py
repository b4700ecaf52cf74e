"""The command line: thin calls of the library's verbs. This package alone prints, draws progress and exits."""

from __future__ import annotations

from memrec_convert.cli.commands import cli, main, run

__all__ = ["cli", "main", "run"]
