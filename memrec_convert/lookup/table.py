"""A table in its new representation, as an nn.Module whose buffers are exactly the tensors of its spec."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from memrec_convert.encoding.bits import read_codes
from memrec_convert.encoding.codecs import CODECS
from memrec_convert.encoding.description import describe_form
from memrec_convert.encoding.index import find_places, list_ids
from memrec_convert.encoding.spec import HashSpec, LevelSpec, TableSpec, TensorShapes
from memrec_convert.kernels.reference import scale_and_centre, sum_hashed, sum_tokens
from memrec_convert.lookup.kernel_tables import KernelTables, TensorHolder, kernel_can_read
from memrec_convert.lookup.tracking import Changes, TrackedBuffers

_DESCRIBED = frozenset({"name", "oov", "padding_idx", "mode", "include_last_offset"})


class HashGroup(TrackedBuffers):
    """Token table M and weight table W shared by the hashed ids of all tables of one dim."""

    def __init__(self, spec: HashSpec) -> None:
        super().__init__()
        self.spec = spec
        register_buffers(self, spec.tensors())

    def encode(self, ids: Tensor, seed: int) -> Tensor:
        """alpha * sum of the hashed tokens of ids (int64 [n]), float32 [n, dim]."""
        weights = self.get_buffer("weights") if self.spec.k_weights else None
        return sum_hashed(
            ids,
            seed=seed,
            tokens=self.get_buffer("tokens"),
            scale=self.get_buffer("scale"),
            weights=weights,
            k=self.spec.k,
            k_weights=self.spec.k_weights,
        )


class CompressedTable(TrackedBuffers):
    """Rows of one table, decoded on demand. `lookup` is the reference; the kernel and pooling are the subclasses' part.

    oov says what happens to an id outside [0, rows): one of `choices.Oov`. padding_idx names a row that reads as zero.
    """

    decisive = frozenset({"decoder", "oov", "padding_idx", "mode", "group"})
    _kernel: tuple[int, KernelTables | None] = (-1, None)
    _uses: tuple[int, dict[Any, Any]] = (-1, {})
    """Of a generation: modules over the same buffers that pool in another way."""
    _expanded: tuple[int, TensorHolder | None] = (-1, None)
    """Of a generation: what the kernel reads in place of the buffers."""

    def __init__(
        self,
        spec: TableSpec,
        *,
        name: str = "",
        oov: str = "error",
        padding_idx: int | None = None,
        group: HashGroup | None = None,
    ) -> None:
        super().__init__()
        self.spec, self.name, self.oov, self.padding_idx = spec, name, oov, padding_idx
        register_buffers(self, spec.tensors())
        self.group = group
        self.decoder: Callable[[Tensor], Tensor] | None = None
        """Stands in for the reference while codebooks are trained."""
        self.description = ""
        """All that it takes to build an empty module of this kind, as JSON; for the operator."""

    @property
    def generation(self) -> int:
        """Rises whenever the kernel's view of this table goes out of date."""
        own = self._buffers.latest
        return own if self.group is None else max(own, self.group.generation)

    def __setattr__(self, name: str, value: Any) -> None:  # noqa: ANN401 - nn.Module's own signature
        """As nn.Module's; the description keeps up with what it describes."""
        super().__setattr__(name, value)
        if name in _DESCRIBED and self.__dict__.get("description"):
            self.describe()

    def __getstate__(self) -> dict[str, Any]:
        """What is copied and stored: all but the kernel's view and other uses, which a copy makes for itself."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_kernel", "_uses", "_expanded")}

    def describe(self) -> None:
        """Sets `description`, where the kind of module has one."""

    def kernel(self) -> KernelTables | None:
        """The table by itself, ready for the C++ kernel; None where lookups take the reference."""
        generation = self.generation
        if self._kernel[0] != generation:
            self._kernel = (generation, KernelTables([self], [0]) if kernel_can_read(self) else None)
        return self._kernel[1]

    def show_expanded(self, rows: TensorHolder) -> None:
        """Lets the kernel read these decoded rows from now on, until a tensor or setting of the table is replaced."""
        self._buffers.latest = Changes.count()
        self._expanded = (self.generation, rows)

    @property
    def shown(self) -> TensorHolder:
        """What the kernel reads: the table itself, or its decoded rows."""
        generation, rows = self._expanded
        return rows if rows is not None and generation == self.generation else self

    def extra_repr(self) -> str:
        """One line for print(model)."""
        return f"{self.spec.rows} x {self.spec.dim}, {describe_form(self.spec)}"

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes over the tensors of the spec, by name; their shapes and dtypes must be the spec's."""
        for name, tensor in tensors.items():
            buffer = self.get_buffer(name)
            if buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
                raise ValueError(f"{name}: {tensor.dtype} {list(tensor.shape)} for {buffer.dtype} {list(buffer.shape)}")
            setattr(self, name, tensor)

    def lookup(self, ids: Tensor) -> Tensor:
        """The rows of ids (int64 or int32 [n]) as float32 [n, dim]; IndexError for ids outside where oov is "error"."""
        self.check_dtype(ids)
        ids = ids.to(torch.int64)
        outside = self._find_outside(ids)
        if outside is not None:
            ids = self._bring_inside(ids, outside)
        rows = self._decode(ids) if self.decoder is None else self.decoder(ids)
        if outside is not None and self.oov == "zero":
            rows = rows.masked_fill(outside.unsqueeze(1), 0.0)
        return rows

    def read_rows(self, ids: Tensor) -> Tensor:
        """As `lookup`, by the kernel where it knows the table: the same bits, many times as fast."""
        kernel = self.kernel() if self.padding_idx is None and ids.is_cpu else None
        return self.lookup(ids) if kernel is None else kernel.look_up_grid(ids.reshape(-1, 1))

    def form_names(self) -> tuple[str, ...]:
        """The forms that ids of this table take: that of the base first, then one per level."""
        spec = self.spec
        if spec.form == "kept":
            return ("kept",)
        base = "hashed" if spec.hashing is not None else f"code({spec.base_depth})" if spec.base_depth else "mean"
        return (base, *("row" if level.kind == "rows" else f"code({level.depth})" for level in spec.levels))

    def form_of(self, ids: Tensor) -> Tensor:
        """Which of `form_names` each id (int64 [n], inside the table) takes, int8 [n]."""
        form = torch.zeros(len(ids), dtype=torch.int8)
        for number, places in enumerate(self.locate(ids)):
            form[places >= 0] = number + 1
        return form

    def forms_of_rows(self) -> Tensor:
        """`form_of` all ids, int8 [rows]: cheaper than asking for most of them."""
        form = torch.zeros(self.spec.rows, dtype=torch.int8)
        for number, level in enumerate(self.spec.levels):
            form[list_ids(level.index, self.get_buffer(f"level{number}_index"))] = number + 1
        return form

    def locate(self, ids: Tensor) -> list[Tensor]:
        """Per level the place of each id (int64 [n]), -1 where it is not in that level."""
        return [
            find_places(level.index, self.get_buffer(f"level{number}_index"), ids)
            for number, level in enumerate(self.spec.levels)
        ]

    def read_entries(self, ids: Tensor, first: int, last: int, level: tuple[int, Tensor] | None = None) -> list[Tensor]:
        """Entry numbers in the joint codebook of stages first..last-1: from the base code of `ids`, or from a level.

        level is (number of the level, places in it): its codes begin behind the base's stages.
        """
        spec, entries = self.spec, []
        if level is None:
            packed, owners, entry_bits, position = self.get_buffer("base"), ids, spec.base_bits(), 0
        else:
            number, owners = level
            packed, entry_bits = self.get_buffer(f"level{number}_codes"), spec.level_bits(spec.levels[number])
            position = -spec.base_bits()
        for stage in range(last):
            bits = spec.stage_bits[stage]
            if stage >= first:
                code = read_codes(packed, owners, entry_bits=entry_bits, first_bit=position, bits=bits)
                entries.append(code + spec.first_entries[stage])
            position += bits
        return entries

    def _decode(self, ids: Tensor) -> Tensor:
        spec = self.spec
        if spec.form == "kept":
            return CODECS[spec.codec].decode(dict(self.named_buffers(recurse=False)), ids, spec.dim)
        frame = self.get_buffer("frame")
        base_sum: Tensor | None = None
        if spec.base_depth:
            entries = self.read_entries(ids, 0, spec.base_depth)
            base_sum = sum_tokens(self.get_buffer("codebook"), entries, (0, *spec.shifts[: spec.base_depth]), None)
            rows = scale_and_centre(base_sum, frame, spec.shifts[spec.base_depth - 1])
        elif self.group is not None:
            rows = self.group.encode(ids, spec.hash_seed) + frame[1:]
        else:
            rows = frame[1:].expand(len(ids), -1).clone()
        for number, (level, places) in enumerate(zip(spec.levels, self.locate(ids), strict=True)):
            member = (places >= 0).nonzero().squeeze(1)
            if len(member):
                carried = None if base_sum is None else base_sum[member]
                rows[member] = self._decode_level(number, level, places[member], carried)
        return rows

    def _decode_level(self, number: int, level: LevelSpec, places: Tensor, carried: Tensor | None) -> Tensor:
        spec = self.spec
        if level.kind == "rows":
            prefix = f"level{number}_"
            parts = {name: self.get_buffer(prefix + name) for name in CODECS[level.codec].parts(0, spec.dim)}
            return CODECS[level.codec].decode(parts, places, spec.dim)
        entries = self.read_entries(places, spec.base_depth, level.depth, (number, places))
        before = spec.shifts[spec.base_depth - 1] if spec.base_depth else 0
        shifts = (before, *spec.shifts[spec.base_depth : level.depth])
        acc = sum_tokens(self.get_buffer("codebook"), entries, shifts, carried)
        return scale_and_centre(acc, self.get_buffer("frame"), spec.shifts[level.depth - 1])

    def _find_outside(self, ids: Tensor) -> Tensor | None:
        if ids.numel() == 0:
            return None
        low, high = torch.aminmax(ids)
        if int(low) >= 0 and int(high) < self.spec.rows:
            return None
        return (ids < 0) | (ids >= self.spec.rows)

    def check_dtype(self, ids: Tensor) -> None:
        """TypeError unless ids are int64 or int32."""
        if ids.dtype not in (torch.int64, torch.int32):
            raise TypeError(f"table {self.name or '?'}: ids are {ids.dtype}, expected int64 or int32")

    def outside_error(self, ids: Tensor) -> IndexError:
        """The error for ids of which some are outside the table."""
        outside = ids[(ids < 0) | (ids >= self.spec.rows)]
        first = f", the first is {int(outside[0])}" if len(outside) else ""
        return IndexError(f"table {self.name or '?'} has {self.spec.rows} rows: {len(outside)} ids are outside{first}")

    def _bring_inside(self, ids: Tensor, outside: Tensor) -> Tensor:
        if self.oov == "error":
            raise self.outside_error(ids)
        return torch.remainder(ids, self.spec.rows) if self.oov == "hash" else ids.clamp(0, self.spec.rows - 1)


def register_buffers(module: nn.Module, shapes: TensorShapes) -> None:
    """Empty buffers of these names, dtypes and shapes, zero until they are filled or loaded."""
    for name, (dtype, shape) in shapes.items():
        module.register_buffer(name, torch.zeros(shape, dtype=dtype))
