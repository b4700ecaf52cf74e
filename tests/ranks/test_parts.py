"""The parts of a crew by themselves: who is alive, who takes which block, what travels between ranks."""

import threading
import time
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch.distributed as dist

from memrec_convert.checkpoint import checksum, read_source, reading, verify_storage
from memrec_convert.checkpoint.checksum import sum_part
from memrec_convert.clicklog import LogSchema, open_log, take_profile
from memrec_convert.conversion.inputs.kept_fits import FitStore
from memrec_convert.conversion.ranks import alive, crew
from memrec_convert.conversion.ranks.alive import Watch
from memrec_convert.conversion.ranks.joining import is_ranked, look_at_files
from memrec_convert.errors import CheckpointError, LogError, OptionError, RankError
from memrec_convert.file_digest import FilesDigest
from memrec_convert.parallel import ALONE, Job, Pass


@pytest.fixture
def quick(monkeypatch):
    """Silence is short, so that a test need not wait for it."""
    monkeypatch.setattr(alive, "SILENCE", 0.6)
    monkeypatch.setattr(alive, "SHORT_SILENCE", 0.4)
    monkeypatch.setattr(alive, "FIRST_BEAT", 0.8)
    monkeypatch.setattr(alive, "SECONDS_BETWEEN_BEATS", 0.05)


def wait_for_error(watch):
    """The sentence that `check` raises in the end."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        try:
            watch.check()
        except RankError as error:
            return str(error)
        time.sleep(0.02)
    raise AssertionError("nothing was noticed")


def test_a_rank_that_never_came_is_lost(quick):
    """Rank 1 gives no beat at all."""
    watch = Watch(dist.HashStore(), 0, 2)
    watch.start()
    assert "rank 1 of 2 is gone" in wait_for_error(watch)
    watch.stop()


def test_a_rank_that_falls_silent_is_lost_and_one_that_is_done_is_not(quick):
    """Of three, one ends as it should and one without a word."""
    store = dist.HashStore()
    watches = [Watch(store, rank, 3) for rank in range(3)]
    for watch in watches:
        watch.start()
    time.sleep(0.3)
    watches[1].stop()
    watches[2].over.set()
    assert "rank 2 of 3 is gone" in wait_for_error(watches[0])
    watches[0].stop()


def test_a_failure_is_told_to_all(quick):
    """The first rank to fail is heard, and its sentence is everybody's."""
    store = dist.HashStore()
    watches = [Watch(store, rank, 2) for rank in range(2)]
    for watch in watches:
        watch.start()
    watches[1].fail("the disk is full")
    watches[0].fail("a later sentence")
    other = Watch(store, 0, 2)
    other.start()
    assert wait_for_error(other) == "rank 1 stopped, and with it the others: the disk is full"
    other.stop()


def test_a_store_that_does_not_answer_is_named(quick):
    """Whoever hosts it is gone."""

    class Gone:
        def set(self, *_):
            raise RuntimeError("connection closed")

        get = check = set

    watch = Watch(Gone(), 1, 2)
    watch.start()
    assert "does not answer: the machine that hosts it (rank 0's) is gone" in wait_for_error(watch)
    assert isinstance(watch.explain("otherwise"), RankError)
    watch.stop()


class Meeting:
    """A wire between threads of one process."""

    def __init__(self, size):
        self.size, self.barrier, self.places = size, threading.Barrier(size, timeout=20), [None] * size

    def exchange(self, rank, value):
        """What all have brought."""
        self.places[rank] = value
        self.barrier.wait()
        found = list(self.places)
        self.barrier.wait()
        return found


@dataclass
class ThreadWire:
    """As `Wire`, for a thread."""

    rank: int
    size: int
    meeting: Meeting

    def gather(self, own):
        """The arrays of all."""
        return np.stack(self.meeting.exchange(self.rank, own))

    def spread(self, owner, content, nbytes):
        """The owner's bytes."""
        found = self.meeting.exchange(self.rank, content)[owner] if nbytes else b""
        assert len(found) == nbytes
        return found

    def add(self, own):
        """The sum over all."""
        return sum(self.meeting.exchange(self.rank, own))

    def gather_texts(self, own):
        """The texts of all."""
        return self.meeting.exchange(self.rank, own)


def run_ranks(size, function):
    """`function(crew)` at every rank; its results or errors in their order."""
    meeting, found = Meeting(size), [None] * size

    def run(rank):
        try:
            found[rank] = function(crew.RankedCrew(ThreadWire(rank, size, meeting)))
        except RankError as error:
            found[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize(("count", "block"), [(0, 1), (1, 1), (2, 1), (7, 1), (7, 3), (20, 4)])
def test_every_block_is_made_once_and_known_to_all(size, count, block):
    """Also with more ranks than blocks, and with none."""
    made = []

    def square(number):
        made.append(number)
        return number * number, np.arange(number, dtype=np.int16)

    found = run_ranks(size, lambda one: list(one.map("squares", square, list(range(count)), block=block)))
    assert sorted(made) == list(range(count))
    for results in found:
        assert [(number, array.tolist()) for number, array in results] == [
            (n * n, list(range(n))) for n in range(count)
        ]


def test_what_one_rank_holds_is_made_by_none(tmp_path):
    """Blocks come from the store of whoever has them; the rest is shared evenly."""
    stores = [FitStore(tmp_path / str(rank), {}) for rank in range(2)]
    for store in stores:
        store.folder.mkdir()
    made: list[int] = []

    def run(one, count):
        keeping = one.keeping(stores[one.wire.rank])
        return list(keeping.map("doubles", lambda n: (made.append(n), 2 * n)[1], list(range(count))))

    assert run_ranks(2, lambda one: run(one, 6)) == [[0, 2, 4, 6, 8, 10]] * 2
    assert [len(list(store.folder.iterdir())) for store in stores] == [3, 3]
    made.clear()
    assert run_ranks(2, lambda one: run(one, 6)) == [[0, 2, 4, 6, 8, 10]] * 2
    assert made == []
    next(stores[1].folder.iterdir()).unlink()
    run_ranks(2, lambda one: run(one, 6))
    assert len(made) == 1


@pytest.mark.parametrize("block", [1, 2], ids=["tasks", "ranges"])
def test_who_takes_what(block):
    """Blocks go to the ranks to and fro, so that none has the dear ones alone."""
    takers: dict[int, int] = {}

    def run(one):
        list(
            one.map("a pass", lambda n: takers.update({n // block: one.wire.rank}), list(range(7 * block)), block=block)
        )

    run_ranks(3, run)
    assert [takers[number] for number in range(7)] == [0, 1, 2, 2, 1, 0, 0]


def test_dear_blocks_are_shared_evenly():
    """By what they cost, wherever they stand; a rank with one dear block takes no other."""
    takers: dict[int, int] = {}
    costs = [1.0, 1.0, 9.0, 1.0, 2.0, 5.0, 1.0, 1.0]

    def run(one):
        return list(one.map("a pass", lambda n: takers.update({n: one.wire.rank}) or n, range(8), costs=costs))

    assert run_ranks(2, run) == [list(range(8))] * 2
    loads = [sum(costs[n] for n, taker in takers.items() if taker == rank) for rank in range(2)]
    assert loads == [11.0, 10.0]
    with pytest.raises(ValueError, match="7 costs of 8 items"):
        Pass("a pass", len, range(8), costs=costs[:7])


def test_what_costs_nothing_is_shared_too():
    """Every rank takes some of it."""
    takers: list[int] = []
    run_ranks(3, lambda one: list(one.map("a pass", lambda _: takers.append(one.wire.rank), range(6), costs=[0.0] * 6)))
    assert sorted(takers) == [0, 0, 1, 1, 2, 2]


def test_ranks_with_other_costs_are_told_so():
    """They would share out otherwise, and wait for blocks that nobody makes."""
    found = run_ranks(2, lambda one: list(one.map("a pass", str, range(3), costs=[1.0, 2.0, 3.0 + one.wire.rank])))
    assert all("rank 1 has come to another step than rank 0 (here: a pass" in str(error) for error in found)


def job(name, made, count, *, block=1, cost=1.0):
    """Of so many squares the sum; `made` takes what has been made."""

    def square(number):
        made.append((name, number))
        return number * number

    return Job(Pass(name, square, range(count), block=block, costs=[cost] * count), lambda found: (name, sum(found)))


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_jobs_are_shared_together(size):
    """Each item of each is made once, every rank has all results, and one job may be empty or dear."""
    made: list[tuple[str, int]] = []
    shapes = [("a", 5, 2, 1.0), ("b", 0, 1, 1.0), ("c", 1, 1, 30.0), ("d", 7, 3, 0.5)]
    jobs = [job(name, made, count, block=block, cost=cost) for name, count, block, cost in shapes]
    expected = [(name, sum(n * n for n in range(count))) for name, count, _, _ in shapes]
    assert ALONE.finish(jobs) == expected
    assert sorted(made) == sorted((name, n) for name, count, _, _ in shapes for n in range(count))
    made.clear()
    assert run_ranks(size, lambda one: one.finish(jobs)) == [expected] * size
    assert sorted(made) == sorted((name, n) for name, count, _, _ in shapes for n in range(count))


def test_of_several_jobs_what_is_held_is_not_made_again(tmp_path):
    """By one process too; a rank that holds nothing gets it from the others."""
    made: list[tuple[str, int]] = []
    jobs = [job("a", made, 4, block=2), job("b", made, 3)]
    stores = [FitStore(tmp_path / str(rank), {}) for rank in range(2)]
    for store in stores:
        store.folder.mkdir()
    for _ in range(2):
        assert run_ranks(2, lambda one: one.keeping(stores[one.wire.rank]).finish(jobs)) == [[("a", 14), ("b", 5)]] * 2
        assert len(made) == 7
    assert all(len(list(store.folder.iterdir())) for store in stores)
    made.clear()
    keeping = crew.KeepingCrew(stores[0])
    assert keeping.finish(jobs) == [("a", 14), ("b", 5)]
    assert 0 < len(made) < 7
    made.clear()
    assert keeping.finish(jobs) == [("a", 14), ("b", 5)]
    assert made == []


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("layout", ["row groups", "files", "one file"])
def test_a_log_is_counted_by_all(tmp_path, size, layout):
    """Every part of it is read by one rank; the profile is that of one process."""
    draw = np.random.default_rng(0)
    rows = 4000
    log = pa.table(
        {"label": draw.integers(0, 2, rows), "C1": draw.integers(0, 50, rows), "C2": draw.integers(0, 7, rows)}
    )
    if layout == "files":
        for number in range(4):
            pq.write_table(log.slice(number * 1000, 1000), tmp_path / f"{number}.parquet", row_group_size=300)
    else:
        pq.write_table(log, tmp_path / "0.parquet", row_group_size=300 if layout == "row groups" else rows)
    schema = LogSchema((("C1", 50), ("C2", 7)), 0)
    alone = take_profile(open_log(tmp_path, schema))
    assert [int(one.sum()) for one in alone.counts] == [rows, rows]
    for found in run_ranks(size, lambda one: take_profile(open_log(tmp_path, schema), crew=one)):
        assert (found.samples, found.digest) == (alone.samples, alone.digest)
        for own, other in zip(found.counts, alone.counts, strict=True):
            np.testing.assert_array_equal(own, other)


def test_a_log_without_rows_is_refused_by_all(tmp_path):
    """As by one process."""
    pq.write_table(
        pa.table({"label": pa.array([], pa.int64()), "C1": pa.array([], pa.int64())}), tmp_path / "0.parquet"
    )

    def run(one):
        with pytest.raises(LogError, match="holds no rows"):
            take_profile(open_log(tmp_path, LogSchema((("C1", 5),), 0)), crew=one)
        return True

    assert run_ranks(2, run) == [True, True]


def test_what_rank_0_decides_is_known_to_all():
    """Only rank 0 makes it."""
    made = []

    def run(one):
        return one.decide("a thing", lambda: made.append(one.wire.rank) or {"rank": one.wire.rank})

    assert run_ranks(3, run) == [{"rank": 0}] * 3
    assert made == [0]
    assert ALONE.decide("a thing", lambda: 5) == 5


def test_ranks_at_different_steps_are_told_so():
    """A crew whose members decide differently would wait for ever, or mix up results."""
    found = run_ranks(2, lambda one: one.decide(f"step {one.wire.rank}", lambda: 1))
    assert all("rank 1 has come to another step than rank 0" in str(error) for error in found)


def test_different_values_are_named():
    """With the rank and both values, the long ones cut."""
    found = run_ranks(3, lambda one: one.agree("the seed", lambda: "x" * 500 if one.wire.rank == 2 else "7"))
    assert all("rank 2 differs from rank 0 in the seed: xxx" in str(error) for error in found)
    assert all(len(str(error)) < 400 for error in found)


def test_files_are_told_apart_by_what_they_hold(tmp_path):
    """One byte in a small file, the size of a large one; the folder does not count."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.pt").write_bytes(bytes(10_000))
    first = look_at_files([tmp_path / "a" / "x.pt"])
    assert first == look_at_files([tmp_path / "b" / "x.pt"])
    (tmp_path / "b" / "x.pt").write_bytes(bytes(5_000) + b"1" + bytes(4_999))
    assert first != look_at_files([tmp_path / "b" / "x.pt"])


def test_one_process_is_no_crew():
    """Nor one of a group that torchrun did not start."""
    assert not is_ranked({})
    assert not is_ranked({"RANK": "0", "WORLD_SIZE": "1"})
    assert not is_ranked({"WORLD_SIZE": "4"})
    assert is_ranked(PLACE)


PLACE = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("WORLD_SIZE", value) for value in ("abc", "1.5", "0", "-1", "9" * 20)),
        *(("RANK", value) for value in ("", "x", "2", "-1", "٣")),
        *(("MASTER_PORT", value) for value in ("", "abc", "99999", "0")),
        ("MASTER_ADDR", ""),
    ],
)
def test_an_environment_that_leads_nowhere_is_refused(name, value):
    """In a sentence that names the variable, before anything is waited for."""
    with pytest.raises(OptionError, match=f"{name}.*start ranks with torchrun, or unset"):
        is_ranked(PLACE | {name: value})


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_checksums_are_shared(checkpoint, monkeypatch, size):
    """Each part of a storage is read by exactly one rank."""
    source, read = read_source(checkpoint), []

    def note(part):
        read.append(part)
        return sum_part(part)

    monkeypatch.setattr(checksum, "PART_BYTES", 10_000)
    monkeypatch.setattr(reading, "sum_part", note)
    run_ranks(size, lambda one: verify_storage(source, one))
    assert len(read) == len(set(read)) > len(source.tables) + len(source.dense)
    tensors = [*(table.weight for table in source.tables), *source.dense.values()]
    assert sum(part.nbytes for part in read) == sum(piece.nbytes for tensor in tensors for piece in tensor.pieces)


def test_a_damaged_storage_is_named_whoever_reads_it(checkpoint, tmp_path):
    """As by one process."""
    content = bytearray(checkpoint.read_bytes())
    table = read_source(checkpoint).tables[1].weight.pieces[0]
    content[table.offset + 40] ^= 1
    (tmp_path / "dlrm.pt").write_bytes(content)
    source = read_source(tmp_path / "dlrm.pt")
    with pytest.raises(CheckpointError) as alone:
        verify_storage(source)
    said = []

    def run(one):
        try:
            verify_storage(source, one)
        except CheckpointError as error:
            said.append(str(error))

    run_ranks(3, run)
    assert said == [str(alone.value)] * 3


@pytest.mark.parametrize("size", [1, 2, 3])
def test_digests_are_shared(tmp_path, size):
    """Several files and one: each is read once, and the digest is that of one process."""
    files = [tmp_path / name for name in ("a", "b", "c")]
    for number, path in enumerate(files):
        path.write_bytes(bytes([number]) * 1000)
    for chosen in (files, files[:1]):
        assert (
            run_ranks(size, lambda one, chosen=chosen: FilesDigest(chosen).hex(one))
            == [FilesDigest(chosen).hex()] * size
        )
