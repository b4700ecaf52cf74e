"""Lookups through memrec.h, called by ctypes with arguments that are ready: what C pays, and the call on top."""

from __future__ import annotations

import ctypes as c
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor, nn

from memrec_convert import save
from memrec_convert.kernels.library import find_library


class Lookup(c.Structure):
    """memrec_lookup."""

    _fields_ = (
        ("table", c.c_int32),
        ("outside", c.c_int),
        ("id_bits", c.c_int32),
        ("offset_bits", c.c_int32),
        ("ids", c.c_void_p),
        ("id_stride", c.c_int64),
        ("id_count", c.c_int64),
        ("offsets", c.c_void_p),
        ("weights", c.c_void_p),
        ("out", c.c_void_p),
        ("out_stride", c.c_int64),
    )


class CTables:
    """Tables written to an artifact and opened by libmemrec."""

    def __init__(self, tables: Sequence[nn.Module], threads: int) -> None:
        self.native = c.CDLL(find_library()["library"])
        self.handle, self.pool = c.c_void_p(), c.c_void_p()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "tables.safetensors"
            save(nn.ModuleList(tables), path)
            self._check(self.native.memrec_open(str(path).encode(), None, c.byref(self.handle), None))
        if threads > 1:
            self._check(self.native.memrec_make_pool(c.c_int32(threads), c.byref(self.pool), None))

    def bind(self, ids: Tensor, out: Tensor, dim: int) -> Callable[[], None]:
        """Looks up ids (int64 [samples, tables]) into `out` (float32 [samples, tables * dim]) whenever it is called."""
        samples, tables = ids.shape
        lookups = (Lookup * tables)(
            *(
                Lookup(
                    table=number,
                    outside=-1,
                    id_bits=64,
                    ids=ids[:, number].data_ptr(),
                    id_stride=ids.stride(0),
                    id_count=samples,
                    out=out.data_ptr() + 4 * dim * number,
                    out_stride=out.stride(0),
                )
                for number in range(tables)
            )
        )
        look_up, arguments = (
            self.native.memrec_look_up,
            (lookups, c.c_int64(tables), c.c_int64(samples), self.pool, None),
        )

        def call() -> None:
            self._check(look_up(self.handle, *arguments))

        return call

    @staticmethod
    def _check(status: int) -> None:
        if status:
            raise RuntimeError(f"libmemrec refused: status {status}")
