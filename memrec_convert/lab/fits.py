"""Fits on disk, as a comparison keeps them: the store of the conversion, under the name that rivals know."""

from __future__ import annotations

from memrec_convert.conversion.inputs.kept_fits import FitStore, flatten, restore

__all__ = ["FitStore", "flatten", "restore"]
