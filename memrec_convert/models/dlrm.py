"""DLRM in torch, with whatever stands for its tables: bottom MLP, embedding stage, interaction, top MLP.

"Deep Learning Recommendation Model for Personalization and Recommendation Systems", https://arxiv.org/abs/1906.00091
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from memrec_convert.errors import ModelError

TableInput = tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor | None]
"""One table's bags: ids int64 [total], offsets int64 [B] (starts, no closing one), and weights float32 [total]."""


class DLRM(nn.Module):
    """A DLRM after an `architecture` as `checkpoint.SourceModel` gives it; the output is always the logit.

    `tables` are modules called as `table(ids, offsets, per_sample_weights)` that return [B, dim]; `bottom` and `top`
    are Sequentials of Linear and ReLU, the last top layer without. ModelError for one that makes no network.
    """

    pair_index: Tensor

    def __init__(self, architecture: Mapping[str, object], tables: Iterable[nn.Module]) -> None:
        super().__init__()
        bottom, top = _read_widths(architecture, "bottom"), _read_widths(architecture, "top")
        self.tables = nn.ModuleList(tables)
        self.interaction = architecture.get("interaction")
        _check_architecture(architecture, len(self.tables), bottom, top)
        self.bottom = build_mlp(bottom, last_relu=True)
        self.top = build_mlp(top, last_relu=False)
        index = pair_index(
            len(self.tables) + 1,
            lower=architecture.get("pairs", "lower") == "lower",
            itself=bool(architecture.get("self_interaction", False)),
        )
        self.register_buffer("pair_index", index, persistent=False)

    def forward(self, dense: Tensor, ids: Tensor | Sequence[TableInput]) -> Tensor:
        """Logits float32 [B] of dense features [B, n] (already transformed) and ids int64 [B, T], or bags per table."""
        return self.interact(dense, self.embed(ids))

    def embed(self, ids: Tensor | Sequence[TableInput]) -> list[Tensor]:
        """The embedding stage: one [B, dim] per table, of ids [B, T] or bags per table."""
        count = ids.shape[1] if isinstance(ids, Tensor) else len(ids)
        if count != len(self.tables):
            raise ModelError(f"the batch has ids for {count} tables, the model has {len(self.tables)}.")
        if not isinstance(ids, Tensor):
            bags = [(bag[0], bag[1], bag[2] if len(bag) > 2 else None) for bag in ids]
            return [table(*bag) for table, bag in zip(self.tables, bags, strict=True)]
        offsets = torch.arange(ids.shape[0], device=ids.device)
        columns = ids.t().contiguous()
        return [table(column, offsets, None) for table, column in zip(self.tables, columns, strict=True)]

    def interact(self, dense: Tensor, vectors: Sequence[Tensor] | Tensor) -> Tensor:
        """Everything after the embedding stage: logits [B] of dense features [B, n] and the tables' vectors.

        `vectors` is one [B, dim] per table, or [B, T, dim] in one.
        """
        hidden = self.bottom(dense)
        parts = vectors.unbind(1) if isinstance(vectors, Tensor) else vectors
        if self.interaction == "cat":
            joined = torch.cat([hidden, *parts], dim=1)
        else:
            stacked = torch.stack([hidden, *parts], dim=1)
            products = torch.bmm(stacked, stacked.transpose(1, 2)).flatten(1)
            joined = torch.cat([hidden, products.index_select(1, self.pair_index)], dim=1)
        logits: Tensor = self.top(joined)
        return logits.flatten()


def pair_index(vectors: int, *, lower: bool, itself: bool) -> Tensor:
    """Places of the pairs in a flattened [vectors, vectors] product, int64, row by row of the triangle.

    Lower: (1,0), (2,0), (2,1), ...; upper: (0,1), (0,2), ...; with `itself` the diagonal belongs to the triangle.
    """
    if lower:
        places = torch.tril_indices(vectors, vectors, offset=0 if itself else -1)
    else:
        places = torch.triu_indices(vectors, vectors, offset=0 if itself else 1)
    return places[0] * vectors + places[1]


def build_mlp(widths: Sequence[int], *, last_relu: bool) -> nn.Sequential:
    """Linear layers of these widths with a ReLU after each, the last one's on request."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*(layers if last_relu else layers[:-1]))


def _read_widths(architecture: Mapping[str, object], part: str) -> list[int]:
    widths = architecture.get(part)
    if not isinstance(widths, Sequence) or len(widths) < 2 or not all(type(width) is int for width in widths):
        raise ModelError(f"architecture > {part}: expected a list of two or more layer widths, found {widths!r}.")
    return list(widths)


def _check_architecture(
    architecture: Mapping[str, object], table_count: int, bottom: Sequence[int], top: Sequence[int]
) -> None:
    """ModelError where tables, widths, interaction and order of pairs do not make one network."""
    shapes, interaction, pairs = architecture.get("tables"), architecture.get("interaction"), architecture.get("pairs")
    if not isinstance(shapes, Sequence) or len(shapes) != table_count:
        raise ModelError(f"architecture > tables: does not list [rows, dim] of the {table_count} tables.")
    if interaction not in ("dot", "cat") or pairs not in ("lower", "upper"):
        raise ModelError(f"architecture: interaction {interaction!r} with pairs {pairs!r} is not known.")
    dims = [int(shape[1]) for shape in shapes]
    if interaction == "cat":
        expected = bottom[-1] + sum(dims)
    elif set(dims) - {bottom[-1]}:
        raise ModelError(f"architecture: a dot interaction needs tables {bottom[-1]} wide, found {sorted(set(dims))}.")
    else:
        vectors = table_count + 1
        expected = bottom[-1] + vectors * (vectors + (1 if architecture.get("self_interaction") else -1)) // 2
    if top[0] != expected or top[-1] != 1:
        raise ModelError(f"architecture > top: expected widths from {expected} to 1, found {list(top)}.")
