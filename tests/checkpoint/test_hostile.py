"""Hostile files: each ends in one sentence, or is read past, and nothing from it is ever run."""

from __future__ import annotations

import io
import json
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memrec_convert.checkpoint import read_source, verify_storage
from memrec_convert.checkpoint.inspection import inspect
from memrec_convert.checkpoint.pickle_reader import read_pickle
from memrec_convert.errors import CheckpointError

EXECUTION_EVENTS = {"os.system", "os.exec", "os.fork", "os.posix_spawn", "subprocess.Popen", "exec", "compile",
                    "pickle.find_class", "import", "os.remove", "socket.connect", "code.__new__"}  # fmt: skip
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


def ops(value: object) -> bytes:
    """The opcodes that push a plain value."""
    return pickle.dumps(value, 2)[2:-1]


def name(module: str, attribute: str) -> bytes:
    """The opcode that pushes a class or function."""
    return f"c{module}\n{attribute}\n".encode()


def storage(kind: str = "FloatStorage", key: object = "0", elements: object = 6) -> bytes:
    """The opcodes that push a torch storage."""
    return b"(" + ops("storage") + name("torch", kind) + ops(key) + ops("cpu") + ops(elements) + b"tQ"


def tensor(pushed: bytes | None = None, offset: object = 0, shape: object = (3, 2), strides: object = (2, 1)) -> bytes:
    """The opcodes that push a torch tensor."""
    parts = ops(offset) + ops(shape) + ops(strides) + ops(False) + name("collections", "OrderedDict") + b")R"
    return name("torch._utils", "_rebuild_tensor_v2") + b"(" + (pushed or storage()) + parts + b"tR"


def state(value: bytes) -> bytes:
    """A pickled state dict with one table."""
    return b"\x80\x02}" + ops("emb_l.0.weight") + value + b"s."


def write_archive(
    path: Path, pickled: bytes = b"\x80\x02}.", *, storages: bytes = bytes(24), compression: int = 0, **more: bytes
) -> Path:
    """A torch archive with this pickle, one storage, and further members ('/' in names written as '__')."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("m/data.pkl", pickled)
        archive.writestr("m/data/0", storages)
        for member, content in more.items():
            archive.writestr(member.replace("__", "/"), content)
    return path


def assert_refused(path: Path, sentence: str | None = None) -> None:
    """The file ends in one line that begins with its path."""
    with pytest.raises(CheckpointError, match=sentence) as caught, nothing_runs():
        verify_storage(read_source(path))
    text = str(caught.value)
    assert text.startswith(str(path))
    assert text.endswith(".")
    assert text.isprintable()


class Reduced:
    """Pickles as a call of a function that this process would run if it unpickled it."""

    def __init__(self, function: Callable[..., object], *args: object) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def calls(sentinel: Path) -> dict[str, bytes]:
    """Pickles that would write the sentinel file, by the trick that they use."""
    import os
    import subprocess

    command, code = f"touch {sentinel}", f"open({str(sentinel)!r}, 'w')"
    tricks: dict[str, object] = {
        "os.system": Reduced(os.system, command),
        "eval": Reduced(eval, code),
        "exec": Reduced(exec, code),
        "open": Reduced(open, str(sentinel), "w"),
        "subprocess": Reduced(subprocess.Popen, command.split()),
        "getattr": Reduced(getattr, Reduced(__import__, "os"), "system"),
        "in a list": [1, {"a": (Reduced(os.system, command),)}],
    }
    pickles = {
        f"{trick}, protocol {protocol}": pickle.dumps(value, protocol)
        for trick, value in tricks.items()
        for protocol in (0, 2, 4, 5)
    }
    call = ops(command)
    return pickles | {
        "INST": b"(" + call + b"ios\nsystem\n.",
        "OBJ": b"(" + name("os", "system") + call + b"o.",
        "NEWOBJ": name("os", "system") + b"(" + call + b"t\x81.",
        "NEWOBJ_EX": name("os", "system") + b"(" + call + b"t}\x92.",
        "STACK_GLOBAL": ops("os") + ops("system") + b"\x93(" + call + b"tR.",
        "dotted name": ops("os") + ops("path.os.system") + b"\x93(" + call + b"tR.",
        "called result": name("operator", "attrgetter") + b"(" + ops("system") + b"tR(" + name("os", "x") + b"tR.",
        "BUILD with __setstate__": name("os", "x")
        + b")\x81}" + ops("__setstate__") + name("os", "system") + b"sb" + call + b"b.",
        "BUILD with __class__": name("os", "x") + b")\x81}" + ops("__class__") + name("os", "system") + b"sb.",
        "nested pickle": name("torch.storage", "_load_from_bytes") + b"(" + ops(b"cos\nsystem\n.") + b"tR.",
        "subclass rebuild": name("torch._tensor", "_rebuild_from_type_v2")
        + b"(" + name("os", "system") + name("os", "x") + b"(" + call + b"t}tR.",
        "dict factory": name("collections", "defaultdict") + b"(" + name("os", "system") + b"tR" + ops("k") + b"Ns.",
        "code object": name("types", "CodeType") + b"(" + call + b"tR.",
    }  # fmt: skip


@pytest.mark.parametrize("trick", calls(Path("x")))
def test_no_call_in_a_pickle_is_made(trick, tmp_path):
    """Every way of a pickle to call something is walked past: alone a refusal, beside a model only a name."""
    sentinel = tmp_path / "ran"
    assert_refused(write_archive(tmp_path / "m.pt", calls(sentinel)[trick]))
    assert not sentinel.exists()


def test_a_call_beside_a_model_is_named_and_not_made(dlrm_state, tmp_path, save):
    """A good model with a hostile object beside it is read, and the object's class is reported."""
    import os

    sentinel = tmp_path / "ran"
    for legacy in (False, True):
        path = save(
            {"state_dict": dlrm_state(), "hook": Reduced(os.system, f"touch {sentinel}")},
            _use_new_zipfile_serialization=not legacy,
        )
        assert inspect(path)["unrun_classes"] == ["posix.system"]
    assert not sentinel.exists()


F8 = name("numpy", "dtype") + b"(" + ops("f8") + b"tR"
DAMAGED_PICKLES = {
    "empty": b"",
    "without its end": b"\x80\x02}",
    "cut inside a string": b"\x80\x02X\x10\x00\x00\x00abc",
    "not an opcode": b"\x80\x02\xff.",
    "empty stack": b"\x80\x02.",
    "pop from nothing": b"\x80\x020.",
    "tuple from nothing": b"\x80\x02\x87.",
    "mark from nothing": b"\x80\x02Nt.",
    "memo without entry": b"\x80\x02h\x05.",
    "put from nothing": b"\x80\x02q\x00.",
    "text of 2^62 bytes": b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"a.",
    "integer of 2^31 bytes": b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"a.",
    "integer of minus 5 bytes": b"\x80\x02\x8b" + struct.pack("<i", -5) + b"a.",
    "escape that is none": b"\x80\x02ca\\S\nb\n.",
    "decimal that is none": b"Ix\n.",
    "decimal of a million digits": b"L" + b"9" * 1_000_000 + b"L\n.",
    "extension registry": b"\x80\x02\x82\x01.",
    "buffer outside": b"\x80\x05\x97.",
    "marks without end": b"\x80\x02" + b"(" * 20_000 + b".",
    "call of a number": b"\x80\x02K\x01)R.",
    "call with a number": b"\x80\x02" + name("os", "system") + b"K\x01R.",
    "append to a number": b"\x80\x02K\x01K\x02a.",
    "key of a number": b"\x80\x02K\x01K\x02K\x03s.",
    "key without value": b"\x80\x02}(K\x01K\x02K\x03u.",
    "class with a number for a name": b"\x80\x04K\x01K\x02\x93.",
    "class with an endless name": b"\x80\x02c" + b"a" * 5000 + b"\nb\n.",
    "persistent id that is no storage": b"\x80\x02" + ops(("module", "os")) + b"Q.",
    "storage key that is a list": state(tensor(storage(key=["0"]))),
    "storage key outside": state(tensor(storage(key="../../0"))),
    "storage that is missing": state(tensor(storage(key="7"))),
    "storage of an unknown type": state(tensor(storage(kind="EvilStorage"))),
    "storage longer than its bytes": state(tensor(storage(elements=7))),
    "storage shorter than its bytes": state(tensor(storage(elements=5))),
    "storage of negative length": state(tensor(storage(elements=-6))),
    "storage of 2^62 elements": state(tensor(storage(elements=2**62))),
    "storage of text length": state(tensor(storage(elements="6"))),
    "tensor past its storage": state(tensor(shape=(4, 2))),
    "tensor past its storage by offset": state(tensor(offset=1)),
    "tensor past its storage by strides": state(tensor(strides=(3, 1))),
    "tensor of negative rows": state(tensor(shape=(-3, 2))),
    "tensor of negative strides": state(tensor(offset=4, strides=(-2, 1))),
    "tensor of negative offset": state(tensor(offset=-1)),
    "tensor of 2^64 elements": state(tensor(shape=(2**32, 2**32), strides=(0, 0))),
    "tensor of fractional rows": state(tensor(shape=(1.5, 2))),
    "tensor of true rows": state(tensor(shape=(True, 2))),
    "tensor with one stride": state(tensor(strides=(1,))),
    "tensor of a thousand dimensions": state(tensor(shape=(1,) * 1000, strides=(1,) * 1000)),
    "tensor without parts": state(name("torch._utils", "_rebuild_tensor_v2") + b")R"),
    "size that is no size": b"\x80\x02" + name("torch", "Size") + b"(" + ops([-1]) + b"tR.",
    "numpy scalar of wrong length": b"\x80\x02" + name("numpy.core.multiarray", "scalar") + b"("
    + F8 + ops("abc") + b"tR.",
    "numpy dtype of unknown order": b"\x80\x02" + F8 + ops((3, "@")) + b"b.",
    "bytes in an unknown encoding": b"\x80\x02" + name("_codecs", "encode") + b"(" + ops("a") + ops("rot13") + b"tR.",
    "set of a number": b"\x80\x02" + name("builtins", "set") + b"(K\x01tR.",
    "mapping of numbers": b"\x80\x02" + name("collections", "OrderedDict") + b"(" + ops([1, 2]) + b"tR.",
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGED_PICKLES)
def test_a_damaged_pickle_is_one_sentence(kind, tmp_path):
    """What a pickle cannot mean is refused at its place, before anything is allocated or read."""
    assert_refused(write_archive(tmp_path / "m.pt", DAMAGED_PICKLES[kind]), "data.pkl|data/0")


def test_the_unharmed_forms_of_these_pickles_are_read(tmp_path):
    """The helpers make real files: without the harm, the same bytes give a tensor."""
    path = write_archive(tmp_path / "m.pt", state(tensor()), storages=struct.pack("<6f", *range(6)))
    from memrec_convert.checkpoint.containers import open_checkpoint

    assert open_checkpoint(path).root["emb_l.0.weight"].read().tolist() == [[0, 1], [2, 3], [4, 5]]


EXHAUSTING_PICKLES = {
    "tuples a million deep": b"\x80\x02}" + b")" + b"\x85" * 1_000_000 + b"K\x01s.",
    "tuples a million deep in a set": b"\x80\x04\x8f(" + b")" + b"\x85" * 1_000_000 + b"\x90.",
    "lists a million deep": b"\x80\x02" + b"]" * 500_000 + b"a" * 499_999 + b".",
    "tuples that double": b"\x80\x02})" + b"2\x86" * 200 + b"K\x01s.",
    "a list in itself": b"\x80\x02]q\x00h\x00a.",
    "a mapping in itself": b"\x80\x02}q\x00" + ops("state_dict").replace(b"q\x00", b"q\x01") + b"h\x00s.",
    "a module in itself": b"\x80\x02" + name("a", "B") + b")\x81q\x00}" + b"U\x08_modules}U\x01xh\x00ss" + b"b.",
    "long text encoded again and again": b"\x80\x02" + name("_codecs", "encode") + b"q\x000"
    + b"X" + struct.pack("<I", 2**20) + b"a" * 2**20 + b"q\x010U\x06latin1q\x020"
    + b"h\x00(h\x01h\x02tR0" * 400 + b"N.",
}  # fmt: skip


@pytest.mark.parametrize("kind", EXHAUSTING_PICKLES)
def test_a_pickle_that_would_exhaust_the_reader_ends(kind, tmp_path):
    """Depth, doubling, cycles and copies neither recurse nor multiply here."""
    assert_refused(write_archive(tmp_path / "m.pt", EXHAUSTING_PICKLES[kind]))


def test_copies_of_one_long_value_are_bounded():
    """A megabyte that the memo hands to hundreds of calls is counted each time."""
    pickled = EXHAUSTING_PICKLES["long text encoded again and again"]
    with pytest.raises(CheckpointError, match="its calls copy more than 256 MiB"):
        read_pickle(io.BytesIO(pickled), "m.pt > data.pkl")


def test_a_pickle_of_too_many_opcodes_ends(monkeypatch):
    """The number of steps is bounded."""
    monkeypatch.setattr("memrec_convert.checkpoint.pickle_reader.MOST_OPCODES", 1000)
    with pytest.raises(CheckpointError, match="more than 1,000 opcodes"):
        read_pickle(io.BytesIO(b"N" * 2000 + b"."), "m.pt > data.pkl")


def test_names_from_a_file_are_printed_on_one_line(tmp_path):
    """Control characters and lone surrogates from a file never reach the terminal."""
    evil = "emb\n\x1b[31m\udc80"
    path = write_archive(tmp_path / "m.pt", b"\x80\x02}" + ops(evil) + tensor() + b"s.")
    assert_refused(path, r"emb\?\?\[31m\? \[3, 2\]")


def _patch(path: Path, old: bytes, new: bytes, count: int = -1) -> Path:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, count))
    return path


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_that_are_twice_outside_or_compressed_are_refused(tmp_path):
    """An archive's names are unique and inside it, and its members stored as they are."""
    path = tmp_path / "m.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for _ in range(2):
            archive.writestr("m/data.pkl", b"\x80\x02}.")
    assert_refused(path, "twice")
    assert_refused(write_archive(path, m__data____pwned=b"x", **{"m__..__..__x": b"x"}), "out of the archive")
    assert_refused(write_archive(path, **{"__etc__passwd": b"x"}), "out of the archive")
    assert_refused(write_archive(path, **{"m__a\\b": b"x"}), "out of the archive")
    assert_refused(write_archive(path, compression=zipfile.ZIP_DEFLATED), "compressed or encrypted")
    assert_refused(write_archive(path, m__byteorder=b"big"), "not little-endian")
    assert_refused(write_archive(path, m__byteorder=bytes(100)), "at most 64")
    assert_refused(write_archive(path, n__data=b"", **{"n__data.pkl": b"N."}), "2 members named data.pkl")


def test_a_directory_that_lies_about_its_members_is_refused(tmp_path):
    """Local headers must be where the directory says, under the same name, and members may not overlap."""
    path = tmp_path / "m.pt"
    _patch(write_archive(path, state(tensor())), b"m/data/0", b"m/data/9", 1)
    assert_refused(path, "another name where it lies")

    content = bytearray(write_archive(path, state(tensor())).read_bytes())
    entry = content.rindex(b"PK\x01\x02")
    content[entry + 42 : entry + 46] = struct.pack("<I", 3)
    path.write_bytes(content)
    assert_refused(path, "where no member begins")

    content = bytearray(write_archive(path, state(tensor())).read_bytes())
    entry = content.rindex(b"PK\x01\x02")
    content[entry + 20 : entry + 28] = struct.pack("<II", 5000, 5000)
    path.write_bytes(content)
    assert_refused(path, "past the archive's members")

    content = bytearray(write_archive(path, state(tensor())).read_bytes())
    entry = content.index(b"PK\x01\x02")
    size = struct.unpack_from("<I", content, entry + 20)[0] + 10
    content[entry + 20 : entry + 28] = struct.pack("<II", size, size)
    path.write_bytes(content)
    assert_refused(path, "overlaps")


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


def test_damaged_legacy_files_are_refused(dlrm_state, save):
    """The head, the list of storages and each storage's count must agree with the object."""
    path = save(dlrm_state(), _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    count = content.rindex(struct.pack("<q", 56))
    flag = content.index(b"little_endian")
    true = content.index(b"\x88", flag)
    for old, new, sentence in (
        (b"\xe9\x03.", b"\xe8\x03.", "head is damaged"),
        (content[flag:true] + b"\x88", content[flag:true] + b"\x89", "not little-endian"),
        (content[count : count + 8], struct.pack("<q", 57), "the file says 57"),
        (content[count : count + 8], struct.pack("<q", -1), "truncated or damaged"),
    ):
        path.write_bytes(content)
        assert_refused(_patch(path, old, new), sentence)
    keys = content[:count].rindex(b"\x80\x02]")
    path.write_bytes(content[:keys] + b"\x80\x02]." + content[keys:])
    assert_refused(path, "not the storages that the object uses")


def _safetensors(header: object, data: bytes = bytes(24), *, claimed: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if claimed is None else claimed) + text + data


def _entry(**changes: object) -> dict[str, object]:
    return {"emb_l.0.weight": {"dtype": "F32", "shape": [3, 2], "data_offsets": [0, 24]} | changes}


SAFETENSORS = {
    "header longer than the file": _safetensors(_entry(), claimed=10_000),
    "header of 2^63 bytes": _safetensors(_entry(), claimed=2**63),
    "header that is no JSON": _safetensors(b"{]"),
    "header that is a list": _safetensors(b"[1]"),
    "header with a name twice": _safetensors(b'{"a": {}, "a": {}}'),
    "header that nests": _safetensors(b'{"a":' * 100_000),
    "header in no encoding": _safetensors(b"\xff\xfe"),
    "entry that is a number": _safetensors({"a": 1}),
    "negative shape": _safetensors(_entry(shape=[-3, -2])),
    "shape of wrong size": _safetensors(_entry(shape=[4, 2])),
    "shape past 2^63": _safetensors(_entry(shape=[2**40, 2**40])),
    "shape of a float": _safetensors(_entry(shape=[3.0, 2])),
    "dtype that is a list": _safetensors(_entry(dtype=[])),
    "offsets reversed": _safetensors(_entry(data_offsets=[24, 0])),
    "offsets past the end": _safetensors(_entry(data_offsets=[24, 48])),
    "one offset": _safetensors(_entry(data_offsets=[24])),
    "gap at the end": _safetensors(_entry(), bytes(30)),
    "overlap": _safetensors(_entry() | {"b": {"dtype": "F32", "shape": [1], "data_offsets": [20, 24]}}),
}


@pytest.mark.parametrize("kind", SAFETENSORS)
def test_damaged_safetensors_are_refused(kind, tmp_path):
    """A header must be JSON with unique names whose tensors tile the file."""
    path = tmp_path / "m.safetensors"
    path.write_bytes(SAFETENSORS[kind])
    assert_refused(path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_ends_in_a_checkpoint_error_or_not_at_all(data, dlrm_state, save, tmp_path):
    """Whatever bytes change or go, the only exception is CheckpointError."""
    legacy = data.draw(st.booleans())
    content = bytearray(save({"state_dict": dlrm_state()}, _use_new_zipfile_serialization=not legacy).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1) | st.integers(0, 300))
        content[place] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.pt"
    path.write_bytes(content[: data.draw(st.integers(1, len(content))) if data.draw(st.booleans()) else None])
    with suppress(CheckpointError):
        assert inspect(path)["layout"] == "facebookresearch-dlrm"


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
