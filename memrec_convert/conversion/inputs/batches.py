"""A caller's own batches, and how the model is called with them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from memrec_convert.errors import LogError, MemrecError, ModelError, RecipeError
from memrec_convert.evaluation.scoring import Forward

OUTPUT_CHOICES = ("auto", "logits", "probabilities")
LEAST_SHOWN = 16
"""So many outputs between 0 and 1 are taken for probabilities, where nothing else tells."""
SMALLEST_CHANCE = 1e-7
"""Probabilities are kept this far from 0 and 1 before their logit is taken: float32 knows none nearer to 1."""

_SHOW = "forward=lambda model, batch: model(*batch)"
_PASSED_ON = (
    "Squeeze",
    "Unsqueeze",
    "View",
    "UnsafeView",
    "Select",
    "Slice",
    "Reshape",
    "ToCopy",
    "Clone",
    "T",
    "Clamp",
)


@dataclass(frozen=True)
class LoaderBatches:
    """Anything that can be iterated again and again as a source of batches; `labels` finds those of a batch."""

    loader: Iterable[Any]
    labels: Callable[[Any], Tensor] | None = None
    name: str = "batches"

    def stream(self, *, limit: int | None = None, shuffle_seed: int | None = None) -> Iterator[Any]:
        """The loader's own order; shuffling is the loader's business."""
        seen = 0
        for batch in self.loader:
            yield batch
            seen += count_rows(batch)
            if limit is not None and seen >= limit:
                return

    def count_batches(self) -> int:
        """The loader's length where it has one."""
        return len(self.loader) if isinstance(self.loader, Sized) else sum(1 for _ in self.loader)

    @property
    def has_labels(self) -> bool:
        """Whether the caller said where labels are."""
        return self.labels is not None

    @property
    def mark(self) -> str:
        """Nothing: a caller's loader may give other batches in another run."""
        return ""

    def labels_of(self, batch: Any) -> Tensor:  # noqa: ANN401 - the protocol's
        """Labels float32 [rows]; LogError unless they are numbers from 0 to 1."""
        assert self.labels is not None
        found = _call_guarded("labels= failed on a batch", lambda: torch.as_tensor(self.labels(batch)))  # type: ignore[misc]
        labels: Tensor = found.detach().reshape(-1).to("cpu", torch.float32)
        if not bool(((labels >= 0) & (labels <= 1)).all()):
            raise LogError(f"the labels of {self.name} are not all between 0 and 1; say with labels= where clicks are.")
        return labels


def make_loader(
    batches: Iterable[Any] | None, labels: Callable[[Any], Tensor] | None, name: str, *, hold: bool = False
) -> LoaderBatches | None:
    """A source that can be streamed again; LogError for an empty one.

    An iterator that runs once is put into a list, and so is anything on `hold`: then every pass has the same order,
    where a loader may shuffle anew.
    """
    if batches is None:
        return None
    if isinstance(batches, str | bytes | Tensor | Mapping | nn.Module) or not hasattr(batches, "__iter__"):
        raise LogError(f"{name} is a {type(batches).__name__}; expected a list of batches or a DataLoader.")
    if callable(labels) is False and labels is not None:
        raise LogError(f"labels is a {type(labels).__name__}; expected a function that finds them in a batch.")
    loader = list(batches) if hold or isinstance(batches, Iterator) else batches
    if next(iter(loader), None) is None:
        raise LogError(f"{name} is empty; give at least one batch, or none at all for a conversion without data.")
    return LoaderBatches(loader, labels, name)


def call_with_batch(model: nn.Module, batch: Any) -> Tensor:  # noqa: ANN401 - what the loader yields
    """The default forward: model(*batch), or model(**batch) for a mapping."""
    if isinstance(batch, Mapping):
        logits: Tensor = model(**batch)
    else:
        logits = model(*batch) if isinstance(batch, tuple | list) else model(batch)
    return logits


def call_with_inputs(model: nn.Module, batch: Any) -> Tensor:  # noqa: ANN401 - what the loader yields
    """The forward for batches whose last part is the label."""
    return call_with_batch(model, batch[0] if len(batch) == 2 else batch[:-1])


def choose_forward(model: nn.Module, batch: Any) -> tuple[Forward, bool]:  # noqa: ANN401 - what the loader yields
    """How a model is called with batches like this one, and whether their last part is the label.

    ModelError where that part could be a label and an argument.
    """
    parts = list(batch) if isinstance(batch, tuple | list) else []
    if len(parts) < 2 or not _may_be_label(parts[-1], count_rows(batch)):
        return call_with_batch, False
    whole, inputs = _accepts(model, batch), _accepts(model, parts[0] if len(parts) == 2 else parts[:-1])
    if whole and inputs and parts[-1].is_floating_point() and _is_click(parts[-1]):
        raise ModelError(
            f"batches have {len(parts)} parts, and the last, all 0 and 1, may be the labels or an argument of "
            f"{type(model).__name__}.forward; say with forward=, such as forward=lambda model, batch: "
            "model(*batch[:-1]), labels=lambda batch: batch[-1]."
        )
    if whole or not inputs:
        return call_with_batch, False
    return call_with_inputs, _is_click(parts[-1])


def last_part(batch: Any) -> Tensor:  # noqa: ANN401 - what the loader yields
    """The labels of batches whose last part they are."""
    labels: Tensor = batch[-1]
    return labels


def _may_be_label(part: object, rows: int) -> bool:
    return isinstance(part, Tensor) and part.numel() == rows and part.dim() in (1, 2)


def _is_click(part: Tensor) -> bool:
    return bool(((part == 0) | (part == 1)).all())


def _accepts(model: nn.Module, batch: Any) -> bool:  # noqa: ANN401 - what the loader yields
    try:
        signature = inspect.signature(model.forward)
        if isinstance(batch, Mapping):
            signature.bind(**batch)
        else:
            signature.bind(*(batch if isinstance(batch, tuple | list) else (batch,)))
    except (TypeError, ValueError):
        return False
    return True


def guard_forward(forward: Forward, outputs: str) -> Forward:
    """The forward with its failures as ModelErrors, and with logits for probabilities where those are `outputs`."""
    if outputs not in OUTPUT_CHOICES:
        raise RecipeError(f"outputs is {outputs!r}; expected one of {', '.join(OUTPUT_CHOICES)}.")

    def run(model: nn.Module, batch: Any) -> Tensor:  # noqa: ANN401 - what the loader yields
        found: Tensor = _call_guarded("the model failed on a batch", lambda: forward(model, batch))
        if outputs != "probabilities" or not isinstance(found, Tensor):
            return found
        if not bool(((found >= 0) & (found <= 1)).all()):
            raise ModelError(
                "outputs='probabilities' was said, and the model gave numbers outside 0 to 1; leave it out for logits."
            )
        return torch.logit(found.to(torch.float32).clamp(SMALLEST_CHANCE, 1 - SMALLEST_CHANCE))

    return run


def _call_guarded(what: str, call: Callable[[], Any]) -> Any:  # noqa: ANN401 - what the caller's own code gives
    """The result of the caller's own code; whatever it raises becomes a ModelError that names it."""
    with _OwnCode(what):
        return call()


class _OwnCode:
    """The caller's own code runs inside: it may raise anything, and none of it is a fault of this package."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, MemrecError | KeyboardInterrupt | SystemExit):
            return
        said = " ".join(str(error).split())[:300]
        raise ModelError(
            f"{self.what} ({type(error).__name__}: {said}); say with forward= how it is called, such as {_SHOW}."
        ) from error


def refuse_answer(logits: object, rows: int) -> None:
    """ModelError where a forward pass over so many samples gives no finite logits, one per sample."""
    if not isinstance(logits, Tensor):
        part = "['logits']" if isinstance(logits, Mapping) else "[0]" if isinstance(logits, tuple | list) else ".logits"
        raise ModelError(
            f"the model gave a {type(logits).__name__}; expected a tensor with one logit per sample: pick it with "
            f"{_SHOW}{part}."
        )
    if sum(size > 1 for size in logits.shape) > 1:
        two = logits.shape[-1] == 2
        pick = "(lambda y: y[:, 1] - y[:, 0])(model(*batch))" if two else "model(*batch)[:, 0]"
        raise ModelError(
            f"the model gave a tensor of shape {list(logits.shape)}; expected one logit per sample: pick one with "
            f"forward=lambda model, batch: {pick}."
        )
    if not logits.dim() and rows > 1:
        raise ModelError(
            f"the model gave one number for {rows} samples; expected one logit per sample, not their loss: pick it "
            f"with {_SHOW}."
        )
    if not logits.is_floating_point():
        raise ModelError(f"the model gave {logits.dtype}; expected logits in floating point: pick them with {_SHOW}.")
    if not bool(torch.isfinite(logits).all()):
        raise ModelError("the model's logits on batches are not all finite; expected a trained model without NaN.")


def refuse_probabilities(outputs: Tensor) -> None:
    """ModelError where outputs of a model look like probabilities and not like logits."""
    last = _name_last_step(outputs.grad_fn)
    if last.startswith(("LogSigmoid", "LogSoftmax")):
        raise ModelError(
            "the model ends in a logarithm of probabilities; give its logits with forward=, or probabilities and "
            "outputs='probabilities'."
        )
    if last.startswith(("Addmm", "Mm", "Bmm", "Mv")):
        return
    between = bool(((outputs >= 0) & (outputs <= 1)).all())
    if between and (last.startswith(("Sigmoid", "Softmax", "Hardsigmoid")) or outputs.numel() >= LEAST_SHOWN):
        raise ModelError(
            "the model's outputs are all between 0 and 1 and look like probabilities; say outputs='probabilities', "
            "or outputs='logits' where they are logits, or give logits with forward=."
        )


def _name_last_step(step: Any) -> str:  # noqa: ANN401 - a node of autograd's graph
    """The last operation before what only picks, shapes, casts or clips its result; "" where nothing recorded it."""
    while step is not None and step.name().startswith(tuple(f"{name}Backward" for name in _PASSED_ON)):
        step = step.next_functions[0][0]
    return "" if step is None else str(step.name())


def count_rows(batch: Any) -> int:  # noqa: ANN401 - what the loader yields
    """Samples of a batch: the first length found in it."""
    if isinstance(batch, Tensor):
        return int(batch.shape[0]) if batch.dim() else 1
    parts = list(batch.values()) if isinstance(batch, Mapping) else batch if isinstance(batch, tuple | list) else []
    return next((count_rows(part) for part in parts if isinstance(part, Tensor | tuple | list | Mapping)), 1)
