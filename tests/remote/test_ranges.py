"""Checkpoints by URL, over a store in memory: ranges, faults, replacement, and never other bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from faulty_store import FAULTS, Faulty, put
from hypothesis import given, settings
from hypothesis import strategies as st
from sparse import write_sparse_safetensors

from memrec_convert import convert, inspect, plan
from memrec_convert.checkpoint import read_source
from memrec_convert.errors import CheckpointError, OutputError
from memrec_convert.remote import as_source, at_hand


def shown(found):
    """What inspect says, without what it calls the file."""
    return {name: value for name, value in found.to_json().items() if name not in ("assumed", "warnings")}


def test_a_url_is_inspected_as_its_file_is(tiny):
    """Layout, tables, dense part and optimizer are the local file's."""
    url = put(tiny.checkpoint)
    assert shown(inspect(url)) == shown(inspect(tiny.checkpoint))
    assert inspect(url, scan=True).tables == inspect(tiny.checkpoint, scan=True).tables


def test_every_container_reads_by_url(tiny, tmp_path):
    """Safetensors, legacy files and directories too: tensors are equal to the local ones, bit by bit."""
    state = torch.load(tiny.bare, weights_only=True)["state_dict"]
    torch.save({"state_dict": state}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for rank in range(2):
        torch.save({"state_dict": state}, tmp_path / f"rank{rank}.pt")
        put(tmp_path / f"rank{rank}.pt", f"faulty://bucket/ranks/rank{rank}.pt")
    for local, url in ((tmp_path / "old.pt", "faulty://bucket/old.pt"), (tiny.bare, "faulty://bucket/ranks")):
        if local.name == "old.pt":
            put(local, url)
        ours, theirs = read_source(url), read_source(local)
        assert [table.name for table in ours.tables] == [table.name for table in theirs.tables]
        for one, other in zip(ours.tables, theirs.tables, strict=True):
            assert (one.weight.read() == other.weight.read()).all()
            ids = torch.randperm(one.rows)[:9].sort().values.numpy()
            assert (one.weight.read_ids(ids) == other.weight.read_ids(ids)).all()


@given(fault=st.sampled_from(FAULTS), when=st.integers(0, 40), times=st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_faults_that_pass_are_survived(tiny, fault, when, times):
    """Up to three faults in a row anywhere: all rows arrive, as they are."""
    url = put(tiny.checkpoint)
    Faulty.faults = [None] * when + [fault] * times
    for one, other in zip(read_tables(url), read_tables(tiny.checkpoint), strict=True):
        assert (one == other).all()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_stays_is_one_sentence(tiny, fault):
    """Four tries, then a CheckpointError that names URL and fault."""
    url = put(tiny.checkpoint)
    Faulty.faults = [None, *[fault] * 9]
    with pytest.raises(CheckpointError, match=r"^faulty://bucket/dlrm\.pt: cannot be read \(bytes .* in 4 tries: "):
        inspect(url)
    assert len(Faulty.faults) == 5


@pytest.mark.parametrize("change", ["replaced", "gone"])
@pytest.mark.parametrize("when", range(12))
def test_an_object_that_changes_is_never_read_on(tiny, change, when):
    """Replaced by another of the same size, or removed, at any read: refused, or read before."""
    url = put(tiny.checkpoint)
    Faulty.faults = [None] * when + [change]
    with pytest.raises(CheckpointError, match="replaced while it was read"):
        read_tables(url)
    read_tables(put(tiny.checkpoint))  # asked anew, the object is what it is now


def read_tables(path) -> list:
    """The rows of every table of a checkpoint."""
    return [table.weight.read() for table in read_source(path).tables]


def test_conversion_by_url_gives_the_files_bytes(tiny, tmp_path, monkeypatch):
    """The artifact is the local checkpoint's to the byte, each byte is read once, and the copy is gone."""
    monkeypatch.chdir(tmp_path)
    options = {"method": "int8", "data": tiny.train}
    convert(tiny.checkpoint, "12kB", out="local.safetensors", **options)
    url = put(tiny.checkpoint)
    before = set(tmp_path.iterdir())
    convert(url, "12kB", **options)
    assert {path.name for path in set(tmp_path.iterdir()) - before} == {
        "dlrm.safetensors",
        "dlrm.report.json",
        "dlrm.card.md",
    }
    assert Path("dlrm.safetensors").read_bytes() == Path("local.safetensors").read_bytes()
    assert Faulty.moved == tiny.checkpoint.stat().st_size
    assert plan(url, "12kB", **options).tables == plan(tiny.checkpoint, "12kB", **options).tables


def test_work_keeps_the_copy_of_a_version(tiny, tmp_path):
    """A second run reads nothing; another version is read anew; a failed copy leaves none."""
    url = put(tiny.bare)
    with at_hand(url, tmp_path, None, lambda *_: None) as first:
        assert first.read_bytes() == tiny.bare.read_bytes()
    moved = Faulty.moved
    with at_hand(url, tmp_path, None, lambda *_: None) as again:
        assert (again, Faulty.moved) == (first, moved)
    put(tiny.checkpoint)
    before = set(tmp_path.rglob("*"))
    Faulty.faults = [TimeoutError("late")] * 4
    with pytest.raises(CheckpointError, match="in 4 tries"), at_hand(url, tmp_path, None, lambda *_: None):
        pass
    assert [path for path in set(tmp_path.rglob("*")) - before if not path.is_dir() or ".partial" in path.name] == []
    with at_hand(url, tmp_path, None, lambda *_: None) as other:
        assert other != first
        assert other.read_bytes() == tiny.checkpoint.read_bytes()


def test_a_directory_is_copied_whole(tiny, tmp_path):
    """Every object below, under its own name; a name that leads out is refused."""
    put(tiny.bare, "faulty://bucket/dir/rank0.pt")
    put(tiny.checkpoint, "faulty://bucket/dir/inner/rank1.pt")
    with at_hand("faulty://bucket/dir", None, tmp_path, lambda *_: None) as copy:
        assert (copy / "rank0.pt").read_bytes() == tiny.bare.read_bytes()
        assert (copy / "inner" / "rank1.pt").read_bytes() == tiny.checkpoint.read_bytes()
    assert list(tmp_path.iterdir()) == []


def test_a_copy_that_has_no_room_is_refused_before_it_begins(tmp_path):
    """The sentence names what is needed and --work."""
    url = put(write_sparse_safetensors(tmp_path / "small.safetensors", {"emb_l.0.weight": (10, 4)}))
    store = as_source(url)
    known = store.require()
    object.__setattr__(known, "size", 1 << 60)
    with pytest.raises(CheckpointError, match=r"has room for .*--work DIR"), at_hand(store, None, tmp_path, print):
        pass
    assert Faulty.requests == 0


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("faulty://bucket/none.pt", "no such"),
        ("nosuchstore://bucket/dlrm.pt", "nosuchstore"),
        ("zip://a::faulty://bucket/dlrm.pt", "chain"),
    ],
)
def test_a_url_that_names_nothing_is_one_sentence(url, said, tmp_path):
    """A missing object, an unknown scheme, a chain: for inspect and for convert, which writes nothing."""
    with pytest.raises(CheckpointError, match=said):
        inspect(url)
    with pytest.raises(CheckpointError, match=said):
        convert(url, "12kB", out=tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_the_query_of_a_url_names_no_file(tiny, tmp_path, monkeypatch):
    """The artifact and the copy are called after the object, however long a signature follows."""
    monkeypatch.chdir(tmp_path)
    url = put(tiny.bare, "faulty://bucket/dlrm.pt?signature=" + "0" * 300)
    convert(url, "12kB", method="int8")
    assert Path("dlrm.safetensors").is_file()


def test_what_may_not_be_asked_for_is_taken_for_missing(tiny, monkeypatch):
    """A bucket that lets a key be read and nothing else be listed is read; the key itself has to be allowed."""
    url, info = put(tiny.bare), Faulty.info

    def guarded(self, path, **options):
        if not path.endswith("dlrm.pt"):
            raise PermissionError("Access Denied")
        return info(self, path, **options)

    monkeypatch.setattr(Faulty, "info", guarded)
    assert len(inspect(url).tables) == 3
    with pytest.raises(CheckpointError, match="Access Denied"):
        inspect("faulty://bucket/other.pt")


def test_no_result_is_written_to_a_url(tiny, tmp_path):
    """The artifact is a local file."""
    with pytest.raises(OutputError, match="written to local files"):
        convert(tiny.checkpoint, "12kB", out="s3://bucket/small.safetensors")


def test_a_url_of_this_machine_is_a_local_path(tmp_path):
    """file:///path and file:/path name local files."""
    assert as_source(f"file://{tmp_path}/a%20b.pt") == tmp_path / "a b.pt"
    assert as_source(f"file:{tmp_path}/a.pt") == tmp_path / "a.pt"


@pytest.mark.parametrize(
    "url", ["faulty:///bucket/a.pt", "faulty://", "faulty://bucket//a.pt", "https://h/a.pt?s=x//y"]
)
def test_slashes_that_a_path_would_lose_are_refused(url):
    """Another object is never read instead; a query, which may hold a secret, is not repeated."""
    with pytest.raises(CheckpointError, match=r"no host or bucket|two slashes in a row") as raised:
        as_source(url)
    assert "x//y" not in str(raised.value)


def test_the_name_of_a_url_comes_from_its_path():
    """A query may have slashes and dots."""
    assert as_source("https://h/d/a.pt?sig=a/b.c").local_name == "a.pt"
