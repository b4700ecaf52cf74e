"""As many ranks as one likes write the bytes that one process writes, and repeat nothing that is kept."""

import pytest
from launch import Rank, end_torchrun, start_torchrun


def test_two_ranks_write_the_same_bytes(alone):
    """The artifact's digest is that of one process, and both ranks have taken part."""
    assert alone.digest("two") == alone.digest("alone")
    assert min(alone.launched[1].steps(rank) for rank in (0, 1)) > 40


def test_torchrun_writes_the_same_bytes(alone, case):
    """torchrun's own processes: a single one, two and four."""
    started = {size: start_torchrun(size, case.arguments(f"torchrun{size}")) for size in (1, 2, 4)}
    for size, process in started.items():
        code, said = end_torchrun(process)
        assert code == 0, said
        assert case.digest(f"torchrun{size}") == alone.digest("alone")


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_second_run_repeats_nothing(alone, case, size):
    """With what two ranks have kept, any number of ranks writes the same bytes and keeps nothing anew."""
    kept = alone.kept("two")
    assert len(kept) > 20
    alone.remove("two")
    assert [ended.code for ended in alone.run("two", size)] == [0] * size
    assert alone.kept("two") == kept
    assert alone.digest("two") == alone.digest("alone")


def test_each_rank_may_have_a_work_folder_of_its_own(alone, case):
    """Nothing needs to be shared but the network; each then keeps what it made itself."""
    other = tuple(str(case.work("other")) if part == str(case.work("own")) else part for part in case.arguments("own"))
    special = {1: Rank(arguments=other)}
    assert [ended.code for ended in case.run("own", 2, special)] == [0, 0]
    assert case.digest("own") == alone.digest("alone")
    assert case.kept("own")
    assert case.kept("other")
    kept = case.kept("own"), case.kept("other")
    case.remove("own")
    assert [ended.code for ended in case.run("own", 2, special)] == [0, 0]
    assert (case.kept("own"), case.kept("other")) == kept
    assert case.digest("own") == alone.digest("alone")
