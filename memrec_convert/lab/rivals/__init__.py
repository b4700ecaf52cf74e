"""The rivals: one small file each behind one protocol."""

from __future__ import annotations

from memrec_convert.lab.rivals.hashing import HashingTrick, QuotientRemainder, SharedArray
from memrec_convert.lab.rivals.hot_rows import HotRows, HotRowsAndCodebook
from memrec_convert.lab.rivals.int4 import Int4Rows
from memrec_convert.lab.rivals.low_rank import LowRank
from memrec_convert.lab.rivals.plain import Int8Rows
from memrec_convert.lab.rivals.product import HotProduct, WholeProduct
from memrec_convert.lab.rivals.residual import ResidualQuantisation
from memrec_convert.lab.rivals.rival import Option, Rival

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
