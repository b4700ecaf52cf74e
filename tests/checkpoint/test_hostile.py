"""What a hostile file says is read past, bounded and never run; the corpus itself is in `test_hostile_corpus.py`."""

from __future__ import annotations

import io
import pickle
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hostile.building import directory_of, name, ops, safetensors_bytes, state, tensor, write_archive
from hostile.pickles import EXHAUSTING, Reduced
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memrec_convert.checkpoint import read_source, verify_storage
from memrec_convert.checkpoint.inert.pickle_reader import read_pickle
from memrec_convert.checkpoint.inspect import inspect
from memrec_convert.errors import CheckpointError

EXECUTION_EVENTS = {
    "os.system",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "subprocess.Popen",
    "exec",
    "compile",
    "pickle.find_class",
    "import",
    "os.remove",
    "socket.connect",
    "code.__new__",
}
_seen: list[str] = []
_watching = False


def _audit(event: str, args: object) -> None:
    if _watching and event in EXECUTION_EVENTS:
        _seen.append(f"{event} {args!r}"[:200])


sys.addaudithook(_audit)  # cannot be taken away again; idle outside `nothing_runs`


@pytest.fixture(autouse=True, scope="module")
def _warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever the reader imports lazily is imported now, so that nothing may be imported while it is watched."""
    read_pickle(io.BytesIO(pickle.dumps({"a": 1})), "warm")
    with pytest.raises(CheckpointError):
        read_source(write_archive(tmp_path_factory.mktemp("warm") / "m.pt"))


@contextmanager
def nothing_runs() -> Iterator[None]:
    """Fail if anything is imported, compiled, executed or spawned inside."""
    global _watching
    _seen.clear()
    _watching = True
    try:
        yield
    finally:
        _watching = False
    assert _seen == []


def test_the_watch_sees_what_unpickling_runs():
    """The proof can fail: Python's own unpickler is caught by it."""
    with pytest.raises(AssertionError, match=r"pickle\.find_class"), nothing_runs():
        pickle.loads(pickle.dumps(Reduced(eval, "1 + 1")))


def assert_refused(path: Path, sentence: str | None = None, *, named: Path | None = None) -> None:
    """The file ends in one line that begins with its path, or that of the file in it that is named."""
    with pytest.raises(CheckpointError, match=sentence) as caught, nothing_runs():
        verify_storage(read_source(path))
    text = str(caught.value)
    assert text.startswith(str(named or path))
    assert text.endswith(".")
    assert text.isprintable()


def test_a_call_beside_a_model_is_named_and_not_made(dlrm_state, tmp_path, save):
    """A good model with a hostile object beside it is read, and the object's class is reported."""
    import os

    sentinel = tmp_path / "ran"
    for legacy in (False, True):
        path = save(
            {"state_dict": dlrm_state(), "hook": Reduced(os.system, f"touch {sentinel}")},
            _use_new_zipfile_serialization=not legacy,
        )
        assert inspect(path).unrun_classes == ("posix.system",)
    assert not sentinel.exists()


def test_the_unharmed_forms_of_these_pickles_are_read(tmp_path):
    """The helpers make real files: without the harm, the same bytes give a tensor."""
    path = write_archive(tmp_path / "m.pt", state(tensor()), storages=struct.pack("<6f", *range(6)))
    from memrec_convert.checkpoint.containers import open_checkpoint

    assert open_checkpoint(path).root["emb_l.0.weight"].read().tolist() == [[0, 1], [2, 3], [4, 5]]


def test_copies_of_one_long_value_are_bounded():
    """A megabyte that the memo hands to hundreds of calls is counted each time."""
    pickled = EXHAUSTING["long text encoded again and again"]()
    with pytest.raises(CheckpointError, match="its calls copy more than 32 MiB"):
        read_pickle(io.BytesIO(pickled), "m.pt > data.pkl")


def test_a_pickle_of_too_many_opcodes_ends(monkeypatch):
    """The number of steps is bounded."""
    monkeypatch.setattr("memrec_convert.checkpoint.inert.pickle_reader.MOST_OPCODES", 1000)
    with pytest.raises(CheckpointError, match="more than 1,000 opcodes"):
        read_pickle(io.BytesIO(b"N" * 2000 + b"."), "m.pt > data.pkl")


def test_names_from_a_file_are_printed_on_one_line(tmp_path):
    """Control characters and lone surrogates from a file never reach the terminal."""
    evil = "emb\n\x1b[31m\udc80"
    path = write_archive(tmp_path / "m.pt", b"\x80\x02}" + ops(evil) + tensor() + b"s.")
    assert_refused(path, r"emb\?\?\[31m\? \[3, 2\]")


def test_wrong_checksums_are_found(dlrm_file):
    """A changed pickle is found when the file is opened, a changed storage when its bytes are verified."""
    content = dlrm_file.read_bytes()
    source = read_source(dlrm_file)
    verify_storage(source)
    place = source.tables[1].weight.offset + 9
    dlrm_file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    assert_refused(dlrm_file, "data/1: the bytes do not match the archive's checksum")
    dlrm_file.write_bytes(content.replace(b"train_loss", b"train_lost"))
    assert_refused(dlrm_file, "data.pkl: the bytes do not match")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_ends_in_a_checkpoint_error_or_not_at_all(data, dlrm_state, save, tmp_path):
    """Whatever bytes change or go, the only exception is CheckpointError."""
    legacy = data.draw(st.booleans())
    content = bytearray(save({"state_dict": dlrm_state()}, _use_new_zipfile_serialization=not legacy).read_bytes())
    anywhere = st.integers(0, 2**20)  # whatever the length, which differs from one saving to the next
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(anywhere | st.integers(0, 300)) % len(content)
        content[place] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.pt"
    path.write_bytes(content[: 1 + data.draw(anywhere) % len(content) if data.draw(st.booleans()) else None])
    with suppress(CheckpointError):
        assert inspect(path).layout == "facebookresearch-dlrm"


def test_a_link_to_a_shard_is_followed_and_to_anything_else_is_refused(tmp_path):
    """Downloads are cached as links: what they lead to must be safetensors by itself."""
    entry = {"emb_l.0.weight": {"dtype": "F32", "shape": [3, 2], "data_offsets": [0, 24]}}
    index = b'{"weight_map": {"emb_l.0.weight": "a.safetensors"}}'
    build, _ = directory_of({"m.safetensors.index.json": index}, "", links={"a.safetensors": "../blob"})
    folder = build(tmp_path)
    (tmp_path / "blob").write_bytes(safetensors_bytes(entry))
    assert inspect(folder).tables[0]["rows"] == 3
    (tmp_path / "blob").write_bytes(b"root:x:0:0:root:/root:/bin/sh\n")
    assert_refused(folder / "m.safetensors.index.json", None, named=folder / "a.safetensors")


NAMES = [
    name("os", "system"),
    name("collections", "OrderedDict"),
    name("numpy", "dtype"),
    name("numpy._core.multiarray", "_reconstruct"),
    name("_codecs", "encode"),
    name("torch", "Size"),
    name("torch._utils", "_rebuild_tensor_v2"),
]
COMMON = [ops("a"), ops(1), b"(", b"t", b"]", b"}", b")", b"R", b"b", b"q\x00", b"h\x00", b"Q", b"s", b"u", b"e"]
OPCODES = st.sampled_from([bytes([code]) for code in range(256)]) | st.sampled_from(COMMON + NAMES)


@settings(max_examples=300, deadline=None)
@given(st.lists(OPCODES, max_size=40))
def test_any_sequence_of_opcodes_ends(program):
    """A pickle made at random gives inert values or a CheckpointError, and nothing else."""
    with suppress(CheckpointError), nothing_runs():
        root = read_pickle(io.BytesIO(b"".join(program) + b"."), "m.pt > data.pkl").root
        assert not callable(root)
