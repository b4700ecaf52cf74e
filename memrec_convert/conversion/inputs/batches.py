"""A caller's own batches, and how to call the model with them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from memrec_convert.clicklog import Batch
from memrec_convert.errors import COMMON_FAILURES, LogError, MemrecError, ModelError, OptionError, OwnCode
from memrec_convert.evaluation.goal import Goal
from memrec_convert.evaluation.objectives import BINARY, Objective, OwnLoss, name_odd_kind
from memrec_convert.evaluation.scoring import Forward

OUTPUT_CHOICES = ("auto", "logits", "probabilities")
FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
LEAST_SHOWN = 16
"""If at least this many outputs all lie between 0 and 1, they count as probabilities, unless autograd tells more."""
SMALLEST_CHANCE = 1e-7
"""Distance from 0 and 1 to which probabilities are clamped before logit: float32 has no number nearer to 1."""

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
    """A source of batches over any object that can be iterated repeatedly.

    `labels` returns the labels of a batch, as `objective` has them; `groups` says which samples belong together.
    """

    loader: Iterable[Any]
    labels: Callable[[Any], Tensor] | None = None
    name: str = "batches"
    objective: Objective = BINARY
    groups: Callable[[Any], Tensor] | None = None

    def stream(self, *, limit: int | None = None, shuffle_seed: int | None = None) -> Iterator[Any]:
        """Yields batches in the loader's order; shuffling is up to the loader."""
        seen = 0
        for batch in _iterate(self.loader, self.name):
            yield batch
            seen += count_rows(batch)
            if limit is not None and seen >= limit:
                return

    def count_batches(self) -> int:
        """The number of batches: the loader's length if it has one, else counted."""
        try:
            return len(self.loader)  # type: ignore[arg-type]
        except TypeError:  # none at all, or a DataLoader over what has none
            return sum(1 for _ in _iterate(self.loader, self.name))

    @property
    def has_labels(self) -> bool:
        """Whether the caller passed `labels`."""
        return self.labels is not None

    @property
    def mark(self) -> str:
        """Empty: a caller's loader may yield different batches in another run."""
        return ""

    def labels_of(self, batch: Any) -> Tensor:  # noqa: ANN401 - the protocol's
        """Returns labels float32 [rows]; LogError unless they are such as the objective has, for clicks 0 to 1."""
        assert self.labels is not None
        found = _call_guarded("labels= failed on a batch", lambda: torch.as_tensor(self.labels(batch)))  # type: ignore[misc]
        _refuse_odd(found, "labels=", self.name)
        return self.objective.check_labels(found, self.name)

    def groups_of(self, batch: Any) -> Tensor | None:  # noqa: ANN401 - the protocol's
        """Returns which samples of a batch belong together, int64 [rows]; None where nothing says so."""
        if self.groups is None:
            return None
        found = _call_guarded("groups= failed on a batch", lambda: torch.as_tensor(self.groups(batch)))  # type: ignore[misc]
        _refuse_odd(found, "groups=", self.name)
        if found.is_floating_point() or found.numel() != count_rows(batch):
            raise LogError(
                f"groups= returned {found.numel()} values of {found.dtype} for a batch of {self.name} of "
                f"{count_rows(batch)} samples; expected one whole number per sample."
            )
        groups: Tensor = found.detach().reshape(-1).to("cpu", torch.int64)
        return groups


def make_loader(
    batches: Iterable[Any] | None,
    labels: Callable[[Any], Tensor] | None,
    name: str,
    *,
    hold: bool = False,
    objective: Objective = BINARY,
    groups: Callable[[Any], Tensor] | None = None,
) -> LoaderBatches | None:
    """Makes a source that can be streamed repeatedly; LogError if it is empty.

    A one-pass iterator is read into a list. With `hold`, so is any other iterable, because a loader may shuffle and
    every pass must have the same order.
    """
    if batches is None:
        return None
    if isinstance(batches, str | bytes | Tensor | Mapping | nn.Module | type) or not hasattr(batches, "__iter__"):
        raise LogError(f"{name} is a {type(batches).__name__}; expected a list of batches or a DataLoader.")
    if callable(labels) is False and labels is not None:
        raise LogError(f"labels is a {type(labels).__name__}; expected a function that returns the labels of a batch.")
    loader = list(_iterate(batches, name)) if hold or isinstance(batches, Iterator) else batches
    if next(_iterate(loader, name), None) is None:
        raise LogError(f"{name} is empty; pass at least one batch, or omit {name} for a conversion without data.")
    return LoaderBatches(loader, labels, name, objective, groups)


def _iterate(batches: Iterable[Any], name: str) -> Iterator[Any]:
    """The batches that have samples; what the caller's own code raises becomes a LogError."""
    try:
        for batch in batches:
            if _list_lengths(batch) != {0}:
                yield batch
    except MemrecError:
        raise
    except COMMON_FAILURES as error:
        said = " ".join(str(error).split())[:300]
        raise LogError(f"{name} failed ({type(error).__name__}: {said}); mend what gives the batches.") from error


def call_with_batch(model: nn.Module, batch: Any) -> Tensor:  # noqa: ANN401 - what the loader yields
    """The default forward: calls model(*batch), or model(**batch) for a mapping."""
    if isinstance(batch, Mapping):
        logits: Tensor = model(**batch)
    else:
        logits = model(*batch) if isinstance(batch, tuple | list) else model(batch)
    return logits


def call_with_inputs(model: nn.Module, batch: Any) -> Tensor:  # noqa: ANN401 - what the loader yields
    """The forward for batches whose last part is the label: calls the model without it."""
    return call_with_batch(model, batch[0] if len(batch) == 2 else batch[:-1])


def open_loaders(
    model: nn.Module,
    batches: Iterable[Any] | None,
    val: Iterable[Any] | None,
    eval: Iterable[Any] | None = None,
    *,
    labels: Callable[[Any], Tensor] | None,
    forward: Forward | None,
    objective: Objective = BINARY,
    groups: Callable[[Any], Tensor] | None = None,
) -> tuple[list[LoaderBatches | None], Forward]:
    """Returns training data, hold-out and evaluation data as sources, and the forward that calls the model on them."""
    kind: dict[str, Any] = {"objective": objective, "groups": groups}
    sources = [
        make_loader(batches, labels, "batches", **kind),
        make_loader(val, labels, "val", hold=True, **kind),
        make_loader(eval, labels, "eval", hold=True, **kind),
    ]
    given = [one for one in sources if one is not None]
    if forward is not None or not given:
        return sources, forward or call_with_batch
    call, labelled = choose_forward(model, next(given[0].stream()), clicks=objective is BINARY)
    if labelled and labels is None:
        sources = [None if one is None else replace(one, labels=last_part) for one in sources]
    return sources, call


def choose_forward(model: nn.Module, batch: Any, *, clicks: bool = True) -> tuple[Forward, bool]:  # noqa: ANN401
    """Returns the forward for batches like this one, and whether their last part is the label.

    clicks   labels are 0 or 1

    ModelError if that part could be either a label or an argument.
    """
    parts = list(batch) if isinstance(batch, tuple | list) else []
    if isinstance(batch, Mapping) and batch and not _accepts(model, batch):
        _refuse_names(model, batch)
    if len(parts) < 2 or not _may_be_label(parts[-1], count_rows(batch)):
        return call_with_batch, False
    whole, inputs = _accepts(model, batch), _accepts(model, parts[0] if len(parts) == 2 else parts[:-1])
    if whole and inputs and parts[-1].is_floating_point() and _is_click(parts[-1]):
        raise ModelError(
            f"the last of the {len(parts)} parts of a batch contains only 0 and 1, and may be labels or an argument "
            f"of {type(model).__name__}.forward; pass forward= to decide, such as forward=lambda model, batch: "
            "model(*batch[:-1]), labels=lambda batch: batch[-1]."
        )
    if whole or not inputs:
        return call_with_batch, False
    return call_with_inputs, not clicks or _is_click(parts[-1])


def _refuse_names(model: nn.Module, batch: Mapping[Any, Any]) -> None:
    """ModelError, with the line to write, for a mapping whose names are not the arguments of the model's forward."""
    try:
        taken = list(inspect.signature(model.forward).parameters)
    except (TypeError, ValueError):  # a forward that does not tell: the call itself will
        return
    given = ", ".join(f"{name}=batch[{name!r}]" for name in batch if name in taken)
    names = ", ".join(map(repr, batch))
    raise ModelError(
        f"a batch has the names {names[:200]}, and {type(model).__name__}.forward takes {', '.join(taken)[:200]}; pass "
        f"forward= to call the model with its inputs, such as forward=lambda model, batch: "
        f"model({given or f'batch[{next(iter(batch))!r}]'}), and labels= where a name has the labels."
    )


def last_part(batch: Any) -> Tensor:  # noqa: ANN401 - what the loader yields
    """Returns the last part of a batch, where that is the labels."""
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
    """Wraps a forward: its failures become ModelErrors, and probabilities become logits if `outputs` says so."""
    if outputs not in OUTPUT_CHOICES:
        raise OptionError(f"outputs is {outputs!r}; expected one of {', '.join(OUTPUT_CHOICES)}.")

    def run(model: nn.Module, batch: Any) -> Tensor:  # noqa: ANN401 - what the loader yields
        found: Tensor = _call_guarded("the model failed on a batch", lambda: forward(model, batch))
        if outputs != "probabilities" or not isinstance(found, Tensor):
            return found
        _refuse_kind(found)
        if not bool(((found >= 0) & (found <= 1)).all()):
            raise ModelError(
                "outputs='probabilities' was set, but the model returned numbers outside 0 to 1; omit it for logits."
            )
        return torch.logit(found.to(torch.float32).clamp(SMALLEST_CHANCE, 1 - SMALLEST_CHANCE))

    return run


def wrap_loss(goal: Goal, wrap: Callable[[Forward], Forward]) -> Goal:
    """The goal with a loss of the caller's own as `wrap` has it; any other as it is."""
    objective = goal.objective
    if not isinstance(objective, OwnLoss):
        return goal
    return replace(goal, objective=replace(objective, function=wrap(objective.function)))


def guard_loss(own: Forward) -> Forward:
    """The caller's own loss, whose failures become ModelErrors."""

    def run(model: nn.Module, batch: Any) -> Tensor:  # noqa: ANN401 - what the loader yields
        found: Tensor = _call_guarded("objective= failed on a batch", lambda: own(model, batch))
        return found

    return run


def _call_guarded(what: str, call: Callable[[], Any]) -> Any:  # noqa: ANN401 - what the caller's own code gives
    """Calls the caller's own code; whatever it raises becomes a ModelError that names it."""
    advice = f"pass forward= to call the model correctly, such as {_SHOW}."
    with OwnCode(lambda said: ModelError(f"{what} ({said}); {advice}")):
        return call()


def refuse_answer(logits: object, rows: int, *, wide: bool = False) -> None:
    """Raises ModelError unless a forward pass over `rows` samples returned one finite logit per sample.

    wide   or several numbers per sample, [rows, k]
    """
    if not isinstance(logits, Tensor):
        part = "['logits']" if isinstance(logits, Mapping) else "[0]" if isinstance(logits, tuple | list) else ".logits"
        raise ModelError(
            f"the model returned a {type(logits).__name__}; expected a tensor with one logit per sample: pick it with "
            f"{_SHOW}{part}."
        )
    _refuse_kind(logits)
    if rows and not logits.numel():
        raise ModelError(
            f"the model returned a tensor of shape {list(logits.shape)} for {rows} samples; expected numbers for each."
        )
    if wide and logits.dim() == 2 and len(logits) == rows:
        pass
    elif sum(size > 1 for size in logits.shape) > 1:
        two = logits.shape[-1] == 2
        pick = "(lambda y: y[:, 1] - y[:, 0])(model(*batch))" if two else "model(*batch)[:, 0]"
        raise ModelError(
            f"the model returned a tensor of shape {list(logits.shape)}; expected one logit per sample: pick one with "
            f"forward=lambda model, batch: {pick}."
        )
    if not logits.dim() and rows > 1:
        raise ModelError(
            f"the model returned one number for {rows} samples; expected one logit per sample, not a loss: pick the "
            f"logits with {_SHOW}."
        )
    if not bool(torch.isfinite(logits).all()):
        raise ModelError("the model's logits on batches are not all finite; expected a trained model without NaN.")


def _refuse_kind(logits: Tensor) -> None:
    """ModelError for a tensor that is not dense, or holds no floating-point numbers of 16 to 64 bits."""
    kind = name_odd_kind(logits)
    if kind and kind != "complex":
        raise ModelError(f"the model returned a {kind} tensor; expected a plain one: change it with {_SHOW}.")
    if logits.dtype not in FLOATING:
        raise ModelError(f"the model returned {logits.dtype}; expected floating-point logits: pick them with {_SHOW}.")


def refuse_missing(outputs: Tensor, batch: Any) -> None:  # noqa: ANN401 - what the loader yields
    """ModelError for fewer outputs than samples, where all parts of a batch have the length that says how many."""
    lengths = _list_lengths(batch)
    if len(lengths) == 1 and outputs.numel() < min(lengths):
        raise ModelError(
            f"the model returned {outputs.numel()} outputs for {min(lengths)} samples; expected one or more for each."
        )


def _refuse_odd(found: Tensor, what: str, name: str) -> None:
    """LogError for what the caller's own function gives if it holds no plain numbers."""
    if kind := name_odd_kind(found):
        raise LogError(f"{what} returned a {kind} tensor for a batch of {name}; expected a plain one of real numbers.")


def refuse_probabilities(outputs: Tensor) -> None:
    """Raises ModelError if a model's outputs look like probabilities instead of logits."""
    last = _name_last_step(outputs.grad_fn)
    if last.startswith(("LogSigmoid", "LogSoftmax")):
        raise ModelError(
            "the model ends in a logarithm of probabilities; return its logits from forward=, or return probabilities "
            "and set outputs='probabilities'."
        )
    if last.startswith(("Addmm", "Mm", "Bmm", "Mv")):
        return
    between = bool(((outputs >= 0) & (outputs <= 1)).all())
    if between and (last.startswith(("Sigmoid", "Softmax", "Hardsigmoid")) or outputs.numel() >= LEAST_SHOWN):
        raise ModelError(
            "the model's outputs are all between 0 and 1 and look like probabilities; set outputs='probabilities', "
            "or outputs='logits' if they are logits, or return logits from forward=."
        )


def _name_last_step(step: Any) -> str:  # noqa: ANN401 - a node of autograd's graph
    """The last operation, ignoring those that only select, reshape, cast or clip; "" if autograd recorded none."""
    while step is not None and step.name().startswith(tuple(f"{name}Backward" for name in _PASSED_ON)):
        step = step.next_functions[0][0]
    return "" if step is None else str(step.name())


def count_rows(batch: Any) -> int:  # noqa: ANN401 - what the loader yields
    """Counts the samples of a batch: a log's own number, or else the first length found in it."""
    if isinstance(batch, Batch):
        return batch.rows
    if isinstance(batch, Tensor):
        return int(batch.shape[0]) if batch.dim() else 1
    parts = list(batch.values()) if isinstance(batch, Mapping) else batch if isinstance(batch, tuple | list) else []
    return next((count_rows(part) for part in parts if isinstance(part, Tensor | tuple | list | Mapping)), 1)


def _list_lengths(batch: Any) -> set[int]:  # noqa: ANN401 - what the loader yields
    """The lengths of a batch's tensors."""
    if isinstance(batch, Batch):
        return {batch.rows}
    if isinstance(batch, Tensor):
        return {int(batch.shape[0])} if batch.dim() else set()
    parts = list(batch.values()) if isinstance(batch, Mapping) else batch if isinstance(batch, tuple | list) else []
    return {one for part in parts for one in _list_lengths(part)}
