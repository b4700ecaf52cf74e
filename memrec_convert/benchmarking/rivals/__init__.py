"""The rivals: one small file each behind one protocol."""

from __future__ import annotations

from memrec_convert.benchmarking.rivals.hashing import HashingTrick, QuotientRemainder, SharedArray
from memrec_convert.benchmarking.rivals.hot_rows import HotRows, HotRowsAndCodebook
from memrec_convert.benchmarking.rivals.int4 import Int4Rows
from memrec_convert.benchmarking.rivals.low_rank import LowRank
from memrec_convert.benchmarking.rivals.plain import Int8Rows
from memrec_convert.benchmarking.rivals.product import HotProduct, WholeProduct
from memrec_convert.benchmarking.rivals.residual import ResidualQuantisation
from memrec_convert.benchmarking.rivals.rival import Option, Rival

RIVALS: tuple[Rival, ...] = (
    Int8Rows(),
    Int4Rows(),
    HotRows("hot rows int8 + zero", centred=False),
    HotRows("hot rows int8 + mean row", centred=True),
    HotRowsAndCodebook(),
    WholeProduct(),
    HotProduct(),
    ResidualQuantisation(),
    HashingTrick(),
    QuotientRemainder(),
    SharedArray(),
    LowRank(),
)

__all__ = ["RIVALS", "Option", "Rival"]
