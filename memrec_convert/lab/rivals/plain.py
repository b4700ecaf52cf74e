"""What every rival may do with any table: keep it, or drop it to its mean row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from torch import Tensor

from memrec_convert.lab.held import FP32, CodecStorage, HeldTable, number_shapes
from memrec_convert.lab.rivals.rival import Option
from memrec_convert.lab.view import TableView

MEAN_ROW = "mean row"
CODECS = ("fp32", "bf16", "fp16", "int8")
"""Row codecs that are nobody's own."""
KEPT_ROWS = tuple(f"{codec} rows" for codec in CODECS)


def plain_options(view: TableView) -> list[Option]:
    """The mean row, and the whole table in each of the codecs."""
    shapes = number_shapes(centre=(FP32, 1, view.dim))
    energy = float(view.survey.values.sum(dtype=np.float64))
    options = [Option(MEAN_ROW, shapes, energy, lambda: make_mean(view))]
    for codec in CODECS:
        distortion = 0.0 if codec == "fp32" else float(codec_losses(view, codec).sum(dtype=np.float64))
        shapes = number_shapes(table=(CodecStorage(codec), view.count, view.dim))
        options.append(Option(f"{codec} rows", shapes, distortion, partial(make_kept, view, codec)))
    return options


def make_mean(view: TableView) -> HeldTable:
    """Every id reads as the weighted mean row."""
    return HeldTable({"centre": (FP32, view.survey.centre.unsqueeze(0))}, {}, decode_mean)


def make_kept(view: TableView, codec: str) -> HeldTable:
    """All rows in one codec."""
    return HeldTable({"table": (CodecStorage(codec), view.rows)}, {}, decode_kept, of_ids=("table",), whole=("table",))


def decode_mean(numbers: Mapping[str, Tensor], _fixed: Mapping[str, Tensor], ids: Tensor) -> Tensor:
    """The one row, as often as it is asked for."""
    return numbers["centre"].expand(len(ids), -1)


def decode_kept(numbers: Mapping[str, Tensor], _fixed: Mapping[str, Tensor], ids: Tensor) -> Tensor:
    """The rows themselves."""
    return numbers["table"][ids]


def codec_losses(view: TableView, codec: str) -> np.ndarray:
    """What each row loses in a codec, float32 [rows]."""
    decode = partial(_round, view, CodecStorage(codec))
    losses: np.ndarray = view.remember(("codec", codec), lambda: view.losses(decode))
    return losses


@dataclass(frozen=True)
class Int8Rows:
    """Whole tables at one byte a number and an fp16 scale a row."""

    name: str = "int8 rows"

    def options(self, view: TableView) -> list[Option]:
        """None beyond what every rival may do."""
        return []


def _round(view: TableView, storage: CodecStorage, piece: slice) -> Tensor:
    return storage.decode(storage.encode(view.rows[piece]))
