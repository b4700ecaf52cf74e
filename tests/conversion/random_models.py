"""Models as people build them, drawn at random: what their tables do, share and are wrapped in; and calls of them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import prune

ROWS, DIM = 60, 4
DTYPES = {"fp32": torch.float32, "fp64": torch.float64, "bf16": torch.bfloat16, "fp16": torch.float16}
TOLERANCES = {"fp32": 1e-5, "fp64": 1e-5, "bf16": 0.06, "fp16": 0.01}


class Scaled(nn.Embedding):
    """Rows times eight."""

    def forward(self, ids):
        """Eight times the rows."""
        return super().forward(ids) * 8.0


class Normalised(nn.Embedding):
    """Rows of length one."""

    def forward(self, input):
        """Rows of length one."""
        return functional.normalize(super().forward(input).float(), dim=-1).to(self.weight.dtype)


class Folded(nn.Embedding):
    """Any id, folded into the table."""

    def forward(self, ids):
        """Rows of folded ids."""
        return functional.embedding(ids * 7 % self.num_embeddings, self.weight, self.padding_idx)


class Direct(nn.Embedding):
    """Reads its weight itself."""

    def forward(self, ids):
        """Rows and their mean."""
        return self.weight[ids.long()] + self.weight.mean(0)


class Projected(nn.EmbeddingBag):
    """A bag with a layer behind it."""

    def __init__(self, *args, **choices):
        super().__init__(*args, **choices)
        self.after = nn.Linear(DIM, DIM)

    def forward(self, input, offsets=None, per_sample_weights=None):
        """Pooled rows through the layer."""
        return self.after(super().forward(input, offsets, per_sample_weights))


EMBEDDINGS = (nn.Embedding, nn.Embedding, Scaled, Normalised, Folded, Direct)
BAGS = (nn.EmbeddingBag, nn.EmbeddingBag, Projected)
HOOKS = ("none", "none", "after", "before", "keywords")
CALLS = ("positional", "keyword", "function", "int32", "offsets", "ended", "weighted")
WRAPPERS = ("none", "none", "data parallel", "averaged", "compiled", "twice")
TIES = ("none", "none", "output", "product", "one parameter", "one memory", "slice")
PLACES = ("attribute", "list", "dict", "nested")
ODDITIES = ("none",) * 45 + ("parametrised", "pruned", "max", "no copy", "norm")
"""The last are refused, by a reason of the closed list."""


@dataclass(frozen=True)
class TableChoice:
    """One table and how it is called."""

    pools: bool
    kind: int
    mode: str
    padding: bool
    max_norm: bool
    hook: str
    call: str


@dataclass(frozen=True)
class ModelChoice:
    """One model."""

    tables: tuple[TableChoice, ...]
    dtype: str
    wrapper: str
    tie: str
    place: str
    oddity: str
    training: bool
    shape: int
    seed: int


TABLES = st.builds(
    TableChoice,
    st.booleans(),
    st.integers(0, 5),
    st.sampled_from(("sum", "mean")),
    st.booleans(),
    st.sampled_from((False, False, True)),
    st.sampled_from(HOOKS),
    st.sampled_from(CALLS),
)
MODELS = st.builds(
    ModelChoice,
    st.lists(TABLES, min_size=1, max_size=3).map(tuple),
    st.sampled_from(tuple(DTYPES)),
    st.sampled_from(WRAPPERS),
    st.sampled_from(TIES),
    st.sampled_from(PLACES),
    st.sampled_from(ODDITIES),
    st.booleans(),
    st.integers(1, 3),
    st.integers(0, 99),
)


def make_table(choice: TableChoice) -> nn.Module:
    """The module of a table, its hooks set."""
    options = {"padding_idx": 2 if choice.padding else None, "max_norm": 1.6 if choice.max_norm else None}
    if choice.pools:
        ended = choice.call == "ended"
        kind = BAGS[choice.kind % len(BAGS)]
        mode = "sum" if choice.call == "weighted" else choice.mode
        module = kind(ROWS, DIM, mode=mode, include_last_offset=ended, **options)
    else:
        module = EMBEDDINGS[choice.kind](ROWS, DIM, **options)
    if choice.hook == "after":
        module.register_forward_hook(lambda _module, _inputs, output: output * 3)
    elif choice.hook == "before":
        module.register_forward_pre_hook(lambda _module, args: ((args[0] + 1) % ROWS, *args[1:]) if args else None)
    elif choice.hook == "keywords":
        module.register_forward_hook(lambda _m, _a, kwargs, out: out + len(kwargs), with_kwargs=True)
    return module


@dataclass
class Call:
    """What a table is called with."""

    ids: Tensor
    offsets: Tensor | None = None
    weights: Tensor | None = field(default=None)


class Drawn(nn.Module):
    """The model of a choice: pooled or summed rows of all tables, one layer, and what is tied to the first table."""

    def __init__(self, choice: ModelChoice) -> None:
        super().__init__()
        torch.manual_seed(choice.seed)
        self.choice = choice
        tie = choice.tie if choice.oddity not in ("parametrised", "pruned") else "none"  # what is computed has no ties
        made = [make_table(one) for one in choice.tables]
        with torch.no_grad():
            for table in made:
                table.weight.copy_(functional.normalize(torch.randn(ROWS, DIM)) * (0.5 + torch.rand(ROWS, 1)))
                if table.padding_idx is not None:
                    table.weight[table.padding_idx] = 0
        self.extra = None
        if tie in ("one parameter", "one memory", "slice"):
            rows = made[0].weight
            self.extra = nn.Embedding(ROWS // 2 if tie == "slice" else ROWS, DIM)
            self.extra.weight = (
                rows if tie == "one parameter" else nn.Parameter(rows.detach()[: len(self.extra.weight)])
            )
        if choice.oddity == "parametrised":
            torch.nn.utils.parametrizations.weight_norm(made[-1])
        elif choice.oddity == "pruned":
            prune.random_unstructured(made[-1], "weight", 0.3)
        elif choice.oddity == "max" and isinstance(made[-1], nn.EmbeddingBag) and choice.tables[-1].call != "weighted":
            made[-1].mode = "max"
        elif choice.oddity == "norm":
            made[-1].max_norm = 0.4
        elif choice.oddity == "no copy":
            self.stream = (number for number in range(3))
        self.place(made)
        self.head = nn.Linear(DIM * len(made), DIM)
        self.out = None
        if tie == "output":
            self.out = nn.Linear(DIM, ROWS)
            self.out.weight = made[0].weight
        self.to(DTYPES[choice.dtype])

    def place(self, made: list[nn.Module]) -> None:
        """Puts the tables where the choice says."""
        where = self.choice.place
        if where == "list":
            self.tables = nn.ModuleList(made)
        elif where == "dict":
            self.tables = nn.ModuleDict({f"t{number}": one for number, one in enumerate(made)})
        elif where == "nested":
            self.tables = nn.ModuleList(nn.Sequential(nn.ModuleDict({"inner": one})) for one in made)
        else:
            for number, one in enumerate(made):
                setattr(self, f"table{number}", one)

    def all_tables(self) -> list[nn.Module]:
        """The tables in order."""
        where = self.choice.place
        if where == "attribute":
            return [getattr(self, f"table{number}") for number in range(len(self.choice.tables))]
        if where == "nested":
            return [one[0]["inner"] for one in self.tables]
        return list(self.tables.values() if where == "dict" else self.tables)

    def forward(self, *calls: Call) -> Tensor:
        """Numbers [B, DIM], or [B] where something is tied."""
        tables = self.all_tables()
        parts = [
            look_up(table, choice, call) for table, choice, call in zip(tables, self.choice.tables, calls, strict=True)
        ]
        hidden = self.head(torch.cat(parts, 1).to(self.head.weight.dtype))
        if self.extra is not None:
            hidden = hidden + self.extra(calls[0].ids.reshape(len(hidden), -1)[:, 0].long() % len(self.extra.weight))
        if self.out is not None:
            return self.out(hidden).amax(1)
        if self.choice.tie == "product" and hasattr(tables[0], "weight"):
            return (hidden @ tables[0].weight.T).amax(1) + hidden @ tables[0].weight[3]
        return hidden


def look_up(table: nn.Module, choice: TableChoice, call: Call) -> Tensor:
    """One vector per sample, [B, DIM]."""
    if not choice.pools:
        if choice.call == "function" and type(table).__name__ in ("Embedding", "DirectEmbedding"):
            rows = functional.embedding(call.ids, table.weight, table.padding_idx, table.max_norm)
        elif choice.call == "keyword" and not isinstance(table, Scaled | Folded | Direct):
            rows = table(input=call.ids)
        else:
            rows = table(call.ids)
        return rows if rows.dim() == 2 else rows.sum(1)
    if choice.call == "function":
        mode, padding, norm = table.mode, table.padding_idx, table.max_norm
        return functional.embedding_bag(call.ids, table.weight, call.offsets, norm, mode=mode, padding_idx=padding)
    if choice.call == "keyword":
        return table(input=call.ids, offsets=call.offsets)
    return table(call.ids, call.offsets, call.weights)


def make_calls(choice: ModelChoice, seed: int, samples: int = 6) -> list[Call]:
    """Random input of every table."""
    draw = torch.Generator().manual_seed(seed)
    calls = []
    for one in choice.tables:
        length = choice.shape
        dtype = torch.int32 if one.call == "int32" else torch.int64
        ids = torch.randint(0, ROWS, (samples, length), generator=draw).to(dtype)
        if one.pools and one.call in ("offsets", "ended", "weighted", "keyword"):
            cuts = torch.randint(0, samples * length + 1, (samples - 1,), generator=draw).sort().values.to(dtype)
            offsets = torch.cat([cuts.new_zeros(1), cuts])
            if one.call == "ended":
                offsets = torch.cat([offsets, offsets.new_tensor([samples * length])])
            weights = torch.rand(samples * length, generator=draw).to(DTYPES[choice.dtype])
            calls.append(Call(ids.flatten(), offsets, weights if one.call == "weighted" else None))
        else:
            calls.append(Call(ids[:, 0] if length == 1 and not one.pools else ids))
    return calls


def wrap(model: nn.Module, wrapper: str) -> nn.Module:
    """The model in torch's own wrappers."""
    can_be_averaged = model.choice.oddity not in ("pruned", "no copy")
    if wrapper in ("data parallel", "twice"):
        model = nn.DataParallel(model)
    if wrapper in ("averaged", "twice") and can_be_averaged:  # torch copies the model then
        model = torch.optim.swa_utils.AveragedModel(model)
    return torch.compile(model, backend="eager") if wrapper == "compiled" else model
