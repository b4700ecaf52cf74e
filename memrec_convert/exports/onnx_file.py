"""The place onnx: one file of standard operators."""

from __future__ import annotations

from memrec_convert.exports.pt2 import refuse_place

ONNX = refuse_place("this version writes no ONNX files; serve with load() or the C library.")
