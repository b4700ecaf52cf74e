"""Checksums compared part by part: whatever the cuts, as if the bytes were read in one piece."""

import zlib

import numpy as np
import pytest

from memrec_convert.checkpoint import checksum
from memrec_convert.checkpoint.checksum import Checksum, Part, sum_part
from memrec_convert.errors import CheckpointError


@pytest.fixture
def stored(tmp_path):
    """A file of random bytes with something before and after those that are stated."""
    content = np.random.default_rng(0).bytes(5000)
    (tmp_path / "x").write_bytes(b"before" + content + b"after")
    return Checksum(Part(tmp_path / "x", 6, len(content)), "data/0", zlib.crc32(content))


@pytest.mark.parametrize("nbytes", [1, 2, 3, 7, 64, 100, 999, 4999, 5000, 5001, 1 << 20])
def test_parts_of_any_size(stored, monkeypatch, nbytes):
    """All of them are sound together, and none may be missing, damaged, short or in another place."""
    monkeypatch.setattr(checksum, "PART_BYTES", nbytes)
    parts = stored.parts()
    assert sum(part.nbytes for part in parts) == 5000
    found = [sum_part(part) for part in parts]
    stored.compare(found)
    for wrong in ([found[0] ^ 1, *found[1:]], [*found[:-1], None], *([found[::-1]] if len(found) > 1 else ())):
        with pytest.raises(CheckpointError, match="x > data/0: the bytes do not match the archive's checksum"):
            stored.compare(wrong)


def test_every_bit_counts(stored, monkeypatch):
    """One that is turned anywhere is noticed."""
    monkeypatch.setattr(checksum, "PART_BYTES", 640)
    stored.verify()
    path = stored.part.path
    whole = path.read_bytes()
    for place in range(6, 5006, 97):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        with pytest.raises(CheckpointError, match="damaged after it was written"):
            stored.verify()
    path.write_bytes(whole[:5000])
    with pytest.raises(CheckpointError, match="damaged after it was written"):
        stored.verify()


def test_of_nothing(tmp_path):
    """An empty storage has the checksum 0."""
    (tmp_path / "x").write_bytes(b"")
    Checksum(Part(tmp_path / "x", 0, 0), "data/0", 0).verify()
    with pytest.raises(CheckpointError):
        Checksum(Part(tmp_path / "x", 0, 0), "data/0", 1).verify()
