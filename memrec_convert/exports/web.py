"""The place web: a static page with the model."""

from __future__ import annotations

from memrec_convert.exports.pt2 import refuse_place

WEB = refuse_place("this version writes no pages for the browser; serve with load() or the C library.")
