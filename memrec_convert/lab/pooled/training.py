"""`--method sample-pooled`: all tables give way to one pooled vector per sample, and the top is trained anew."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn

from memrec_convert.artifact.metadata import Metadata
from memrec_convert.artifact.writer import count_model_bytes
from memrec_convert.clicklog import Batch
from memrec_convert.conversion.inputs.from_checkpoint import run_on_batch
from memrec_convert.conversion.inputs.metering import Stopwatch
from memrec_convert.conversion.inputs.subject import Progress, Subject
from memrec_convert.conversion.options import Options
from memrec_convert.conversion.steps.teaching import make_mark, make_targets
from memrec_convert.encoding.spec import TensorShapes
from memrec_convert.errors import BudgetTooSmallError, LogError, ModelError, OptionError
from memrec_convert.finetune.loop import FineTuning, Lesson
from memrec_convert.lab.pooled.finetune import OPTIMIZERS, ROWS_PER_STEP, PooledTraining, train_pooled
from memrec_convert.lab.pooled.warm_start import warm_start
from memrec_convert.models import ClickNetwork
from memrec_convert.models.sample_pooled import INITS, PooledSizes, SamplePooled, pooled_architecture
from memrec_convert.parallel import single_threaded_torch
from memrec_convert.units import format_bytes

METHOD: Final = "sample-pooled"
STARTS = ("warm", *INITS)
WARM_BATCHES = 32
"""Batches on which the logit's directions are measured."""


@dataclass(frozen=True)
class PooledChoices:
    """What can be chosen of the model: sizes by the README's names (0: from the budget, or as the bottom is wide).

    start      "warm" from the original, "balanced" (alpha = 1, V of unit variance) or "released" (their initial scale)
    optimizer  "adam", or "sgd" at their constant rate
    """

    D: int = 0
    K: int = 1
    dw: int = 0
    kw: int = 1
    l: int = 0  # noqa: E741 - their name for it
    start: str = "warm"
    optimizer: str = "adam"


@dataclass(frozen=True)
class Pooled:
    """The trained model, its metadata and exact bytes, and how training went."""

    model: SamplePooled
    metadata: Metadata
    nbytes: int
    steps_per_epoch: int
    training: FineTuning


def parse_pooled(text: str) -> PooledChoices:
    """Choices from "D=75000,K=1,start=warm"; OptionError for unknown names and impossible values."""
    known = PooledChoices.__dataclass_fields__
    given: dict[str, Any] = {}
    for part in filter(None, text.replace(" ", "").split(",")):
        name, separator, value = part.partition("=")
        if name not in known or not separator:
            raise OptionError(
                f"cannot read {part!r} of the sample-pooled model: expected one of {', '.join(known)}, as D=75000."
            )
        words = {"start": STARTS, "optimizer": OPTIMIZERS}.get(name)
        if words is not None:
            if value not in words:
                raise OptionError(f"{name} of the sample-pooled model is {value!r}; expected {' or '.join(words)}.")
            given[name] = value
            continue
        least = 0 if name == "kw" else 1
        if not (value.isascii() and value.isdigit() and len(value) < 12 and int(value) >= least):
            raise OptionError(f"{name} of the sample-pooled model is {value!r}; expected a whole number from {least}.")
        given[name] = int(value)
    return PooledChoices(**given)


def make_pooled(
    subject: Subject,
    budget_bytes: int,
    options: Options,
    choices: PooledChoices,
    blank: Metadata,
    *,
    progress: Progress,
    watch: Stopwatch,
) -> Pooled:
    """The sample-pooled model within the budget, trained on the subject's training data; `blank` lacks architecture.

    LogError without training data and hold-out, BudgetTooSmallError where not even the layers fit.
    """
    original = _require(subject, options)
    assert subject.train is not None
    _, metadata, nbytes = _size(subject, budget_bytes, choices, blank)
    torch.manual_seed(options.seed)
    with single_threaded_torch():
        assert metadata.architecture is not None
        model = SamplePooled(metadata.architecture)
        model.reset_tables("released" if choices.start == "released" else "balanced")
        if choices.start == "warm":
            with watch.stage("warm start"):
                progress("warm start", 0, 1)
                counts: Sequence[Any] = subject.counts or [None] * len(subject.sites)
                warm_start(
                    model,
                    original,
                    [site.reader for site in subject.sites],
                    counts,
                    subject.train.stream(limit=WARM_BATCHES * options.batch_size, shuffle_seed=options.seed),
                )
        with watch.stage("train"):
            pieces = -(-options.batch_size // ROWS_PER_STEP)
            steps = subject.train.count_batches() * pieces
            training = train_pooled(
                model,
                partial(_lessons, subject, options),
                PooledTraining(options.epochs, steps, choices.optimizer),
                hold_out=make_mark(subject, options),
                progress=progress,
            )
    return Pooled(model.eval(), metadata, nbytes, steps, training)


def _require(subject: Subject, options: Options) -> ClickNetwork:
    if not isinstance(subject.model, ClickNetwork) or subject.architecture is None:
        raise ModelError(f"the method {METHOD} is for checkpoints of known networks; compress takes other methods.")
    if subject.train is None or subject.hold_out is None or not options.epochs:
        raise LogError(
            f"the method {METHOD} trains a new top: it needs training data (--data), a hold-out (--val) and at least "
            "one epoch; add them."
        )
    if options.dense != "fp32":
        raise OptionError(f"the method {METHOD} stores all in fp32; leave out --dense {options.dense}.")
    return subject.model


def _size(
    subject: Subject, budget_bytes: int, choices: PooledChoices, blank: Metadata
) -> tuple[PooledSizes, Metadata, int]:
    """The largest D within the budget (or the one that was asked for), the metadata with it, and the file's bytes."""
    assert subject.architecture is not None
    original = subject.architecture
    width = choices.l or int(original["bottom"][-1])
    names = list(original.get("input_names") or _input_names(subject))

    def at(tokens: int) -> tuple[PooledSizes, Metadata, int]:
        sizes = PooledSizes(tokens, width, choices.K, choices.dw, choices.kw)
        metadata = _with_architecture(blank, pooled_architecture(original, sizes, input_names=names))
        return sizes, metadata, _count(metadata)

    least = max(choices.K, choices.kw, 1)
    found = at(choices.D or least)
    if found[2] > budget_bytes:
        raise BudgetTooSmallError(
            f"{format_bytes(budget_bytes)} ({budget_bytes} bytes) cannot hold the sample-pooled model with D = "
            f"{found[0].D}: it takes {format_bytes(found[2])} ({found[2]} bytes), most of it the layers of its MLPs.",
            smallest_bytes=found[2],
        )
    low, high = (found[0].D, found[0].D) if choices.D else (least, max(least, budget_bytes // (4 * width)))
    while low < high:
        middle = (low + high + 1) // 2
        if at(middle)[2] <= budget_bytes:
            low = middle
        else:
            high = middle - 1
    return at(low)


def _with_architecture(blank: Metadata, architecture: Mapping[str, object]) -> Metadata:
    return replace(blank, architecture=dict(architecture))


def _count(metadata: Metadata) -> int:
    """Bytes of the file, from a model without memory."""
    assert metadata.architecture is not None
    with torch.device("meta"):
        hollow = SamplePooled(metadata.architecture)
    shapes: TensorShapes = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in hollow.state_dict().items()}
    return count_model_bytes(shapes, metadata)


def _input_names(subject: Subject) -> list[str]:
    """Each input bears the name of the first table that it feeds."""
    assert isinstance(subject.model, ClickNetwork)
    inputs = subject.model.table_inputs
    return [subject.sites[inputs.index(number)].name for number in range(max(inputs) + 1)]


def _lessons(subject: Subject, options: Options, epoch: int) -> Iterator[Lesson]:
    """Pieces of the training data's batches, small enough for many steps, with what is to be learnt from each."""
    train = subject.train
    assert train is not None
    if options.targets == "labels" and not train.has_labels:
        raise LogError("training on labels was asked for, and the training data has none; use --targets soft.")
    for batch in train.stream(shuffle_seed=options.seed * 1000 + epoch):
        for piece, targets in split_batch(batch, make_targets(subject, train, batch, options.targets)):
            yield Lesson(partial(_answer, piece), targets)


def split_batch(batch: Batch, targets: Tensor, *, rows: int = ROWS_PER_STEP) -> Iterator[tuple[Batch, Tensor]]:
    """A batch in pieces of at most `rows` samples with their targets; one of bags stays whole."""
    if not isinstance(batch.ids, Tensor):
        yield batch, targets
        return
    for start in range(0, batch.rows, rows):
        piece = slice(start, start + rows)
        labels = None if batch.labels is None else batch.labels[piece]
        yield Batch(batch.dense[piece], batch.ids[piece], labels), targets[piece]


def _answer(batch: Batch, student: nn.Module) -> Tensor:
    return run_on_batch(student, batch).reshape(-1)
