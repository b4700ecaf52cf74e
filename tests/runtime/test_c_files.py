"""Files through memrec.h: what Python writes opens, and whatever differs from the format gets a code and a sentence."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from c_library import Input, Library, Refused
from safetensors.torch import save_file
from small_models import falsify_text, join, make_bag, make_own, save_dlrm, save_tiny, split
from test_falsified_fields import FIELDS, WRONG, find_places, put
from torch import nn

from memrec_convert import save
from memrec_convert.artifact.layout import METADATA_KEY

GOLDEN = Path(__file__).resolve().parents[1] / "artifact" / "golden"
MOST_TEXT = 499


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a small artifact with every form."""
    return save_dlrm(tmp_path_factory.mktemp("saved")).read_bytes()


@pytest.fixture
def path(tmp_path: Path, saved: bytes) -> Path:
    """A file of it that a test may spoil."""
    target = tmp_path / "spoilt.safetensors"
    target.write_bytes(saved)
    return target


def check(library: Library, source: Path | bytes) -> None:
    """Opens and verifies; Refused where something is wrong."""
    with library.open(source) as artifact:
        artifact.verify()


def refusal(library: Library, source: Path | bytes) -> Refused | None:
    """What open or verify says, None where both accept."""
    found: Refused | None = None
    try:
        check(library, source)
    except Refused as refused:
        found = refused
    if found is not None:
        assert str(found).isprintable()
        assert str(found).endswith(".") or len(str(found)) == MOST_TEXT
    return found


def test_golden_files_open_and_verify(library: Library) -> None:
    """Files of format 1, with an int8 dense part and with trellis rows are read, as files and as bytes in memory."""
    paths = sorted(GOLDEN.glob("format-1-*.safetensors"))
    assert paths
    paths += [GOLDEN / f"format-2-{kind}.safetensors" for kind in ("narrow", "trellis")]
    for path in paths:
        check(library, path)
        check(library, path.read_bytes())


def test_shared_modules_are_one_table(library: Library, tmp_path: Path) -> None:
    """A module under two paths is listed under both, and either gives its rows."""
    path = tmp_path / "own.safetensors"
    model = make_own()
    save(model, path)
    ids = np.arange(40)
    with library.open(path) as artifact:
        artifact.verify()
        assert [table.path.decode() for table in artifact.tables()] == ["also_words", "words"]
        one, other = artifact.look_up([Input(0, ids), Input(1, ids)], 40)
    assert one.tobytes() == other.tobytes() == model.words(torch.from_numpy(ids)).detach().numpy().tobytes()


def test_paths_in_any_letters(library: Library, tmp_path: Path) -> None:
    """Names beyond ASCII, with quotes and line ends, come back as they were."""
    names = ["größe", 'a"b\\c', "line\nend", "\U0001f600", "\x7f", "\uff5e"]
    model = nn.ModuleDict({name: make_bag(40) for name in names})
    path = tmp_path / "names.safetensors"
    save(model, path)
    with library.open(path) as artifact:
        artifact.verify()
        found = {table.path.decode() for table in artifact.tables()}
        assert found == set(names)
        assert artifact.find("größe") >= 0


def test_every_flipped_bit_is_found(library: Library, tmp_path: Path) -> None:
    """With any single bit of the file flipped, open or verify refuses it."""
    saved = save_tiny(tmp_path).read_bytes()
    spoilt = bytearray(saved)
    undetected = []
    for place in range(len(saved)):
        for bit in range(8):
            spoilt[place] ^= 1 << bit
            if refusal(library, bytes(spoilt)) is None:
                undetected.append((place, bit))
            spoilt[place] ^= 1 << bit
    assert undetected == []
    assert refusal(library, bytes(spoilt)) is None


def test_truncated_and_lengthened_files_are_refused(library: Library, saved: bytes) -> None:
    """A file of any other length is no artifact or damaged."""
    lengths = [*range(1, 200, 7), *range(200, len(saved), 97), len(saved) - 1]
    assert all(refusal(library, saved[:length]) for length in lengths)
    for tail in (b"\0", b" " * 8):
        refused = refusal(library, saved + tail)
        assert refused is not None
        assert "behind its last tensor" in str(refused)


def test_foreign_files_are_told_apart(library: Library, tmp_path: Path) -> None:
    """No file, a directory, a pipe, an empty file, text, and another tool's safetensors."""
    foreign, text, empty = (tmp_path / name for name in ("foreign.safetensors", "text", "empty"))
    save_file({"a": torch.zeros(2)}, foreign)
    text.write_text("hello, I am no safetensors file")
    empty.touch()
    os.mkfifo(tmp_path / "pipe")
    for path, status, message in (
        (tmp_path / "none", "NO_FILE", "there is no such file"),
        (tmp_path, "NO_FILE", "it is no file"),
        (tmp_path / "pipe", "NO_FILE", "it is no file"),
        (empty, "NOT_AN_ARTIFACT", "no safetensors file"),
        (text, "NOT_AN_ARTIFACT", "no safetensors file"),
        (foreign, "NOT_AN_ARTIFACT", "no artifact of this tool"),
    ):
        refused = refusal(library, path)
        assert refused is not None
        assert refused.status == status
        assert message in str(refused)
        assert str(refused).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("field", "fitting"),
    [(field, fitting) for field in FIELDS for fitting in (False, True) if (field, fitting) != ("self", True)],
)
def test_each_field_of_the_metadata_is_guarded(
    library: Library, path: Path, saved: bytes, field: str, *, fitting: bool
) -> None:
    """Each value replaced or taken away is refused; by a forger who mends the digest, wherever tables hang on it."""
    plain = json.loads(split(saved)[0]["__metadata__"][METADATA_KEY])
    tried, refused = 0, 0
    for number, place in enumerate(place for place in find_places(plain) if place[0] == field):
        for value in (..., *WRONG[number % 4 :: 4]):
            path.write_bytes(saved)
            changes: list[bool] = []
            falsify_text(path, lambda own, at=place, to=value, n=changes: n.append(put(own, at, to)), fitting=fitting)
            if changes[0] and path.read_bytes() != saved:
                tried += 1
                refused += refusal(library, path) is not None
    assert tried >= 4
    informative = fitting and field in ("architecture", "measured", "plan", "profile", "seed")
    assert refused == tried or informative or (field == "modules" and refused > 0.8 * tried)


def put_module(number: int, **changes: Any) -> Callable[[dict[str, Any]], None]:
    """A forger's change of a table's description."""
    return lambda plain: plain["modules"][f"tables.{number}"].update(changes)


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        (
            put_module(0, rows=10**13),
            "DAMAGED",
            r"tables\.0\.rows: found I8 \[20, 2\], expected I8 \[10000000000000, 2\]",
        ),
        (put_module(0, codec="fp32"), "DAMAGED", "expected F32"),
        (put_module(1, rows=10**12), "DAMAGED", r"tables\.1\.base: found U8"),
        (put_module(1, rows=10**30), "DAMAGED", "whole one from 1 to"),
        (put_module(1, rows=40.0), "DAMAGED", "whole one from 1 to"),
        (put_module(1, rows=True), "DAMAGED", "no whole number"),
        (put_module(1, levels=[{}]), "DAMAGED", "lacks the field 'kind'"),
        (put_module(1, levels=[{}, {}, {}]), "DAMAGED", "lacks the field|more than two levels"),
        (put_module(1, stages=[4, 4]), "DAMAGED", r"tables\.1\.codebook"),
        (put_module(1, stages=[3, 4]), "DAMAGED", "no power of two"),
        (put_module(1, shifts=[2, 1]), "DAMAGED", "shifts fall"),
        (put_module(1, shifts=[0, 8]), "DAMAGED", "from 0 to 7"),
        (put_module(1, stages=[2] * 5, shifts=[0, 7, 7, 7, 7]), "DAMAGED", "codebook|leave 16 bits"),
        (put_module(1, stages=[2] * 99, shifts=[0] * 99), "UNSUPPORTED", "more stages than this library"),
        (put_module(1, stages=[2] * 300, shifts=[0] * 300), "DAMAGED", "a list that is too long"),
        (put_module(1, dim=70_000), "UNSUPPORTED", "wider than this library"),
        (put_module(2, base_depth=1), "DAMAGED", "hashed tokens and a base of codes|depth"),
        (put_module(3, hashing=5), "DAMAGED", "in the place of '{'"),
        (put_module(1, same_as="tables.9"), "DAMAGED", "does not belong there"),
        (lambda plain: plain["modules"].update({"x": {"same_as": "tables.9"}}), "DAMAGED", "which is no table"),
        (lambda plain: plain["modules"].update({"x": {"same_as": "x"}}), "DAMAGED", "which is no table"),
        (put_module(1, oov="drop"), "DAMAGED", "says 'drop', which is unknown"),
        (put_module(1, extra=1), "DAMAGED", "has the field 'extra'"),
        (lambda plain: plain["modules"]["tables.1"].pop("levels"), "DAMAGED", "lacks the field 'levels'"),
        (lambda plain: plain["modules"]["tables.3"]["hashing"].update(k=3), "DAMAGED", "different groups of one name"),
        (lambda plain: plain["aliases"].clear(), "DAMAGED", r"group\.\w+: found none"),
        (lambda plain: plain["aliases"].update(a="nowhere"), "DAMAGED", "stands for none"),
        (lambda plain: plain["digests"].popitem(), "DAMAGED", "unknown to the metadata"),
        (lambda plain: plain["digests"].update(more="0" * 32), "DAMAGED", "digests of tensors that are missing"),
        (
            lambda plain: plain.update(format=3),
            "NEWER_FORMAT",
            "has format version 3, which this library does not know",
        ),
        (
            lambda plain: plain.update(format=2, requires=["tied-weights", "x"]),
            "NEWER_FORMAT",
            "requires the feature 'tied-weights', which this library does not know; install a newer",
        ),
        (lambda plain: plain.update(requires=["x"]), "DAMAGED", "required features just where its format is 2"),
        (lambda plain: plain.update(more=1), "DAMAGED", "unknown field 'more'"),
        (lambda plain: plain.update(seed=1.5), "DAMAGED", "'seed' is of a wrong kind"),
        (lambda plain: plain.update(dense="int4"), "DAMAGED", "unknown precision"),
    ],
)
def test_forged_descriptions_are_refused(
    library: Library, path: Path, change: Callable[[dict[str, Any]], None], status: str, message: str
) -> None:
    """A forger who writes fitting digests gets neither a crash nor memory: the tensors in the file decide."""
    falsify_text(path, lambda plain: None)
    check(library, path)
    falsify_text(path, change)
    with pytest.raises(Refused, match=message) as caught:
        check(library, path)
    assert caught.value.status == status


def test_numbers_are_as_python_writes_them(library: Library, path: Path, saved: bytes) -> None:
    """Canonical floats of every size are read; the same value in other digits is refused, as other spaces are."""
    floats = [
        0.1,
        1e-5,
        1.5e300,
        5e-324,
        123456789012345680.0,
        1e16,
        1e15,
        -0.0,
        2.0**-44,
        1 / 3,
        0.0001,
        1e22,
        12345.678,
    ]
    falsify_text(
        path, lambda plain: plain["plan"].update(floats=floats, huge=10**400, half="\ud800x\udc00", negative=-7)
    )
    check(library, path)
    text = split(path.read_bytes())[0]["__metadata__"][METADATA_KEY]
    for old, new in (
        ("0.1,", "0.10,"),
        ("1e-05", "1e-5"),
        ("1e-05", "0.00001"),
        ("1.5e+300", "1.5e300"),
        ('"negative":-7', '"negative":-07'),
        ('"negative":-7', '"negative":-0'),
        ('"negative":-7', '"negative":1e999'),
        ('"negative":-7', '"negative":NaN'),
        ('"negative":-7', '"negative": -7'),
        ('"negative":-7', '"negative":"\\/"'),
        ('"negative":-7', '"negative":"\\u0041"'),
        ('"negative":-7', '"negative":' + "[" * 1000 + "]" * 1000),
    ):
        changed = text.replace(old, new, 1)
        assert changed != text
        start = changed.rindex('"self":"') + 8
        blank = changed[:start] + "0" * 32 + changed[start + 32 :]
        mended = changed[:start] + hashlib.blake2b(blank.encode(), digest_size=16).hexdigest() + changed[start + 32 :]
        header, body = split(saved)
        header["__metadata__"][METADATA_KEY] = mended
        refused = refusal(library, join(header, body))
        assert refused is not None, (old, new)
        assert refused.status == "DAMAGED"


def test_headers_written_otherwise_are_refused(library: Library, saved: bytes) -> None:
    """The same header with its tensors in another order or with more padding is not the file that was written."""
    header, body = split(saved)
    assert refusal(library, join(header, body)) is None
    first = {"__metadata__": header.pop("__metadata__")}
    assert "offsets other than the tensors make" in str(
        refusal(library, join(first | dict(reversed(header.items())), body))
    )
    length = int.from_bytes(saved[:8], "little")
    padded = (length + 8).to_bytes(8, "little") + saved[8 : 8 + length] + b" " * 8 + saved[8 + length :]
    assert "filled up" in str(refusal(library, padded))


def forge_index(saved: bytes, name: str, change: Callable[[bytearray], None]) -> bytes:
    """The file with another index, its digests fitting."""
    header, body = split(saved)
    start, stop = header[name]["data_offsets"]
    content = bytearray(body[start:stop])
    change(content)
    plain = json.loads(header["__metadata__"][METADATA_KEY])
    line = f"torch.uint8 {header[name]['shape']}\n".encode()
    plain["digests"][name] = hashlib.blake2b(line + content, digest_size=16).hexdigest()
    plain["self"] = "0" * 32
    blank = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    plain["self"] = hashlib.blake2b(blank.encode(), digest_size=16).hexdigest()
    header["__metadata__"][METADATA_KEY] = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return join(header, body[:start] + bytes(content) + body[stop:])


def test_every_forged_byte_of_an_index_is_refused_or_harmless(library: Library, saved: bytes) -> None:
    """Indices with any byte changed and fitting digests: what changes which ids are held or where is refused.

    Only bits that no reader looks at may differ: those behind the last key.
    """
    refused = 0
    for name in ("tables.1.level0_index", "tables.1.level1_index"):
        size = split(saved)[0][name]["shape"][0]
        for place in range(size):
            for flip in (1, 0x80, 0xFF):

                def change(content: bytearray, at: int = place, by: int = flip) -> None:
                    content[at] ^= by

                forged = forge_index(saved, name, change)
                with library.open(forged) as artifact:  # opens, and its lookups stay within the tables
                    artifact.look_up([Input(1, np.arange(40))], 40)
                refused += refusal(library, forged) is not None
    assert refused > 100
    swapped = forge_index(saved, "tables.1.level1_index", lambda content: content.__setitem__(slice(0, 4), b"\1\0\0\0"))
    assert "ranks and bits disagree" in str(refusal(library, swapped))


def test_an_id_in_two_levels_is_found(library: Library, tmp_path: Path) -> None:
    """Which level such an id takes would depend on the reader: refused for each pair of layouts."""
    from memrec_convert.encoding import LevelSpec, TableSpec
    from memrec_convert.encoding.index import IndexSpec, build_index, order_ids
    from memrec_convert.lookup import CompressedEmbeddingBag

    keys, bitmap = IndexSpec("keys", 40, 2, 4), IndexSpec("bitmap", 40, 2)
    for number, (one, other) in enumerate([(keys, keys), (keys, bitmap), (bitmap, keys), (bitmap, bitmap)]):
        for second, fault in ((np.array([5, 31]), "id 5 is in both levels"), (np.array([6, 31]), None)):
            levels = (LevelSpec("codes", one, depth=1), LevelSpec("rows", other, codec="fp32"))
            module = CompressedEmbeddingBag(TableSpec(40, 4, "replaced", stages=(2,), shifts=(0,), levels=levels))
            for level, (index, ids) in enumerate(((one, np.array([3, 5])), (other, second))):
                built = build_index(index, order_ids(index, ids))
                setattr(module, f"level{level}_index", torch.from_numpy(np.array(built)))
            path = tmp_path / f"{number}{fault is None}.safetensors"
            save(nn.ModuleList([module]), path)
            refused = refusal(library, path)
            assert (refused is None) == (fault is None)
            assert fault is None or fault in str(refused)
