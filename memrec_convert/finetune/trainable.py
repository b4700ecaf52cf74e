"""Tables whose codebooks can be trained while their codes stay, with the rounding in the loop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from memrec_convert.encoding.bits import read_fields
from memrec_convert.encoding.codecs import CODECS
from memrec_convert.encoding.index import list_ids
from memrec_convert.finetune.adam import Adam, Optimizer
from memrec_convert.finetune.row_adam import RowAdam
from memrec_convert.finetune.row_map import RowMap
from memrec_convert.finetune.stored_rows import MOST_TRAINED, TrainableKept, TrainableRows, spread_of
from memrec_convert.kernels.hashing import hash_ids, token_numbers, weight_positions
from memrec_convert.lookup import CompressedTable, HashGroup, find_tables

ROWS_FACTOR = 4.0
"""Of the rate, for rows: few examples of a batch move one."""

MAP_FACTOR = 3.0
"""Of the rate, for the maps that all rows of a table go through."""

ROWS_EPSILON, SHARED_EPSILON = 4e-3, 0.1
"""Of Adam, in units of one example's gradient, for rows and for what all ids share, codebooks and centres.

With next to none, a row that is seen once moves about as far as one that is seen in every step.
"""

MOST_LISTED = 1 << 23
"""Codes of one table that are unpacked before training: of more, each batch unpacks its own."""


@dataclass(frozen=True)
class Gait:
    """How rows of one table move that are coded to several depths.

    paces    how fast: float32 [rows, 1] of a kept table, [levels, 1] of another
    mapped   which of them go through one map: bool [rows] or [levels]
    """

    paces: Tensor
    mapped: Tensor


NO_GAITS: Mapping[nn.Module, Gait] = MappingProxyType({})


class TrainableGroup(nn.Module):
    """M and W of a hashed group as float parameters, M in units of its own spread."""

    def __init__(self, group: HashGroup) -> None:
        super().__init__()
        self.held = [group]  # in a list: the group is not a part of this module
        tokens = group.get_buffer("tokens").to(torch.float32)
        self.fixed_point = group.spec.token_codec == "int8"
        self.unit = group.get_buffer("scale").clone() if self.fixed_point else torch.ones(1)
        self.spread = spread_of(tokens)
        self.tokens = nn.Parameter(tokens / self.spread)
        self.weights = nn.Parameter(group.get_buffer("weights").to(torch.float32)) if group.spec.k_weights else None

    def encode(self, ids: Tensor, seed: int) -> Tensor:
        """As HashGroup.encode, with gradients."""
        spec = self.held[0].spec
        h1, h2 = hash_ids(ids, seed)
        tokens = self._rounded()
        total = (
            functional.embedding_bag(token_numbers(h1, h2, k=spec.k, rows=spec.rows), tokens, mode="sum") * self.unit
        )
        if self.weights is None:
            return total
        alpha = self.weights[weight_positions(h1, h2, k=spec.k_weights, blocks=spec.blocks)].sum(dim=1)
        return total * alpha.unsqueeze(1)

    def _rounded(self) -> Tensor:
        tokens = self.tokens * self.spread
        return _round_through(tokens, 127) if self.fixed_point else tokens

    @torch.no_grad()
    def write_back(self) -> None:
        """Stores the trained numbers in the group's buffers."""
        group = self.held[0]
        group.get_buffer("tokens").copy_(self._rounded())
        if self.weights is not None:
            group.get_buffer("weights").copy_(self.weights)


class _Listed:
    """What a table knows of all its ids: per level their places, int32 [rows], and the entries of their tokens.

    tokens: int32 [rows, stages], the number behind the last entry where a row has no token; None without stages.
    """

    def __init__(self, table: CompressedTable) -> None:
        spec = table.spec
        members = [list_ids(one.index, table.get_buffer(f"level{n}_index")) for n, one in enumerate(spec.levels)]
        self.places = [torch.full((spec.rows,), -1, dtype=torch.int32) for _ in members]
        for place, ids in zip(self.places, members, strict=True):
            place[ids] = torch.arange(len(ids), dtype=torch.int32)
        self.tokens: Tensor | None = None
        if not spec.stages:
            return
        self.tokens = torch.full((spec.rows, len(spec.stages)), sum(spec.stages), dtype=torch.int32)
        if spec.base_depth:
            own = spec.stage_bits[: spec.base_depth]
            self.tokens[:, : spec.base_depth] = self._read(table, "base", spec.rows, spec.base_bits(), own, 0)
        for number, (level, ids) in enumerate(zip(spec.levels, members, strict=True)):
            if level.kind == "rows":
                self.tokens[ids] = sum(spec.stages)
            elif len(ids):
                own, bits = spec.stage_bits[spec.base_depth : level.depth], spec.level_bits(level)
                found = self._read(table, f"level{number}_codes", len(ids), bits, own, spec.base_depth)
                self.tokens[ids, spec.base_depth : level.depth] = found

    def _read(self, table: CompressedTable, name: str, count: int, width: int, bits: Sequence[int], at: int) -> Tensor:
        """The entries of packed codes, int32 [count, stages], of the stages from `at` on."""
        fields = read_fields(table.get_buffer(name).numpy(), np.arange(count), entry_bits=width, bits=bits)
        first = torch.tensor(table.spec.first_entries[at : at + len(bits)], dtype=torch.int32)
        return torch.from_numpy(fields.astype(np.int32)) + first

    def take(self, ids: Tensor) -> tuple[list[Tensor], Tensor | None]:
        """Places and tokens of some ids (int64 [n]), int64."""
        tokens = None if self.tokens is None else self.tokens[ids].to(torch.int64)
        return [one[ids].to(torch.int64) for one in self.places], tokens


class TrainableTable(nn.Module):
    """Codebook, centre and stored rows of one replaced table as float parameters; codes and index stay."""

    def __init__(self, table: CompressedTable, group: TrainableGroup | None, gait: Gait | None = None) -> None:
        super().__init__()
        self.held = [table]
        self.shared_group = [group] if group is not None else []
        spec = table.spec
        frame = table.get_buffer("frame")
        steps = [torch.full((size, 1), 2.0**-shift) for size, shift in zip(spec.stages, spec.shifts, strict=True)]
        self.steps = torch.cat(steps) * frame[0] if steps else torch.zeros(0, 1)
        values = table.get_buffer("codebook").to(torch.float32) * self.steps if steps else torch.zeros(0, spec.dim)
        self.spread = spread_of(values)
        self.codebook = nn.Parameter(values / self.spread)
        self.unit = self.spread if values.numel() else spread_of(frame[1:])
        self.centre = nn.Parameter(frame[1:] / self.unit)
        stored = [number for number, level in enumerate(spec.levels) if level.kind == "rows"]
        self.stored = nn.ModuleDict(
            {
                str(n): TrainableRows(
                    spec.levels[n].codec,
                    self._parts_of(n),
                    spec.dim,
                    mapped=gait is not None and bool(gait.mapped[n]),
                    pace=None if gait is None else gait.paces[n : n + 1],
                )
                for n in stored
                if self._is_small(n)
            }
        )
        few = spec.rows * max(len(spec.stages) + len(spec.levels), 1) <= MOST_LISTED
        self.listed = _Listed(table) if few else None

    def decode(self, ids: Tensor) -> Tensor:
        """Rows of ids (int64 [n]) as float32 [n, dim], with gradients."""
        spec = self.held[0].spec
        places, tokens = self._find(ids) if self.listed is None else self.listed.take(ids)
        rows = (self.centre * self.unit).expand(len(ids), -1)
        if tokens is not None:
            values = functional.pad(self._rounded() * self.steps, (0, 0, 0, 1))
            rows = rows + functional.embedding_bag(tokens, values, mode="sum")
        if self.shared_group:
            in_base = torch.stack([place < 0 for place in places]).all(dim=0) if places else torch.ones_like(ids) > 0
            rows = rows + self.shared_group[0].encode(ids, spec.hash_seed) * in_base.unsqueeze(1)
        for number, (level, place) in enumerate(zip(spec.levels, places, strict=True)):
            if level.kind != "rows":
                continue
            member = (place >= 0).nonzero().squeeze(1)
            if len(member):
                rows = rows.index_copy(0, member, self._look_up_stored(number, place[member]))
        return rows

    def _find(self, ids: Tensor) -> tuple[list[Tensor], Tensor | None]:
        """Per level the place of each id, -1 where it is not in it, and the entries of each id's tokens."""
        places = self.held[0].locate(ids)
        return places, self._gather_entries(ids, places)

    def _look_up_stored(self, number: int, places: Tensor) -> Tensor:
        trained = dict(self.stored.items()).get(str(number))
        if isinstance(trained, TrainableRows):
            return trained.look_up(places)
        spec = self.held[0].spec
        return CODECS[spec.levels[number].codec].decode(self._parts_of(number), places, spec.dim)

    def _parts_of(self, number: int) -> dict[str, Tensor]:
        """What the codec of a level of stored rows holds."""
        table, level = self.held[0], self.held[0].spec.levels[number]
        return {p: table.get_buffer(f"level{number}_{p}") for p in CODECS[level.codec].parts(0, table.spec.dim)}

    def _is_small(self, number: int) -> bool:
        return self.held[0].spec.levels[number].index.count * self.held[0].spec.dim <= MOST_TRAINED

    @torch.no_grad()
    def write_back(self) -> None:
        """Stores the trained numbers in the table's buffers, rounded as they were in training."""
        table = self.held[0]
        table.get_buffer("frame")[1:] = self.centre * self.unit
        if table.spec.stages:
            table.get_buffer("codebook").copy_(self._rounded())
        for number, rows in self.stored.items():
            assert isinstance(rows, TrainableRows)
            for name, tensor in rows.encode().items():
                table.get_buffer(f"level{number}_{name}").copy_(tensor)

    def _rounded(self) -> Tensor:
        return _round_through(self.codebook * self.spread / self.steps, 127)

    def _gather_entries(self, ids: Tensor, places: list[Tensor]) -> Tensor | None:
        table, spec = self.held[0], self.held[0].spec
        if not spec.stages:
            return None
        tokens = torch.full((len(ids), len(spec.stages)), sum(spec.stages), dtype=torch.int64)
        if spec.base_depth:
            tokens[:, : spec.base_depth] = torch.stack(table.read_entries(ids, 0, spec.base_depth), dim=1)
        for number, (level, place) in enumerate(zip(spec.levels, places, strict=True)):
            member = (place >= 0).nonzero().squeeze(1)
            if level.kind == "codes" and len(member):
                entries = table.read_entries(place[member], spec.base_depth, level.depth, (number, place[member]))
                tokens[member, spec.base_depth : level.depth] = torch.stack(entries, dim=1)
            elif level.kind == "rows":
                tokens[member] = sum(spec.stages)
        return tokens


Part = TrainableTable | TrainableKept | TrainableGroup


class CodesTrainee:
    """The numbers that a model's tables hold: codebooks, centres, hashed tokens and rows."""

    def __init__(self, parts: list[Part], workers: int = 1) -> None:
        self.parts, self.workers = parts, workers

    def make_optimizers(
        self, model: nn.Module, *, rate: float, dense_rate: float, train_dense: bool
    ) -> list[Optimizer]:
        """Adam; rows at a multiple of the rate, the dense part, of what requires gradients, at its own."""
        held = [module for part in self.parts for module in part.modules() if isinstance(module, TrainableRows)]
        rows = [module.rows for module in held if not module.is_sparse]
        sparse = [module.rows for module in held if module.is_sparse]
        of_rows = {id(module.rows) for module in held}
        shared = [
            parameter
            for part in self.parts
            if isinstance(part, TrainableTable)
            for parameter in part.parameters()
            if parameter.numel() and id(parameter) not in of_rows
        ]
        hashed = [
            parameter for part in self.parts if isinstance(part, TrainableGroup) for parameter in part.parameters()
        ]
        maps = [module.matrix for part in self.parts for module in part.modules() if isinstance(module, RowMap)]
        dense = [parameter for parameter in model.parameters() if parameter.requires_grad] if train_dense else []
        groups = [
            {"params": rows, "lr": rate * ROWS_FACTOR, "eps": ROWS_EPSILON},
            {"params": shared, "lr": rate, "eps": SHARED_EPSILON},
            {"params": maps, "lr": rate * MAP_FACTOR},
            {"params": hashed, "lr": rate},
            {"params": dense, "lr": dense_rate},
        ]
        groups = [group for group in groups if group["params"]]
        optimizers: list[Optimizer] = [Adam(groups, workers=self.workers)] if groups else []
        if sparse:
            own = {"params": sparse, "lr": rate * ROWS_FACTOR, "eps": ROWS_EPSILON}
            optimizers.append(RowAdam([own], workers=self.workers))
        return optimizers

    def write_back(self) -> None:
        """Stores the trained numbers in the tables' buffers."""
        for part in self.parts:
            part.write_back()


@contextmanager
def open_codes(
    model: nn.Module, *, gaits: Mapping[nn.Module, Gait] = NO_GAITS, workers: int = 1
) -> Iterator[CodesTrainee]:
    """The model's tables decode through float parameters while this is open; see `trainable_tables`."""
    with trainable_tables(model, gaits=gaits) as parts:
        yield CodesTrainee(parts, workers)


@contextmanager
def trainable_tables(model: nn.Module, *, gaits: Mapping[nn.Module, Gait] = NO_GAITS) -> Iterator[list[Part]]:
    """Lets the model's tables decode through float parameters; the parts hold them and write them back.

    Rows that are too many (MOST_TRAINED) stay as they are. The rows of a kept table go through a map, unless it has a
    gait of its own.
    """
    groups: dict[int, TrainableGroup] = {}
    tables: list[TrainableTable | TrainableKept] = []
    for module in find_tables(model):
        if module.spec.form == "kept":
            if module.spec.rows * module.spec.dim <= MOST_TRAINED:
                gait = gaits.get(module)
                pace, mapped = (None, True) if gait is None else (gait.paces, gait.mapped)
                tables.append(TrainableKept(module, mapped=mapped, pace=pace))
        else:
            group = module.group
            shared = None if group is None else groups.setdefault(id(group), TrainableGroup(group))
            tables.append(TrainableTable(module, shared, gaits.get(module)))
    try:
        for table in tables:
            table.held[0].decoder = table.decode
        yield [*tables, *groups.values()]
    finally:
        for table in tables:
            table.held[0].decoder = None


def _round_through(values: Tensor, largest: int) -> Tensor:
    """Rounds in the forward pass, and passes gradients straight through (Bengio et al., arXiv 1308.3432)."""
    return values + (values.round().clamp(-largest, largest) - values).detach()
