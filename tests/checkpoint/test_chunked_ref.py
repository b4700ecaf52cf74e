"""Tensors in pieces are read as if they were whole, and pieces that do not tile a tensor are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memrec_convert.checkpoint.chunked_ref import Chunk, join_chunks
from memrec_convert.checkpoint.inert.stand_ins import MalformedPickle, Placeholder
from memrec_convert.checkpoint.shards import SHARDED_TENSOR, join_ranks
from memrec_convert.checkpoint.tensor_ref import TensorRef, contiguous_strides
from memrec_convert.errors import CheckpointError, IncompleteCheckpointError


def store(values: np.ndarray, path: Path) -> TensorRef:
    """A raw file of these float32 values, as a reference."""
    path.write_bytes(values.astype("<f4").tobytes())
    return TensorRef(path, 0, "float32", values.shape, contiguous_strides(values.shape))


def cut(values: np.ndarray, rows: list[int], columns: list[int], folder: Path) -> list[Chunk]:
    """The grid of chunks between these borders, one file each."""
    chunks = []
    for top, bottom in zip([0, *rows], [*rows, values.shape[0]], strict=True):
        for left, right in zip([0, *columns], [*columns, values.shape[1]], strict=True):
            part = np.ascontiguousarray(values[top:bottom, left:right])
            chunks.append(Chunk((top, left), store(part, folder / f"{top}_{left}.bin")))
    return chunks


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_grid_of_chunks_reads_as_the_whole(data, tmp_path):
    """Row-wise, column-wise and mixed cuts give the values of the uncut tensor for any range of rows."""
    rows, columns = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 6))
    values = np.arange(rows * columns, dtype=np.float32).reshape(rows, columns)
    row_cuts = sorted(data.draw(st.sets(st.integers(1, rows - 1), max_size=3))) if rows > 1 else []
    column_cuts = sorted(data.draw(st.sets(st.integers(1, columns - 1), max_size=3))) if columns > 1 else []
    chunks = data.draw(st.permutations(cut(values, row_cuts, column_cuts, tmp_path)))
    joined = join_chunks(values.shape, chunks)
    start, stop = data.draw(st.integers(-1, rows + 2)), data.draw(st.integers(0, rows + 2))
    got = joined.read_rows(start, stop)
    np.testing.assert_array_equal(got, values[start:stop])
    assert got.flags.c_contiguous
    np.testing.assert_array_equal(joined.as_tensor().numpy(), values)
    assert (joined.nbytes, len(joined.pieces)) == (values.nbytes, len(chunks))


@pytest.mark.parametrize(
    ("shape", "places", "sentence"),
    [
        ((4, 2), [], "none of its chunks"),
        ((6, 2), [(0, 0), (4, 0)], "leave a gap at row 2"),
        ((4, 2), [(0, 0), (1, 0)], "overlap at row 1"),
        ((6, 2), [(0, 0), (2, 0)], "end at row 4 of 6"),
        ((2, 6), [(0, 0), (0, 3)], "overlap or leave a gap at column 2"),
        ((2, 6), [(0, 0), (0, 2)], "end at column 4 of 6"),
        ((4, 2), [(0, 0), (0, 0)], "overlap or leave a gap at column 0"),
        ((4,), [(0,)], "no part of a tensor"),
        ((4, 2, 1), [(0, 0, 0)], "no part of a tensor"),
    ],
)
def test_chunks_that_do_not_tile_are_refused(tmp_path, shape, places, sentence):
    """Gaps, overlaps and missing ends have a sentence each; chunks here are 2 x 2."""
    chunks = [Chunk(place, store(np.zeros((2, 2)), tmp_path / "x.bin")) for place in places]
    with pytest.raises(MalformedPickle, match=sentence):
        join_chunks(shape, chunks)


def sharded(shape: tuple[int, ...], chunks: list[Chunk], total: int) -> Placeholder:
    """A ShardedTensor as the pickle reader gives it, `total` shards in all."""

    def described(chunk: Chunk) -> Placeholder:
        fields = {"shard_offsets": list(chunk.offsets), "shard_sizes": list(chunk.tensor.shape)}
        return Placeholder("ShardMetadata", state=(None, fields))

    shards = [Placeholder("Shard", state=(None, {"tensor": one.tensor, "metadata": described(one)})) for one in chunks]
    metadata = Placeholder("Metadata", state={"size": shape, "shards_metadata": [None] * total})
    return Placeholder(SHARDED_TENSOR, ((), (), (), (shards, metadata, None, None, False)))


def test_shards_of_all_ranks_are_joined(tmp_path):
    """Each rank's own shards become one tensor; what every rank has is taken once."""
    values = np.arange(24, dtype=np.float32).reshape(8, 3)
    first, second = cut(values, [5], [], tmp_path)
    ranks = [{"model": {"t": sharded((8, 3), [own], 2), "b": 7}} for own in (first, second)]
    joined = join_ranks(ranks, "run")
    np.testing.assert_array_equal(joined["model"]["t"].read(), values)
    assert joined["model"]["b"] == 7


def test_a_rank_alone_and_damaged_shards_are_refused(tmp_path):
    """Missing shards are told from shards that do not fit."""
    first, second = cut(np.zeros((8, 3)), [5], [], tmp_path)
    with pytest.raises(IncompleteCheckpointError, match="1 of the 2 shards"):
        join_ranks([{"t": sharded((8, 3), [first], 2)}], str(tmp_path / "rank0.pt"))
    with pytest.raises(CheckpointError, match="leave a gap at row 0"):
        join_ranks([{"t": sharded((8, 3), [second], 1)}], "run")
    with pytest.raises(CheckpointError, match="not as torch writes it"):
        join_ranks([{"t": Placeholder(SHARDED_TENSOR)}], "run")


def test_a_mapping_that_is_met_many_times_is_joined_once():
    """Nested references to one mapping cost no more than the mapping: a pickle may hold 10^16 paths to it."""
    inner: dict[object, object] = {"x": 1}
    for _ in range(16):
        inner = {str(number): inner for number in range(10)}
    assert isinstance(join_ranks([inner, inner], "run"), dict)
