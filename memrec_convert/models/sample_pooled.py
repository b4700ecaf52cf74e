"""MEM-REC as its authors released it: one token table and one weight table for all features, pooled over the sample.

    V = sum over features and hashes of M[token],  alpha = sum over features and hashes of W[weight],  z = alpha * V

One vector stands for the whole sample; the top MLP reads the bottom's output and z, and no pairs interact.
"MEM-REC: Memory Efficient Recommendation System using Alternative Representation", https://arxiv.org/abs/2305.07205
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from memrec_convert.errors import ModelError
from memrec_convert.kernels.hashing import hash_ids, token_numbers
from memrec_convert.models.network import TableInput, build_mlp, check_top, read_table_inputs, read_widths

KEY_STRIDE = 430_000_000
"""Feature j's id x has the key j * 430,000,000 + x: no feature of theirs has more ids."""
MOST_ENTRIES = (1 << 31) - 1
MOST_HASHES = 64
INITS = ("balanced", "released")


@dataclass(frozen=True)
class PooledSizes:
    """Sizes by the names of the authors' README: `D` tokens of width `l`, `K` per id; `dw` weights, `kw` per id."""

    D: int
    l: int  # noqa: E741 - their name for it
    K: int = 1
    dw: int = 0
    kw: int = 1

    def __post_init__(self) -> None:
        if not self.dw:
            object.__setattr__(self, "dw", self.D if self.kw else 0)
        for name, least, most in (
            ("D", 1, MOST_ENTRIES),
            ("l", 1, 1 << 20),
            ("K", 1, MOST_HASHES),
            ("dw", 0, MOST_ENTRIES),
            ("kw", 0, MOST_HASHES),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
                raise ModelError(f"the sample-pooled model's {name} is {value!r}; expected {least} to {most}.")
        if self.D < self.K or self.dw < self.kw:
            small, large = ("D", "K") if self.D < self.K else ("dw", "kw")
            raise ModelError(
                f"the sample-pooled model's {small} is {getattr(self, small)}, smaller than {large} = "
                f"{getattr(self, large)}; expected at least as many entries as an id sums."
            )


class SamplePooled(nn.Module):
    """The sample-pooled model after an architecture; the output is the logit.

    The architecture holds the sizes under their names, `bottom` and `top` widths (the top's first is the bottom's last
    plus l), and `tables`, which are the original's [rows, dim]: none of them is left. ModelError where it makes none.
    """

    def __init__(self, architecture: Mapping[str, object], tables: Iterable[nn.Module] = ()) -> None:
        super().__init__()
        self.tables = nn.ModuleList(tables)
        if len(self.tables):
            raise ModelError(f"the sample-pooled model has no tables of rows, and was given {len(self.tables)}.")
        bottom, top = read_widths(architecture, "bottom", least=1, narrowest=0), read_widths(architecture, "top")
        self.sizes = read_sizes(architecture)
        self.inputs = count_inputs(architecture)
        check_top(top, bottom[-1] + self.sizes.l)
        self.bottom = build_mlp(bottom, last_relu=True)
        self.top = build_mlp(top, last_relu=False)
        self.tokens = nn.Parameter(torch.empty(self.sizes.D, self.sizes.l))
        self.weights = nn.Parameter(torch.empty(self.sizes.dw))
        self.reset_tables()

    @torch.no_grad()
    def reset_tables(self, init: str = "balanced") -> None:
        """Draws M and W anew.

        released   both from U(-1/sqrt(D), 1/sqrt(D)), as the authors do: z is then about 1e-4, and so is each
                   gradient, for that of M is in proportion to alpha and that of W to V
        balanced   W constant, so that alpha = 1, and M such that the entries of V have unit variance
        """
        if init not in INITS:
            raise ModelError(f"the initial scale {init!r} is not known; known: {', '.join(INITS)}.")
        if init == "released":
            bound = self.sizes.D**-0.5
            self.tokens.uniform_(-bound, bound)
            self.weights.uniform_(-bound, bound)
        else:
            self.tokens.normal_(std=(self.inputs * self.sizes.K) ** -0.5)
            self.weights.fill_(1.0 / (self.inputs * max(1, self.sizes.kw)))

    def forward(self, dense: Tensor, ids: Tensor | Sequence[TableInput]) -> Tensor:
        """Logits float32 [B] of dense features [B, n] (already transformed) and ids int64 [B, inputs], or bags."""
        pooled = self.pool(ids)
        logits: Tensor = self.top(torch.cat([self.bottom(dense), pooled], dim=1))
        return logits.flatten()

    def pool(self, ids: Tensor | Sequence[TableInput]) -> Tensor:
        """z float32 [B, l]: one vector per sample."""
        count = ids.shape[1] if isinstance(ids, Tensor) else len(ids)
        if count != self.inputs:
            raise ModelError(f"the batch has ids for {count} inputs, the model has {self.inputs}.")
        if isinstance(ids, Tensor):
            tokens, weights = self.locate(ids + KEY_STRIDE * torch.arange(count, device=ids.device))
            vectors = functional.embedding_bag(tokens.flatten(1), self.tokens, mode="sum")
            return vectors * self.weights[weights].sum(dim=(1, 2)).unsqueeze(1) if self.sizes.kw else vectors
        parts = [self._pool_bags(number, bag) for number, bag in enumerate(ids)]
        summed = torch.stack([part for part, _ in parts]).sum(dim=0)
        return summed * torch.stack([alpha for _, alpha in parts]).sum(dim=0).unsqueeze(1) if self.sizes.kw else summed

    def _pool_bags(self, number: int, bag: TableInput) -> tuple[Tensor, Tensor]:
        """One input's share of V [B, l] and of alpha [B]; a lookup's own weight scales its tokens alone."""
        ids, offsets = bag[0], bag[1]
        own = bag[2] if len(bag) > 2 else None
        tokens, weights = self.locate(ids + KEY_STRIDE * number)
        scales = None if own is None else own.repeat_interleave(self.sizes.K)
        vectors = functional.embedding_bag(
            tokens.flatten(), self.tokens, offsets * self.sizes.K, mode="sum", per_sample_weights=scales
        )
        if not self.sizes.kw:
            return vectors, vectors.new_zeros(offsets.shape[0])
        # len() and repeat_interleave would fix the sizes of an exported program
        sample = torch.searchsorted(offsets, torch.arange(ids.shape[0], device=ids.device), right=True) - 1
        alpha = vectors.new_zeros(offsets.shape[0]).index_add(0, sample, self.weights[weights].sum(dim=1))
        return vectors, alpha

    def locate(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Token numbers int64 [..., K] and weight numbers int64 [..., kw] of keys: hash j has the seed j."""
        hashes = [hash_ids(keys, seed) for seed in range(max(self.sizes.K, self.sizes.kw))]
        tokens = [token_numbers(*one, k=1, rows=self.sizes.D).squeeze(-1) for one in hashes[: self.sizes.K]]
        # The lower half of the same hash; a product maps it onto the table, where the authors take the remainder.
        weights = [((one[0] & 0xFFFFFFFF) * self.sizes.dw) >> 32 for one in hashes[: self.sizes.kw]]
        found = torch.stack(tokens, dim=-1)
        return found, torch.stack(weights, dim=-1) if weights else found[..., :0]


def read_sizes(architecture: Mapping[str, object]) -> PooledSizes:
    """D, K, dw, kw and l of an architecture; ModelError where one is missing or makes no model."""
    values = {name: architecture.get(name) for name in ("D", "l", "K", "dw", "kw")}
    for name, value in values.items():
        if type(value) is not int:
            raise ModelError(f"architecture > {name}: expected a whole number, found {value!r}.")
    return PooledSizes(**values)  # type: ignore[arg-type]


def count_inputs(architecture: Mapping[str, object]) -> int:
    """How many ids a sample has; ModelError where a feature has more ids than keys are apart."""
    tables = architecture.get("tables")
    if not isinstance(tables, Sequence) or not tables:
        raise ModelError("architecture > tables: expected [rows, dim] of each table of the original.")
    if any(int(shape[0]) > KEY_STRIDE for shape in tables):
        raise ModelError(f"a table has more than {KEY_STRIDE} rows: the released keys would run into the next feature.")
    return max(read_table_inputs(architecture, len(tables))) + 1


def pooled_architecture(
    original: Mapping[str, object], sizes: PooledSizes, *, input_names: Sequence[str]
) -> dict[str, object]:
    """The architecture that stands in for the original's: its bottom, and its top's hidden layers over bottom and z."""
    bottom, top = read_widths(original, "bottom", least=1, narrowest=0), read_widths(original, "top")
    kept = {
        name: original[name] for name in ("tables", "table_inputs", "dense_transform") if original.get(name) is not None
    }
    return kept | {
        "name": "sample-pooled",
        "interaction": "none",
        "input_names": list(input_names),
        "bottom": bottom,
        "top": [bottom[-1] + sizes.l, *top[1:]],
        "D": sizes.D,
        "K": sizes.K,
        "dw": sizes.dw,
        "kw": sizes.kw,
        "l": sizes.l,
    }
