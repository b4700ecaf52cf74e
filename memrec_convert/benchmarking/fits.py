"""Fits on disk, as a comparison keeps them: the store of the conversion, under the name that rivals know."""

from __future__ import annotations

from memrec_convert.conversion.fit_store import FitStore, flatten, restore

__all__ = ["FitStore", "flatten", "restore"]
