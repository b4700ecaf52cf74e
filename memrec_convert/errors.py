"""Every error that a user can cause: one closed hierarchy, one sentence each, exit code 2.

MemrecError
├── CheckpointError          the source model's file cannot be read, or is not a checkpoint
│   ├── NoTablesError        it was read, and holds no embedding table
│   ├── IncompleteCheckpointError   it lacks tables that its own network needs
│   └── NonFiniteRowsError   a table holds NaN or infinite rows
├── LogError                 a click log cannot be read, or does not fit the tables
│   ├── IdRangeError         ids outside a table
│   └── ProfileLeakError     evaluation on the data that the profile was taken from
├── BudgetError              a byte budget that cannot be understood
│   └── BudgetTooSmallError  or that cannot be reached
├── OptionError              an option that is unknown, has no such value, or does not go with another
├── RecipeError              a recipe with unknown keys or wrong values
├── ModelError               a live module that cannot be converted, or does not match its file
├── KernelError              a lookup kernel was asked for that this machine or installation lacks
├── RankError                one of several ranks was lost, or is told something else than the others
├── QualityError             the result is worse than the caller allows (exit code 3)
├── ArtifactError            an artifact that is damaged, foreign or newer than this version
├── PatchError               a patch that is damaged, or was made from another artifact
├── ExportError              a place that cannot hold a model, or an export that is not what it was made from
├── ReportError              a file that is no report, comparison or measurement of this program
└── OutputError              the target cannot be written
"""

from __future__ import annotations

from collections.abc import Callable
from pickle import PickleError

COMMON_FAILURES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    OSError,
    PickleError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What code of a caller's own may raise where it is run: copying a model, its state dict, its batches."""


class MemrecError(Exception):
    """What failed, where, what was found and expected, and what to do: one sentence."""

    exit_code = 2


class CheckpointError(MemrecError):
    """The source model's file cannot be read, or is not a checkpoint."""


class NoTablesError(CheckpointError):
    """The file was read and holds no embedding table."""


class IncompleteCheckpointError(CheckpointError):
    """The file lacks tables that its own network needs."""


class NonFiniteRowsError(CheckpointError):
    """A table holds NaN or infinite rows."""


class LogError(MemrecError):
    """A click log cannot be read, or does not fit the tables."""


class IdRangeError(LogError):
    """A log holds ids outside a table."""


class ProfileLeakError(LogError):
    """Evaluation was asked on the data that the profile was taken from."""


class BudgetError(MemrecError):
    """A byte budget that cannot be understood."""


class BudgetTooSmallError(BudgetError):
    """A byte budget that cannot be reached; the message names the smallest that can, `smallest_bytes` holds it."""

    def __init__(self, message: str, *, smallest_bytes: int = 0) -> None:
        super().__init__(message)
        self.smallest_bytes = smallest_bytes


class OptionError(MemrecError):
    """An option that is unknown, has no such value, or does not go with another."""


class RecipeError(MemrecError):
    """A recipe with unknown keys or wrong values."""


class ModelError(MemrecError):
    """A live module that cannot be converted, or does not match its file."""


class KernelError(MemrecError):
    """A lookup kernel was asked for that this machine or this installation lacks."""


class RankError(MemrecError):
    """A conversion of several ranks that lost one of them, or whose ranks are not about the same."""


class QualityError(MemrecError):
    """The result is worse than the caller allows; nothing was written."""

    exit_code = 3


class ArtifactError(MemrecError):
    """An artifact that is damaged, foreign or newer than this version."""


class PatchError(MemrecError):
    """A patch that is damaged, or was made from another artifact."""


class ExportError(MemrecError):
    """A place that cannot hold a model, or an export that does not give what its artifact gives."""


class ReportError(MemrecError):
    """A file that holds no report, comparison or measurement of this program."""


class OutputError(MemrecError):
    """The target cannot be written."""


class OwnCode:
    """The caller's own code runs inside: it may raise anything, and none of it is a fault of this package.

    refusal   the error for what it said
    """

    def __init__(self, refusal: Callable[[str], MemrecError]) -> None:
        self.refusal = refusal

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Raises the refusal in place of the error; lets this package's own pass, and requests to stop."""
        if error is None or isinstance(error, MemrecError | KeyboardInterrupt | SystemExit):
            return
        said = " ".join(str(error).split())[:300]
        raise self.refusal(f"{type(error).__name__}: {said}") from error
