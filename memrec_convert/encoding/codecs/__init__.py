"""Row codecs: how the rows of kept tables and stored rows are held. One file each behind one interface."""

from __future__ import annotations

from memrec_convert.encoding.codecs.codec import RowCodec
from memrec_convert.encoding.codecs.floats import BF16, FP16, FP32
from memrec_convert.encoding.codecs.int8 import INT8
from memrec_convert.encoding.codecs.trellis import TRELLIS

_ALL: tuple[RowCodec, ...] = (FP32, BF16, FP16, INT8, *TRELLIS)
CODECS: dict[str, RowCodec] = {codec.name: codec for codec in _ALL}

FINE_CODECS = tuple(codec.name for codec in TRELLIS)
"""Between codes and int8 rows. Format 1 has none of them."""

__all__ = ["BF16", "CODECS", "FINE_CODECS", "FP16", "FP32", "INT8", "TRELLIS", "RowCodec"]
