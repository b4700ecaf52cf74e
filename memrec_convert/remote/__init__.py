"""Checkpoints by URL: objects of a store read in ranges through fsspec, as if they were files, or copied once."""

from __future__ import annotations

from memrec_convert.remote.copying import at_hand
from memrec_convert.remote.path import RemotePath, as_source, is_url

__all__ = ["RemotePath", "as_source", "at_hand", "is_url"]
