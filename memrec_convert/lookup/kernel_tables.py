"""Compressed tables as the C++ kernel sees them: addresses of their tensors, and one call for all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor

from memrec_convert.encoding.spec import LevelSpec, TableSpec
from memrec_convert.kernels.loading import load_kernel
from memrec_convert.lookup.key_lines import build_lines, choose_lines
from memrec_convert.lookup.memory import OUTPUTS, copy_side_by_side

MOST_STAGES = 32
MOST_DIM = 1 << 16
LINE_BYTES = 64
GAP_FLOATS = 80
"""Between the vectors of one table and the next, where each table's lie in one piece; the kernel's own number."""
LEAST_BYTES_BY_TABLE = 64 << 20
"""Outputs from this size on are written table by table: in order, instead of a few lines on every large page."""
STREAM_BYTES = 2 << 20
"""Outputs from this size on are written past the caches."""

_CODECS = {"": 0, "fp32": 0, "bf16": 1, "fp16": 2, "int8": 3} | {f"trellis{bits}": 3 + bits for bits in range(1, 7)}
_OUTSIDE = {"error": 0, "clip": 1, "hash": 2, "zero": 3}
_POOLING = {"": 0, "sum": 1, "mean": 2}

KernelInput = tuple[Tensor, Tensor | None, Tensor | None]
"""Of one table: ids [n]; offsets [bags] or None where each id is its own bag; weights float32 [n] or None."""


class TensorHolder(Protocol):
    """Buffers under the names, dtypes and shapes of a spec: a table, or the hashed tokens that tables share."""

    @property
    def spec(self) -> Any:  # noqa: ANN401 - TableSpec or HashSpec
        """What its buffers should be."""
        ...

    def named_buffers(self, *, recurse: bool = True) -> Iterator[tuple[str, Tensor]]:
        """Names and buffers."""
        ...


class LookupTable(TensorHolder, Protocol):
    """A compressed table, as far as the kernel has to know it."""

    name: str
    oov: str
    padding_idx: int | None
    decoder: Any

    @property
    def group(self) -> TensorHolder | None:
        """The shared hashed tokens of its ids, if they have some."""
        ...

    def get_buffer(self, target: str) -> Tensor:
        """A buffer by its name."""
        ...

    def check_dtype(self, ids: Tensor) -> None:
        """TypeError unless ids are int64 or int32."""
        ...

    def outside_error(self, ids: Tensor) -> IndexError:
        """The error for ids of which some are outside the table."""
        ...


class KernelTables:
    """Tables side by side, ready for the kernel; their tensors' memory is held for as long as it lives.

    inputs: per table the column of a grid of ids that feeds it. A row of the output holds the tables' vectors in order.
    """

    def __init__(self, tables: Sequence[LookupTable], inputs: Sequence[int]) -> None:
        self.tables, self.inputs, self.held = tuple(tables), tuple(inputs), list[torch.UntypedStorage]()
        self.native = load_kernel()
        self.last_input = max(inputs, default=-1)
        self.columns = [0]
        descriptions = []
        shown: list[Any] = [getattr(table, "shown", table) for table in tables]
        for table, number, lines in zip(shown, inputs, _build_lines(shown), strict=True):
            self.held.extend(one.untyped_storage() for one in lines)
            descriptions.append(_describe(table, number, self.columns[-1], lines, self.held))
            self.columns.append(self.columns[-1] + table.spec.dim)
        self.width = self.columns[-1]
        dims = {table.spec.dim for table in tables}
        self.dim = dims.pop() if len(dims) == 1 else None
        self.aligned = not any(4 * column % LINE_BYTES for column in self.columns)
        self.handle = self.native.make_tables(descriptions) if self.native is not None else None
        self.look_up: Any = getattr(self.native, "look_up_grid", None)

    def look_up_grid(self, ids: Tensor, out: Tensor | None = None, *, clock: Tensor | None = None) -> Tensor:
        """Vectors float32 [samples, width] of ids (int64 or int32 [samples, inputs]), into `out` where it is given.

        out    float32 [samples, width], its rows without gaps inside and not on each other
        clock  int64 [4] on request: nanoseconds of reading, index, fetching and decoding are added to it, on one thread

        IndexError for ids outside a table; all is checked before anything is written.
        """
        stride = self.width
        if out is None:
            out = OUTPUTS.take(ids.shape[0], stride)
        else:
            stride = self._check_out(out, ids.shape[0])
        self._run_grid(ids, out, stride, clock)
        return out

    def look_up_few(self, ids: Tensor) -> Tensor | Sequence[Tensor] | None:
        """As `look_up_samples`, in one step: small batches take longer to be looked at in Python than to be looked up.

        None where the ids are no small batch on the CPU, and where `look_up_samples` has an error to raise.
        """
        vectors = self.native.look_up_few(self.handle, ids)  # type: ignore[union-attr]
        return vectors if self.dim is not None or vectors is None else self.split(vectors)

    def look_up_samples(self, ids: Tensor) -> Tensor | Sequence[Tensor]:
        """As `look_up_grid`, cut by tables: [samples, T, dim], or [samples, dim] per table where their dims differ.

        A large output comes per table as well, as `look_up_tables` gives it.
        """
        if 4 * ids.shape[0] * self.width >= LEAST_BYTES_BY_TABLE:
            return self.look_up_tables(ids)
        return self.split(self.look_up_grid(ids))

    def look_up_tables(self, ids: Tensor) -> tuple[Tensor, ...]:
        """As `look_up_grid`, with each table's vectors in one piece: float32 [samples, dim] per table."""
        samples = ids.shape[0]
        out = OUTPUTS.take(samples * self.width + len(self.tables) * GAP_FLOATS)
        self._run_grid(ids, out, 0)
        if self.dim is not None:  # one view of all
            strides = (samples * self.dim + GAP_FLOATS, self.dim, 1)
            return out.as_strided((len(self.tables), samples, self.dim), strides).unbind(0)
        first = out.storage_offset()
        return tuple(
            out.as_strided((samples, stop - start), (stop - start, 1), first + samples * start + number * GAP_FLOATS)
            for number, (start, stop) in enumerate(pairwise(self.columns))
        )

    def _check_out(self, out: Tensor, samples: int) -> int:
        """Floats from one row of `out` to the next; ValueError where it cannot take the vectors."""
        if out.dtype != torch.float32 or out.shape != (samples, self.width) or out.stride(1) != 1 or not out.is_cpu:
            raise ValueError(
                f"out is {out.dtype} {list(out.shape)}, expected float32 {[samples, self.width]} without gaps"
            )
        stride = out.stride(0) if samples > 1 else self.width
        if stride < self.width:
            raise ValueError(f"the rows of out lie on each other: they are {stride} apart and {self.width} wide")
        return stride

    def _run_grid(self, ids: Tensor, out: Tensor, stride: int, clock: Tensor | None = None) -> None:
        (samples, columns), dtype = ids.shape, ids.dtype
        narrow = dtype is torch.int32
        if not narrow and dtype is not torch.int64:
            raise TypeError(f"ids are {dtype}, expected int64 or int32")
        if columns <= self.last_input:
            raise ValueError(f"ids have {columns} columns, the tables take {self.last_input + 1}")
        sample_stride, input_stride = ids.stride()
        address = out.data_ptr()
        large = samples * self.width * 4 >= STREAM_BYTES
        stream = large and self.aligned and not (address | 4 * stride) % LINE_BYTES
        fault = self.look_up(
            self.handle,
            ids.data_ptr(),
            narrow,
            sample_stride,
            input_stride,
            samples,
            address,
            stride,
            stream,
            torch.get_num_threads(),
            0 if clock is None else clock.data_ptr(),
        )
        if fault is not None:
            self._raise(fault, [ids[:, number] for number in self.inputs])

    def look_up_bags(self, inputs: Sequence[KernelInput], samples: int) -> Tensor:
        """Pooled vectors float32 [samples, width] of bags of ids, one input per table.

        IndexError for ids outside a table, ValueError for offsets that do not rise from 0 to at most the number of ids
        and for weights that are NaN.
        """
        if not all(part is None or part.is_cpu for one in inputs for part in one):
            raise ValueError("ids, offsets and weights must all be on the CPU")
        for ids, offsets, weights in inputs:
            if len(ids if offsets is None else offsets) != samples or (offsets is None and weights is not None):
                raise ValueError(f"inputs for {samples} samples need one id per sample, or one offset")
        out = OUTPUTS.take(samples, self.width)
        packed = [
            (
                ids.data_ptr(),
                ids.dtype == torch.int32,
                ids.stride(0),
                ids.shape[0],
                0 if offsets is None else offsets.data_ptr(),
                offsets is not None and offsets.dtype == torch.int32,
                0 if weights is None else weights.data_ptr(),
            )
            for ids, offsets, weights in inputs
        ]
        fault = self.native.look_up_bags(  # type: ignore[union-attr]
            self.handle, packed, samples, out.data_ptr(), self.width, torch.get_num_threads()
        )
        if fault is not None:
            self._raise(fault, [ids for ids, _, _ in inputs])
        return out

    def split(self, vectors: Tensor) -> Tensor | Sequence[Tensor]:
        """Vectors [samples, width] cut by tables, as `look_up_samples` gives them."""
        if self.dim is None:
            return torch.split(vectors, [table.spec.dim for table in self.tables], dim=1)
        return vectors.view(len(vectors), len(self.tables), self.dim)

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        """A copied module makes its own: addresses belong to the tensors of this one."""

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """Not stored: addresses mean nothing elsewhere."""
        return type(None), ()

    def _raise(self, fault: tuple[str, int, int], ids: Sequence[Tensor]) -> None:
        kind, number, position = fault
        table = self.tables[number]
        if kind == "id":
            raise table.outside_error(ids[number])
        name = table.name or "?"
        if kind == "offset":
            raise ValueError(
                f"table {name}: offsets must rise from 0 and stay within the {len(ids[number])} ids; the one of bag "
                f"{position} does not"
            )
        raise ValueError(f"table {name}: the per-sample weight of id number {position} is NaN")


def count_idle_bytes() -> int:
    """Bytes of outputs that nobody uses at the moment, kept for the next calls."""
    native = load_kernel()
    return OUTPUTS.idle_bytes() + (0 if native is None else int(native.idle_bytes()))


def kernel_can_read(table: LookupTable) -> bool:
    """Whether the kernel is here and can look up this table: on the CPU, its tensors without gaps, not in training."""
    spec = table.spec
    if table.decoder is not None or len(spec.stages) > MOST_STAGES or spec.dim > MOST_DIM or load_kernel() is None:
        return False
    if not {spec.codec, *(level.codec for level in spec.levels)} <= _CODECS.keys():
        return False  # a codec that the kernel does not have yet: the reference reads it
    return _has_its_tensors(table) and (table.group is None or _has_its_tensors(table.group))


def _has_its_tensors(module: TensorHolder) -> bool:
    """Whether the buffers are what the spec says, which `half()` and the like may have changed, and on the CPU."""
    buffers = dict(module.named_buffers(recurse=False))
    found = {name: (buffer.dtype, tuple(buffer.shape)) for name, buffer in buffers.items()}
    plain = all(buffer.device.type == "cpu" and buffer.is_contiguous() for buffer in buffers.values())
    return plain and found == module.spec.tensors()


def _build_lines(tables: Sequence[LookupTable]) -> list[list[Tensor]]:
    """Per table and level the lines of its keys, empty where it gets none."""
    chosen = choose_lines([table.spec for table in tables])
    built = [
        build_lines(level.index, table.get_buffer(f"level{number}_index"), lines)
        for table, of_table in zip(tables, chosen, strict=True)
        for number, (level, lines) in enumerate(zip(table.spec.levels, of_table, strict=True))
    ]
    laid_out = iter(copy_side_by_side(built)) if any(map(len, built)) else iter(built)
    return [[next(laid_out) for _ in of_table] for of_table in chosen]


def _describe(
    table: LookupTable, number: int, column: int, lines: Sequence[Tensor], held: list[torch.UntypedStorage]
) -> dict[str, object]:
    """What the kernel's reader of descriptions expects, by the same names."""
    spec = table.spec

    def address(name: str) -> int:
        if name not in dict(table.named_buffers(recurse=False)):
            return 0
        buffer = table.get_buffer(name)
        held.append(buffer.untyped_storage())
        return buffer.data_ptr()

    stages = [
        {"bits": bits, "first": first, "shift": shift}
        for bits, first, shift in zip(spec.stage_bits, spec.first_entries, spec.shifts, strict=True)
    ]
    kept = spec.form == "kept"
    plain = {
        "rows": spec.rows,
        "dim": spec.dim,
        "kept": int(kept),
        "input": number,
        "column": column,
        "outside": _OUTSIDE[table.oov],
        "pooling": _POOLING[getattr(table, "mode", "")],
        "padding": -1 if table.padding_idx is None else table.padding_idx,
        "frame": address("frame"),
        "codebook": address("codebook"),
        "base": address("base"),
        "base_bits": spec.base_bits(),
        "base_depth": spec.base_depth,
        "stages": stages,
        "levels": [_describe_level(spec, level, n, lines[n], address) for n, level in enumerate(spec.levels)],
        "codec": _CODECS[spec.codec],
        "codec_rows": address("rows") if kept else 0,
        "codec_scale": address("scale") if kept else 0,
    }
    return plain | _describe_hashing(table, held)


def _describe_level(
    spec: TableSpec,
    level: LevelSpec,
    number: int,
    lines: Tensor,
    address: Any,  # noqa: ANN401
) -> dict[str, object]:
    index, prefix = level.index, f"level{number}_"
    keys = index.kind == "keys"
    return {
        "index_kind": int(keys),
        "index": address(prefix + "index"),
        "index_bytes": index.nbytes,
        "count": index.count,
        "key_bits": index.key_bits,
        "mixed_bits": index.mixed_bits,
        "starts_at": 4 * index.groups if keys else 0,
        "keys_at": index.keys_start if keys else 0,
        "lines": lines.data_ptr() if len(lines) else 0,
        "line_count": len(lines),
        "stored": int(level.kind == "rows"),
        "depth": level.depth,
        "entry_bits": spec.level_bits(level),
        "codes": address(prefix + "codes"),
        "codec": _CODECS[level.codec],
        "codec_rows": address(prefix + "rows"),
        "codec_scale": address(prefix + "scale"),
    }


def _describe_hashing(table: LookupTable, held: list[torch.UntypedStorage]) -> dict[str, object]:
    group, hashing = table.group, table.spec.hashing
    if group is None or hashing is None:
        names = ("tokens", "whole_tokens", "token_scale", "token_weights", "token_rows", "weight_blocks", "hash_seed")
        return dict.fromkeys((*names, "k", "k_weights"), 0)
    buffers = dict(group.named_buffers(recurse=False))
    held.extend(buffer.untyped_storage() for buffer in buffers.values())
    return {
        "tokens": buffers["tokens"].data_ptr(),
        "whole_tokens": int(hashing.token_codec == "int8"),
        "token_scale": buffers["scale"].data_ptr(),
        "token_weights": buffers["weights"].data_ptr() if hashing.k_weights else 0,
        "token_rows": hashing.rows,
        "weight_blocks": hashing.blocks,
        "k": hashing.k,
        "k_weights": hashing.k_weights,
        "hash_seed": table.spec.hash_seed,
    }
