"""All compressed tables of a network in one call of the kernel."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from memrec_convert.lookup.kernel_tables import KernelTables, kernel_can_read
from memrec_convert.lookup.modules import CompressedEmbeddingBag
from memrec_convert.lookup.tracing import must_trace
from memrec_convert.lookup.tracking import Changes


class TogetherCache:
    """The kernel's view of a network's tables, made when first needed; copies of a network make their own."""

    def __init__(self) -> None:
        self.tables: tuple[CompressedEmbeddingBag, ...] = ()
        self.change, self.generations = -1, list[int]()
        self.kernel: KernelTables | None = None

    def find(self, modules: Iterable[object], inputs: Sequence[int]) -> KernelTables | None:
        """The view of exactly these tables as they are now; None where one of them takes another way."""
        tables, change = tuple(modules), Changes.last
        if tables != self.tables or change != self.change:
            self._renew(tables, inputs)
            self.change = change
        return self.kernel

    def _renew(self, tables: tuple[Any, ...], inputs: Sequence[int]) -> None:
        """Makes the view anew, unless what was replaced since belongs to other tables."""
        if any(type(table) is not CompressedEmbeddingBag for table in tables):
            self.tables, self.kernel = tables, None
            return
        generations = [table.generation for table in tables]
        if tables == self.tables and generations == self.generations:
            return
        self.tables, self.generations = tables, generations
        usable = all(kernel_can_read(table) and not table.include_last_offset for table in tables)
        self.kernel = KernelTables(tables, inputs) if usable else None

    def __deepcopy__(self, memo: dict[int, Any]) -> TogetherCache:
        """Empty."""
        return TogetherCache()

    def __reduce__(self) -> tuple[type[TogetherCache], tuple[()]]:
        """Stored empty."""
        return TogetherCache, ()


def embed_together(
    tables: Iterable[object], inputs: Sequence[int], ids: Tensor | Sequence[Any], cache: TogetherCache
) -> Sequence[Tensor] | Tensor | None:
    """The vectors of all tables, [B, T, dim] or one [B, dim] each; None where the kernel does not take them at once.

    ids are int64 or int32 [B, inputs], or per input the bags (ids, offsets, weights or None).
    """
    first: Tensor = ids if isinstance(ids, Tensor) else ids[0][0]
    if must_trace(first):
        return None
    kernel = cache.find(tables, inputs)
    if kernel is None:
        return None
    if isinstance(ids, Tensor):
        vectors = kernel.look_up_few(ids)
        return kernel.look_up_samples(ids) if vectors is None and ids.is_cpu else vectors
    if not first.is_cpu:
        return None
    samples = len(ids[0][1])
    bags = [table.read_bags(*_pad(ids[number])) for table, number in zip(cache.tables, inputs, strict=True)]
    learning = any(weights is not None and weights.requires_grad for *_, weights in bags)
    if learning or samples == 0 or any(starts is None or len(starts) != samples for _, starts, _ in bags):
        return None
    return kernel.split(kernel.look_up_bags(bags, samples))


def _pad(bags: Sequence[Tensor | None]) -> tuple[Any, Any, Any]:
    """Ids, offsets and weights, None for weights that were left out."""
    return bags[0], bags[1], bags[2] if len(bags) > 2 else None
