"""An indexed set of hot ids over something cheaper: shared by the rivals that treat hot ids apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from memrec_convert.encoding.index import IndexSpec, build_index, choose_index, find_places, order_ids
from memrec_convert.encoding.spec import TensorShapes


@dataclass(frozen=True)
class HotSet:
    """The hot ids in the order of their places, and the index that finds them: the compact one that artifacts use."""

    spec: IndexSpec
    ids: np.ndarray

    def tensors(self) -> dict[str, Tensor]:
        """The index."""
        return {"index": torch.from_numpy(build_index(self.spec, self.ids))}


def make_hot_set(rows: int, ids: np.ndarray) -> HotSet:
    """The ids (int64, any order) of a table of so many rows."""
    spec = choose_index(rows, len(ids))
    return HotSet(spec, order_ids(spec, ids.astype(np.int64)))


def index_shapes(rows: int, count: int) -> TensorShapes:
    """The index's tensor before it exists."""
    return {"index": (torch.uint8, (choose_index(rows, count).nbytes,))}


def lay_over(
    base: Tensor, spec: IndexSpec, fixed: Mapping[str, Tensor], ids: Tensor, read: Callable[[Tensor], Tensor]
) -> Tensor:
    """`base` [n, dim] with the rows of hot ids put in: read(places int64 [m]) gives them, float32 [m, dim]."""
    places = find_places(spec, fixed["index"], ids)
    member = (places >= 0).nonzero().squeeze(1)
    return base.index_copy(0, member, read(places[member])) if len(member) else base


def rank_by_gain(gain: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ids by falling gain, and the summed gain of the first 0, 1, ... of them (float64)."""
    order = np.argsort(-gain, kind="stable")
    return order, np.concatenate([[0.0], np.cumsum(gain[order].astype(np.float64))])


def useful_counts(gains: np.ndarray, counts: list[int]) -> Iterator[int]:
    """The counts up to which one more hot id still gains something."""
    most = int(np.argmax(gains))
    yield from (count for count in counts if count <= most)
