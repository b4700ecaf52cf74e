"""Click logs: the training and evaluation data of a model, as batches and as lookup profiles."""

from __future__ import annotations

from memrec_convert.clicklog.batch import Bag, Batch, LogDigest
from memrec_convert.clicklog.block import split_places
from memrec_convert.clicklog.log import ClickLog
from memrec_convert.clicklog.open import open_log
from memrec_convert.clicklog.profiles.counts import read_counts
from memrec_convert.clicklog.profiles.profile import (
    Profile,
    Sensitivity,
    load_profile,
    refuse_leak,
    save_profile,
    take_profile,
)
from memrec_convert.clicklog.schema import LogSchema
from memrec_convert.clicklog.synthetic import SyntheticSpec, write_synthetic_log

__all__ = [
    "Bag",
    "Batch",
    "ClickLog",
    "LogDigest",
    "LogSchema",
    "Profile",
    "Sensitivity",
    "SyntheticSpec",
    "load_profile",
    "open_log",
    "read_counts",
    "refuse_leak",
    "save_profile",
    "split_places",
    "take_profile",
    "write_synthetic_log",
]
