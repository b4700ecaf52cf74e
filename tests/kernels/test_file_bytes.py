"""Pieces of files and CRC-32 sums: by the extension and without it the same."""

import zlib

import numpy as np
import pytest

from memrec_convert.kernels import files


@pytest.fixture(params=["native", "plain"])
def kind(request, monkeypatch):
    """With the extension, and as if there were none."""
    if request.param == "plain":
        monkeypatch.setattr(files, "_find_native", lambda: None)
    elif files._find_native() is None:
        pytest.skip("the extension is not built")
    return request.param


@pytest.mark.parametrize("before", [0, 1, 0x12345678, 0xFFFFFFFF])
def test_sums_are_those_of_zlib(kind, before):
    """Around every block, at every alignment, and in parts as in one."""
    content = np.random.default_rng(before).integers(0, 256, 4300, dtype=np.uint8)
    for count in [*range(300), 511, 512, 513, 4096]:
        for start in (0, 1, 7):
            part = content[start : start + count]
            assert files.sum_crc32(part, before) == zlib.crc32(part.tobytes(), before)
    total = before
    for start in range(0, len(content), 97):
        total = files.sum_crc32(content[start : start + 97], total)
    assert total == zlib.crc32(content.tobytes(), before)


def test_every_bit_changes_the_sum(kind):
    """One that is turned, wherever it is."""
    content = np.random.default_rng(0).integers(0, 256, 200, dtype=np.uint8)
    sums = {files.sum_crc32(content)}
    for place in range(200):
        for bit in range(8):
            content[place] ^= 1 << bit
            sums.add(files.sum_crc32(content))
            content[place] ^= 1 << bit
    assert len(sums) == 1 + 200 * 8


def test_pieces_come_from_their_places(kind, tmp_path):
    """In any order, overlapping or not; those before the first that the file ends in are counted."""
    content = np.arange(1000, dtype=np.int32)
    (tmp_path / "x").write_bytes(content.tobytes())
    with (tmp_path / "x").open("rb") as file:
        places = np.array([40, 0, 3984, 44, 44])
        out = np.zeros((5, 2, 2), dtype=np.int32)
        assert files.read_pieces(file.fileno(), places, out) == 5
        assert out.reshape(5, 4).tolist() == [list(range(place // 4, place // 4 + 4)) for place in places]
        assert files.read_pieces(file.fileno(), np.array([0, 3988, 4]), np.zeros((3, 4), dtype=np.int32)) == 1
        assert files.read_pieces(file.fileno(), np.array([5000]), np.zeros((1, 4), dtype=np.int32)) == 0
        assert files.read_pieces(file.fileno(), places[:0], out[:0]) == 0


def test_bytes_apart_from_each_other(kind, tmp_path):
    """They are summed as if they lay side by side; nothing is read into them."""
    content = np.arange(200, dtype=np.uint8)
    assert files.sum_crc32(content[::2]) == zlib.crc32(content[::2].tobytes())
    (tmp_path / "x").write_bytes(content.tobytes())
    with (tmp_path / "x").open("rb") as file, pytest.raises(ValueError, match="contiguous"):
        files.read_pieces(file.fileno(), np.array([0]), np.zeros((1, 8), dtype=np.uint8)[:, ::2])


def test_what_cannot_be_read_is_an_error(kind, tmp_path):
    """A file that is open for writing alone, and one that is closed."""
    with (tmp_path / "x").open("wb") as file:
        file.write(b"1234")
        with pytest.raises(OSError):
            files.read_pieces(file.fileno(), np.array([0]), np.zeros((1, 4), dtype=np.uint8))
        number = file.fileno()
    with pytest.raises(OSError):
        files.read_pieces(number, np.array([0]), np.zeros((1, 4), dtype=np.uint8))
