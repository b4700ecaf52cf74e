"""What a caller can choose about a conversion, with its defaults."""

from __future__ import annotations

import os
from dataclasses import dataclass

from memrec_convert.errors import LogError, MemrecError, RecipeError
from memrec_convert.units import parse_threshold

METHODS = ("auto", "memrec", "codes", "int8", "sample-pooled")
WEIGHT_CHOICES = ("auto", "log", "optimizer", "displacement", "uniform")
DENSE_CHOICES = ("fp32", "bf16")
TARGET_CHOICES = ("mixed", "soft", "labels")
OOV_CHOICES = ("error", "clip", "hash", "zero")


@dataclass(frozen=True)
class Options:
    """Choices of a conversion.

    threshold        tables below it are kept: bytes ("4kB") or rows ("10000rows")
    method           auto: what costs least; memrec: the published hashed form; codes: no stored rows; int8: rows only
    weights          where row weights come from; auto: the log, else the optimizer's state, else displacement
    epochs           of fine-tuning, given a hold-out; targets: the original's logits ("soft"), labels, or "mixed"
    lr_search        choose the learning rates of fine-tuning on the hold-out, after short trials
    dense            precision of the dense part in the file; train_dense lets fine-tuning move it
    allow_nonfinite  read rows with NaN or infinite values as zeros instead of refusing them
    tables_only      convert the tables alone, of a model whose network need not be known
    oov              what the converted model does with an id beyond its table
    pooled           sizes and start of the method sample-pooled, as "D=75000,K=1,start=warm"
    k, k_weights     hashed tokens and weights per id under method "memrec"
    batch_size       samples per batch of what reads a log
    seed             of everything random
    threads          worker threads; 0 takes the machine's cores. They never change a result
    """

    threshold: str = "4kB"
    method: str = "auto"
    weights: str = "auto"
    epochs: int = 1
    targets: str = "mixed"
    dense: str = "fp32"
    train_dense: bool = False
    tables_only: bool = False
    lr_search: bool = False
    oov: str = "error"
    allow_nonfinite: bool = False
    pooled: str = ""
    k: int = 2
    k_weights: int = 4
    batch_size: int = 4096
    seed: int = 0
    threads: int = 0

    def __post_init__(self) -> None:
        for name, choices in (
            ("method", METHODS),
            ("weights", WEIGHT_CHOICES),
            ("dense", DENSE_CHOICES),
            ("targets", TARGET_CHOICES),
            ("oov", OOV_CHOICES),
        ):
            if getattr(self, name) not in choices:
                raise RecipeError(f"{name} is {getattr(self, name)!r}; expected one of {', '.join(choices)}.")
        for name, least, most in (
            ("epochs", 0, 1000),
            ("k", 1, 64),
            ("k_weights", 0, 16),
            ("batch_size", 1, 1 << 24),
            ("seed", 0, 2**31 - 1),
            ("threads", 0, 4096),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
                raise RecipeError(f"{name} is {value!r}; expected a whole number from {least} to {most}.")
        try:
            parse_threshold(self.threshold)
        except MemrecError as error:
            raise RecipeError(f"threshold: {error}") from error

    @property
    def workers(self) -> int:
        """Worker threads to use."""
        return self.threads or len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else self.threads or 1

    def may_replace(self, rows: int, nbytes: int) -> bool:
        """Whether a table of this size is over the threshold."""
        unit, least = parse_threshold(self.threshold)
        return (rows if unit == "rows" else nbytes) >= least


@dataclass(frozen=True)
class Extras:
    """group: the evaluation log's column that says which rows belong together; ablation: every replaced table alone;
    control: the original fine-tuned as the converted model is.
    """

    group: str | None = None
    ablation: bool = False
    control: bool = False

    def check(self, options: Options, *, data: bool, val: bool, evaluation: bool) -> None:
        """LogError where a measurement lacks its data, RecipeError for a control run of no training."""
        for wanted, name in ((self.group, "--group"), (self.ablation, "--ablation"), (self.control, "--control")):
            if wanted and not evaluation:
                raise LogError(f"{name} says what to measure, and there is no evaluation data; add --eval.")
        if not self.control:
            return
        missing = [name for name, given in (("--data", data), ("--val", val)) if not given]
        if missing:
            raise LogError(
                f"--control repeats the fine-tuning on the original, and that needs {' and '.join(missing)}; add it."
            )
        if not options.epochs:
            raise RecipeError("--control repeats the fine-tuning on the original, and --epochs 0 asks for none.")


NO_EXTRAS = Extras()
