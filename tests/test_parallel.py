"""Ordered work in threads: the same results, whatever the number of workers."""

import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memrec_convert.parallel import ordered_map, single_threaded_torch, usable_cores


@given(st.lists(st.integers(), max_size=30), st.integers(0, 4))
def test_results_come_in_the_items_order(items, workers):
    """Any number of workers gives what the plain loop gives."""
    assert list(ordered_map(lambda item: item * 2 + 1, items, workers=workers)) == [item * 2 + 1 for item in items]


def test_order_holds_where_later_items_finish_first():
    """The first item waits for the second to be done, and still comes out first."""
    second_done = threading.Event()

    def work(item):
        if item == 0:
            assert second_done.wait(10)
        else:
            second_done.set()
        return item

    assert list(ordered_map(work, [0, 1], workers=2)) == [0, 1]


def test_several_threads_do_work():
    """Two workers meet at a barrier, which one thread alone could not pass."""
    barrier = threading.Barrier(2, timeout=10)
    assert sorted(ordered_map(lambda _: barrier.wait(), range(2), workers=2)) == [0, 1]


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_items_are_drawn_only_a_little_ahead(workers):
    """An endless source is not swallowed: at most a few items per worker are drawn before the first is used."""
    drawn = []

    def source():
        while True:
            drawn.append(len(drawn))
            yield drawn[-1]

    results = ordered_map(lambda item: item, source(), workers=workers)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    results.close()
    assert len(drawn) <= 5 + 2 * workers + 1


@pytest.mark.parametrize("workers", [1, 3])
def test_an_error_comes_at_its_place(workers):
    """Results before the failing item are given, then its own error, and no thread is left behind."""
    before = threading.active_count()
    results = ordered_map(lambda item: 1 // item, [2, 1, 0, 1], workers=workers)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert threading.active_count() == before


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_the_source_comes_through(workers):
    """A source that fails is not mistaken for one that ends."""

    def source():
        yield 1
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        list(ordered_map(lambda item: item, source(), workers=workers))


def test_torch_has_one_thread_inside_and_its_own_after():
    """The setting is put back, after an error too."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with single_threaded_torch():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
        with pytest.raises(ZeroDivisionError), single_threaded_torch():
            raise ZeroDivisionError
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_cores_are_those_that_this_process_may_use(monkeypatch):
    """One core of an affinity mask counts as one; a system without masks gives all of its cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3}, raising=False)
    assert usable_cores() == 1
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert usable_cores() == 8
