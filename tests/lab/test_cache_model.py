"""The simulated cache: exact LRU per set, and traces of the accesses that the embedding stage makes."""

from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memrec_convert.lab.shapes.cache_model import SAMPLED, Cache, count_misses, draw_ids, trace_pooled, trace_tables


def count_by_hand(cache: Cache, lines, counted_from: int) -> int:
    """The plain definition, one access after another."""
    sets = [OrderedDict() for _ in range(cache.sets)]
    misses = 0
    for number, line in enumerate(lines):
        held = sets[line % cache.sets]
        if line in held:
            held.move_to_end(line)
            continue
        misses += number >= counted_from
        held[line] = True
        if len(held) > cache.ways:
            held.popitem(last=False)
    return misses


@given(
    lines=st.lists(st.integers(0, 60), max_size=200),
    ways=st.integers(1, 4),
    sets=st.integers(1, 5),
    start=st.integers(0, 100),
)
def test_misses_are_those_of_an_lru_cache_access_by_access(lines, ways, sets, start):
    """All sets at once give what one access after another gives."""
    cache = Cache(sets * ways * 64 * SAMPLED, ways)
    assert cache.sets == sets
    wanted = count_by_hand(cache, lines, start)
    assert count_misses(cache, np.array(lines, dtype=np.int64), counted_from=start) == wanted


def test_what_fits_the_cache_misses_once_and_what_does_not_misses_always():
    """A cycle through fewer lines than there are ways hits from its second round on; one line more never does."""
    cache = Cache(64 * SAMPLED * 8, 8)
    assert count_misses(cache, np.tile(np.arange(8), 5)) == 8
    assert count_misses(cache, np.tile(np.arange(9), 5)) == 45


def test_ids_follow_zipf_and_stay_inside_their_table():
    """The most frequent id of a table of 1,000 has the share that the law gives it, and all are in range."""
    ids = draw_ids([1000, 3], 50_000, zipf=1.05, generator=np.random.default_rng(0))
    assert ids.min() >= 0
    assert (ids.max(axis=0) < [1000, 3]).all()
    shares = np.arange(1, 1001) ** -1.05
    assert np.bincount(ids[:, 0]).max() / 50_000 == pytest.approx(shares[0] / shares.sum(), rel=0.05)


def test_traces_have_a_row_per_lookup_and_an_eighth_of_the_weights():
    """Rows are sampled whole, since each has one line in every eighth set; weight lines by their own number."""
    ids = draw_ids([5000, 9000], 20_000, zipf=0.0, generator=np.random.default_rng(1))
    assert len(trace_tables(ids, [5000, 9000])) == ids.size
    trace = trace_pooled(ids, d=100, d_weights=75_000, k=2, k_weights=4)
    tokens, weights = (trace < 100).sum(), (trace >= 100).sum()
    assert tokens == 2 * ids.size
    assert weights == pytest.approx(4 * ids.size / SAMPLED, rel=0.1)


def test_tables_do_not_share_lines():
    """The same id in another table is another row."""
    ids = np.array([[3, 3]])
    assert list(trace_tables(ids, [10, 10])) == [3, 13]
