"""A rank that is killed or stopped: the other ends soon and names it; the same command goes on where they were."""

import signal

import pytest
from conftest import Case
from launch import Rank, end_torchrun, start_torchrun

from memrec_convert.conversion.ranks.alive import SILENCE

pytestmark = pytest.mark.ranks

MOMENTS = 10
SECONDS_TO_END = 30


def moments(alone, rank):
    """Steps of a rank, spread over its whole run."""
    steps = alone.launched[1].steps(rank)
    return [1 + number * steps // MOMENTS for number in range(MOMENTS)]


@pytest.fixture(scope="module", autouse=True)
def stopped(alone, tmp_path_factory):
    """Two ranks of which one stops in the middle; begun first, since it takes longest to be noticed."""
    case = Case(alone.checkpoint, tmp_path_factory.mktemp("stopped"))
    case.start("stop", 2, {1: Rank(at=moments(alone, 1)[MOMENTS // 2], kill=signal.SIGSTOP)})
    return case


def check_loss(case, name, victim, others):
    """The others ended in time, with a sentence that names the victim, and nothing was written."""
    for ended in others:
        assert ended.code == 2, ended.said
        assert f"rank {victim} of 2 is gone" in ended.said
        assert "Traceback" not in ended.said
    assert case.nothing_written(name)


def test_a_rank_killed_at_ten_moments(alone, case):
    """Each run ends within 30 s of the kill; the next gives the same bytes and repeats no finished range."""
    started = {}
    for number in range(MOMENTS):
        victim = number % 2
        special = {victim: Rank(at=moments(alone, victim)[number])}
        started[f"kill{number}"] = victim, case.start(f"kill{number}", 2, special)
    for name, (victim, launched) in started.items():
        ended = launched.wait()
        assert ended[victim].code == -signal.SIGKILL, ended[victim].said
        assert 0 < launched.seconds_to_notice(victim, 1 - victim) < SECONDS_TO_END
        check_loss(case, name, victim, [ended[1 - victim]])
    kept = {name: case.kept(name) for name in started}
    assert sorted(map(len, kept.values()))[MOMENTS // 2] > 5
    again = {name: case.start(name, 2) for name in started}
    for name, launched in again.items():
        assert [one.code for one in launched.wait()] == [0, 0]
        assert case.digest(name) == alone.digest("alone")
        assert kept[name].items() <= case.kept(name).items()


def test_torchrun_ends_when_one_of_its_ranks_is_killed(alone, case):
    """torchrun tells the others to stop, which say why; its exit code is not 0."""
    middle = moments(alone, 1)[MOMENTS // 2]
    code, said = end_torchrun(start_torchrun(2, case.arguments("torchrun"), TEST_VICTIM=f"1 {middle}"))
    assert code != 0
    assert "rank 1 of 2 is gone" in said
    assert case.nothing_written("torchrun")


def test_a_rank_that_is_stopped(stopped):
    """A process that no longer runs, but holds its connections, is lost after SILENCE."""
    ended = stopped.launched[0].wait()
    check_loss(stopped, "stop", 1, ended[:1])
    assert SILENCE - 2 < stopped.launched[0].seconds_to_notice(1, 0) < SECONDS_TO_END
