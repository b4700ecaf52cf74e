"""The lookups of a live model, seen where they reach a table, whatever its modules do around them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from weakref import ReferenceType

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from memrec_convert.conversion.inputs.batches import count_rows, refuse_answer
from memrec_convert.conversion.inputs.subject import BatchSource, Subject, TableSite
from memrec_convert.errors import IdRangeError, ModelError


class LookupPoint(nn.Module):
    """Stands for one table: its hooks run around every lookup of the table's rows."""

    def forward(
        self,
        ids: Tensor,
        offsets: Tensor | None = None,
        per_sample_weights: Tensor | None = None,
        *,
        look_up: Callable[[], Tensor],
    ) -> Tensor:
        """What `look_up` gives, rows or pooled rows of ids."""
        return look_up()

    @property
    def is_watched(self) -> bool:
        """Whether it has hooks."""
        return bool(self._forward_hooks or self._forward_pre_hooks)


class WatchedLookups(TorchFunctionMode):
    """While this is entered, lookups in a weight run through its point, by the identity of the weight.

    ModelError where the copy that runs computes with a parameter of the model that was given; `given` has their names,
    by id, with a weak reference: an id is given anew once its object is gone.
    """

    def __init__(
        self, points: Mapping[int, LookupPoint], given: Mapping[int, tuple[str, ReferenceType[Tensor]]]
    ) -> None:
        super().__init__()
        self.points, self.given = points, given

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        """Calls on; lookups through their point."""
        kwargs = kwargs or {}
        for one in (*args, *kwargs.values()):
            name, held = self.given.get(id(one), ("", None))
            if held is not None and held() is one and func.__name__ != "__get__":
                raise ModelError(
                    f"a copy of the model reads {name} of the given model itself, such as by a function "
                    "that holds on to it; give inplace=True, or reach it by way of self."
                )
        weight_at = _LOOKUPS.get(func)
        if weight_at is None:
            return func(*args, **kwargs)
        weight = args[weight_at] if len(args) > weight_at else kwargs.get("weight")
        point = self.points.get(id(weight))
        if point is None:
            return func(*args, **kwargs)
        ids = args[1 - weight_at] if len(args) > 1 - weight_at else kwargs.get("input", kwargs.get("indices"))
        offsets = args[2] if len(args) > 2 and func in _BAGS else kwargs.get("offsets")
        return point(ids, offsets, kwargs.get("per_sample_weights"), look_up=lambda: func(*args, **kwargs))


_BAGS = (functional.embedding_bag, torch.embedding_bag)
_LOOKUPS: dict[Any, int] = {
    functional.embedding: 1,
    functional.embedding_bag: 1,
    torch.embedding: 0,
    torch.embedding_bag: 0,
}
"""Functions that look up rows, and which of their arguments is the weight; the ids are the other of the first two."""


def refuse_outside(ids: Tensor, site: TableSite, source: str = "batches") -> None:
    """Raises IdRangeError if ids int64 [n] are outside the table."""
    outside = (ids < 0) | (ids >= site.rows)
    if bool(outside.any()):
        raise IdRangeError(
            f"{source}: {int(outside.sum()):,} of the {len(ids):,} ids in one call of {site.name} are outside its "
            f"{site.rows:,} rows (first: {int(ids[outside][0])}); expected 0 to {site.rows - 1}."
        )


def count_lookups(subject: Subject, batches: BatchSource) -> tuple[np.ndarray, ...]:
    """Counts the lookups of each id over all batches, where they reach the rows, and checks every output."""
    sites, wide = subject.sites, subject.goal.objective.wide
    counts = [torch.zeros(site.rows, dtype=torch.int64) for site in sites]

    def watch(number: int) -> Callable[[nn.Module, Any], None]:
        def hook(_module: nn.Module, args: Any) -> None:  # noqa: ANN401 - torch's signature
            ids = args[0].reshape(-1).long().cpu()
            refuse_outside(ids, sites[number], batches.name)
            counts[number] += torch.bincount(ids, minlength=sites[number].rows)

        return hook

    handles = [site.module.register_forward_pre_hook(watch(number)) for number, site in enumerate(sites)]
    try:
        with torch.no_grad():
            for batch in batches.stream():
                refuse_answer(subject.forward(subject.model, batch), count_rows(batch), wide=wide)
    finally:
        for handle in handles:
            handle.remove()
    return tuple(count.numpy() for count in counts)
