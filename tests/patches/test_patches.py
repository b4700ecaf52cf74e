"""A patch makes the new artifact of the old one, to the byte, and of nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import OwnModel, make_dlrm, make_own, save_dlrm
from torch import nn

from memrec_convert import apply, diff, save
from memrec_convert.artifact.metadata import METADATA_ATTRIBUTE, Metadata
from memrec_convert.cli.commands import cli
from memrec_convert.encoding import LevelSpec, TableSpec
from memrec_convert.encoding.build import build_replaced
from memrec_convert.encoding.index import choose_index
from memrec_convert.errors import ArtifactError, MemrecError, OutputError, PatchError
from memrec_convert.lookup import CompressedEmbedding
from memrec_convert.patches import description
from memrec_convert.patches.blocks import change_block, edit_base, tell_block, tell_edits
from memrec_convert.patches.description import MAGIC, Part, compress, count_entries

MUTATIONS = int(os.environ.get("MEMREC_PATCH_MUTATIONS", "300"))


PLAIN = Metadata(modules={}, architecture=None, dense="fp32", profile={}, plan={}, seed=0)


def save_levels(path: Path, members: np.ndarray, *, stages: tuple[int, int] = (16, 8), dim: int = 2) -> Path:
    """A table of 3000 rows whose first 600 members have codes (7 bits), the others stored rows."""
    draw = np.random.default_rng(1)
    indices = (choose_index(3000, 600), choose_index(3000, len(members) - 600))
    levels = (LevelSpec("codes", indices[0], depth=2), LevelSpec("rows", indices[1], codec="int8"))
    spec = TableSpec(3000, dim, "replaced", stages=stages, shifts=(0, 1), levels=levels)
    of_rows = np.full(3000, -1, dtype=np.int8)
    of_rows[members[:600]], of_rows[members[600:]] = 0, 1
    rows = torch.from_numpy(draw.standard_normal((3000, dim)).astype(np.float32))
    table = CompressedEmbedding(spec, name="words")
    made = build_replaced(
        spec,
        centre=torch.zeros(dim),
        scale=0.01,
        codebook=torch.from_numpy(draw.integers(-127, 128, (sum(stages), dim)).astype(np.int8)),
        codes=np.stack([draw.integers(0, entries, 3000) for entries in stages], axis=1).astype(np.uint8),
        levels=of_rows,
        read_rows=lambda ids: rows[torch.from_numpy(ids)],
    )
    table.fill(made)
    torch.manual_seed(2)
    model = OwnModel(table).eval()
    setattr(model, METADATA_ATTRIBUTE, PLAIN)
    save(model, path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two days of a network, and the patch between them."""
    made = tmp_path_factory.mktemp("days")
    save_dlrm(made).rename(made / "old")
    model = make_dlrm()
    with torch.no_grad():
        for number, tensor in enumerate(model.state_dict().values()):
            if tensor.dtype == torch.float32 and tensor.dim() == 2:
                tensor.add_(0.01 * number)
    model.get_buffer("tables.1.base").bitwise_xor_(torch.tensor([9, *[0] * 11, 1], dtype=torch.uint8))
    model.get_buffer("tables.0.rows").view(-1)[::5] += 1
    save(model, made / "new")
    diff(made / "old", made / "new", out=made / "patch")
    return made


def describe(patch: bytes) -> dict[str, Any]:
    """What a patch says about itself."""
    nbytes, stored = (int.from_bytes(patch[at : at + 4], "little") for at in (8, 12))
    return json.loads(pa.decompress(patch[16 : 16 + stored], nbytes, codec="zstd", asbytes=True))


def forge(description: Any, blocks: bytes = b"") -> bytes:
    """A patch with this description, and digests that fit."""
    text = json.dumps(description).encode()
    packed = compress(text)
    body = MAGIC + len(text).to_bytes(4, "little") + len(packed).to_bytes(4, "little") + packed + blocks
    return body + hashlib.blake2b(body, digest_size=16).digest()


def read_edited(base: bytes, part: dict[str, Any], patch: bytes, place: int) -> bytes:
    """Old bytes with entries taken out and put in."""
    width = part["entry_bits"]
    counts = [-(-8 * nbytes // width) for nbytes in (part["held"], part["bytes"])]
    sizes = [-(-count // 8) for count in counts]
    told = pa.decompress(patch[place : place + part["edits"]], sum(sizes), codec="zstd", asbytes=True)
    gone, come = (int.from_bytes(one, "little") for one in (told[: sizes[0]], told[sizes[0] :]))
    bits, made = int.from_bytes(base, "little"), 0
    left = [bits >> at * width & ((1 << width) - 1) for at in range(counts[0]) if not gone >> at & 1]
    for at in range(counts[1]):
        if left and not come >> at & 1:
            made |= left.pop(0) << at * width
    return made.to_bytes(counts[1] * width // 8 + 1, "little")[: part["bytes"]]


def second_reader(old: bytes, patch: bytes) -> bytes:
    """The new file by docs/patches.md alone, bit by bit, in another way than the package's."""
    description = describe(patch)
    place, made = 16 + int.from_bytes(patch[12:16], "little"), bytearray()
    for part in description["parts"]:
        width = part.get("entry_bits", 8)
        base = old[part["start"] : part["start"] + part["held"]]
        if part.get("edits"):
            base, place = read_edited(base, part, patch, place), place + part["edits"]
        base = base.ljust(part["bytes"], b"\0")
        size = max(1, (1 << 25) // (8 * width)) * width
        for number, block in enumerate(part.get("blocks", [])):
            piece = base[number * size : (number + 1) * size]
            entries, changed = -(-8 * len(piece) // width), block.get("changed", 0)
            if not changed:
                made += piece
                continue
            raw = -(-entries // 8) + -(-changed * width // 8)
            told = pa.decompress(patch[place : place + block["stored"]], raw, codec="zstd", asbytes=True)
            place += block["stored"]
            marks, values = int.from_bytes(told[: -(-entries // 8)], "little"), told[-(-entries // 8) :]
            bits, stream, done = int.from_bytes(piece, "little"), int.from_bytes(values, "little"), 0
            for entry in range(entries):
                if not marks >> entry & 1:
                    continue
                was = bits >> (entry * width) & ((1 << width) - 1)
                if width % 8:
                    value = stream >> (done * width) & ((1 << width) - 1)
                else:
                    plain = [values[plane * changed + done] for plane in range(width // 8)]
                    if block.get("difference"):
                        plain = [(one + (was >> 8 * at & 255)) & 255 for at, one in enumerate(plain)]
                    value = int.from_bytes(bytes(plain), "little")
                bits ^= (was ^ value) << (entry * width)
                done += 1
            made += bits.to_bytes(entries * width // 8 + 1, "little")[: len(piece)]
        if "blocks" not in part:
            made += base
    return bytes(made)


def test_a_patch_makes_the_new_artifact_to_the_byte(folder: Path, tmp_path: Path) -> None:
    """`apply` of what `diff` wrote gives the new file, and both tell of the same bytes and digest."""
    found = diff(folder / "old", folder / "new", out=tmp_path / "patch")
    made = apply(folder / "old", tmp_path / "patch", out=tmp_path / "made")
    new = (folder / "new").read_bytes()
    assert (tmp_path / "made").read_bytes() == new
    assert (made.bytes, made.digest) == (len(new), found.new_digest)
    assert found.new_digest == hashlib.blake2b(new, digest_size=16).hexdigest()
    assert (found.bytes, made.patch_bytes) == ((tmp_path / "patch").stat().st_size,) * 2
    told = {change.name: change for change in found.changes}
    assert told["tables.1.base"].changed == 2
    assert told["tables.0.rows"].changed == 8
    assert "tables.1.codebook" not in told


def test_the_commands_give_what_the_verbs_give(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`diff` and `apply` print the result as JSON, or name what changed; a wrong base is exit code 2."""
    ends = [str(folder / "old"), str(folder / "new")]
    cli.main(["diff", *ends, "--out", str(tmp_path / "patch"), "--json"], standalone_mode=False)
    found = json.loads(capsys.readouterr().out)
    assert found == diff(*ends, out=tmp_path / "patch", force=True).to_json()
    cli.main(["diff", *ends, "--out", str(tmp_path / "patch"), "--force"], standalone_mode=False)
    assert "tables.0.rows" in capsys.readouterr().out
    words = ["apply", ends[0], str(tmp_path / "patch"), "--out", str(tmp_path / "made")]
    cli.main(words, standalone_mode=False)
    assert (tmp_path / "made").read_bytes() == (folder / "new").read_bytes()
    monday = subprocess.run(
        [sys.executable, "-m", "memrec_convert", *words[:1], ends[1], *words[2:], "--force"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (monday.returncode, monday.stderr.count("\n")) == (2, 1)
    assert monday.stderr.startswith("Patch: ")


def test_a_second_reader_follows_the_page(folder: Path) -> None:
    """A reader written from docs/patches.md alone makes the same bytes."""
    made = second_reader((folder / "old").read_bytes(), (folder / "patch").read_bytes())
    assert made == (folder / "new").read_bytes()


def test_what_only_stands_elsewhere_is_not_told_again(tmp_path: Path) -> None:
    """Where ten ids left each level and ten came, their entries alone change; a second reader makes the same bytes."""
    ids = np.random.default_rng(0).permutation(3000)
    old = save_levels(tmp_path / "old", ids[:1000])
    new = save_levels(tmp_path / "new", np.concatenate([ids[10:600], ids[1000:1010], ids[610:1000], ids[1010:1020]]))
    found = {change.name: change.changed for change in diff(old, new, out=tmp_path / "patch").changes}
    assert 0 < found["words.level0_codes"] <= 10
    assert 0 < found["words.level1_rows"] <= 10
    patch = (tmp_path / "patch").read_bytes()
    assert sum("edits" in part for part in describe(patch)["parts"]) == 3
    assert second_reader(old.read_bytes(), patch) == new.read_bytes()
    apply(old, tmp_path / "patch", out=tmp_path / "made")
    assert (tmp_path / "made").read_bytes() == new.read_bytes()


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_entries_are_taken_out_and_put_in_at_any_width(data: st.DataObject) -> None:
    """What an edit leaves of the old entries stands in order in the places where none came in; so it does in blocks."""
    with mock.patch.object(description, "BLOCK_BITS", data.draw(st.sampled_from([description.BLOCK_BITS, 64, 800]))):
        _take_out_and_put_in(data)


def _take_out_and_put_in(data: st.DataObject) -> None:
    width, old = data.draw(st.integers(1, 40)), data.draw(st.lists(st.booleans(), min_size=1, max_size=30))
    new = data.draw(st.lists(st.booleans(), min_size=1, max_size=60))
    entries = data.draw(st.lists(st.integers(1, (1 << width) - 1), min_size=len(old), max_size=len(old)))
    nbytes = [-(-len(one) * width // 8) for one in (old, new)]
    bits = sum(entry << at * width for at, entry in enumerate(entries))
    part = Part(bytes=nbytes[1], start=3, held=nbytes[0], entry_bits=width)
    frame = tell_edits(part, np.array(old), np.array(new))
    base = np.frombuffer(b"abc" + bits.to_bytes(nbytes[0], "little"), np.uint8)
    made = int.from_bytes(edit_base(base, part, memoryview(frame), "here").tobytes(), "little")
    left = [entry for entry, gone in zip(entries, old, strict=True) if not gone]
    for at, come in enumerate(new):
        expected = left.pop(0) if left and not come else 0
        assert made >> at * width & ((1 << width) - 1) == expected


def test_equal_artifacts_make_equal_patches(folder: Path, tmp_path: Path) -> None:
    """Made again, a patch has the same bytes; one between equal artifacts changes nothing."""
    diff(folder / "old", folder / "new", out=tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (folder / "patch").read_bytes()
    nothing = diff(folder / "old", folder / "old", out=tmp_path / "nothing")
    assert (nothing.changes, nothing.removed) == ((), ())
    apply(folder / "old", tmp_path / "nothing", out=tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == (folder / "old").read_bytes()


def test_models_of_other_shapes_have_patches_too(folder: Path, tmp_path: Path) -> None:
    """Tensors that came, went, grew or shrank are told whole, or from what they have in common."""
    model = make_own()
    setattr(model, METADATA_ATTRIBUTE, PLAIN)
    save(model, tmp_path / "own")
    grown = make_own()
    grown.first, grown.second = nn.Linear(3, 2), nn.Linear(2, 3)
    setattr(grown, METADATA_ATTRIBUTE, PLAIN)
    save(grown, tmp_path / "grown")
    for old, new in ((folder / "old", tmp_path / "own"), (tmp_path / "own", tmp_path / "grown")):
        for before, after in ((old, new), (new, old)):
            diff(before, after, out=tmp_path / "patch", force=True)
            apply(before, tmp_path / "patch", out=tmp_path / "made", force=True)
            assert (tmp_path / "made").read_bytes() == after.read_bytes()


def test_the_old_artifact_may_be_replaced(folder: Path, tmp_path: Path) -> None:
    """With force, `out` may be the old file; without it, nothing is touched."""
    here = tmp_path / "model"
    here.write_bytes((folder / "old").read_bytes())
    with pytest.raises(OutputError, match="exists already"):
        apply(here, folder / "patch", out=here)
    apply(here, folder / "patch", out=here, force=True)
    assert here.read_bytes() == (folder / "new").read_bytes()
    with pytest.raises(PatchError, match="was not made from"):
        apply(here, folder / "patch", out=here, force=True)
    assert here.read_bytes() == (folder / "new").read_bytes()


@pytest.mark.parametrize("base", ["new", "patch", "nowhere", "."])
def test_a_wrong_base_is_refused(folder: Path, tmp_path: Path, base: str) -> None:
    """Another file, no file and a folder are each refused in a sentence, and nothing is left behind."""
    with pytest.raises((PatchError, ArtifactError)):
        apply(folder / base, folder / "patch", out=tmp_path / "made")
    assert list(tmp_path.iterdir()) == []


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_a_block_is_told_in_entries_of_any_width(data: st.DataObject) -> None:
    """Whatever the bytes and the width, the changes told make the new bytes of the old ones."""
    width = data.draw(st.integers(1, 70))
    old = np.frombuffer(data.draw(st.binary(min_size=1, max_size=200)), np.uint8)
    changes = data.draw(st.dictionaries(st.integers(0, len(old) - 1), st.integers(0, 255)))
    new = old.copy()
    new[list(changes)] = list(changes.values())
    block, stored = tell_block(old, new, width)
    assert bool(stored) == (not np.array_equal(old, new))
    assert block.changed <= count_entries(len(old), width)
    assert np.array_equal(change_block(old, block, memoryview(stored), width, "here"), new)


@pytest.mark.parametrize("edited", [False, True])
def test_mutated_patches_never_make_a_wrong_file(
    folder: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, edited: bool
) -> None:
    """Changed, cut and lengthened patches, with and without a digest that fits, make the right file or none."""
    if edited:
        folder, ids = tmp_path_factory.mktemp("edited"), np.random.default_rng(0).permutation(3000)
        save_levels(folder / "old", ids[:1000])
        save_levels(folder / "new", ids[5:1005])
        diff(folder / "old", folder / "new", out=folder / "patch")
    draw = np.random.default_rng(0)
    patch, new = (folder / "patch").read_bytes(), (folder / "new").read_bytes()
    target, spoilt = tmp_path / "made", tmp_path / "spoilt"
    refused = 0
    for number in range(MUTATIONS):
        spoilt.write_bytes(mutate(patch, draw, resealed=number % 2 == 0))
        try:
            apply(folder / "old", spoilt, out=target, force=True)
        except MemrecError:
            refused += 1
            assert not target.exists()
        else:
            assert target.read_bytes() == new
            target.unlink()
    assert refused > MUTATIONS // 2
    assert [entry.name for entry in tmp_path.iterdir()] == ["spoilt"]


def mutate(patch: bytes, draw: np.random.Generator, *, resealed: bool) -> bytes:
    """One change: bytes turned, cut out, doubled, or a number in the description replaced."""
    kind = int(draw.integers(4))
    if kind == 3:
        description = describe(patch)
        place: Any = description
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = keys[draw.integers(len(keys))]
            if not isinstance(place[key], (dict, list)) or not place[key]:
                break
            place = place[key]
        place[key] = [0, 1, -1, 7, 2**31, 2**59, 2**64, 0.5, "", "a" * 32, None, True, [], {}, [[]]][draw.integers(15)]
        stored = int.from_bytes(patch[12:16], "little")
        return forge(description, patch[16 + stored : -16])
    spoilt, at = bytearray(patch[:-16]), int(draw.integers(len(patch) - 16))
    if kind == 0:
        for one in draw.integers(at, len(spoilt), int(draw.integers(1, 4))):
            spoilt[one] ^= int(draw.integers(1, 256))
    elif kind == 1:
        del spoilt[at : at + int(draw.integers(1, 40))]
    else:
        spoilt[at:at] = spoilt[at : at + int(draw.integers(1, 40))]
    seal = hashlib.blake2b(spoilt, digest_size=16).digest() if resealed else patch[-16:]
    return bytes(spoilt + seal)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": 2}, "format"),
        (
            {"new": {"bytes": 1 << 59, "digest": "0" * 32}, "parts": [{"bytes": 1 << 59, "start": 0, "held": 9}]},
            "nowhere",
        ),
        ({"parts": [{"bytes": 9, "start": 1 << 40, "held": 9}]}, "does not have"),
        ({"parts": [{"bytes": 9, "start": 0, "held": 9, "entry_bits": 1 << 17}]}, "entry_bits"),
        ({"parts": [{"bytes": 9, "start": 0, "held": 9, "blocks": [{"changed": 10, "stored": 5}]}]}, "changes 10"),
        ({"parts": [{"bytes": 9, "start": 0, "held": 9, "blocks": [{"changed": 1, "stored": 5}]}]}, "take 5 bytes"),
        ({"parts": []}, "do not make"),
        ({"run": "this"}, "Extra"),
    ],
)
def test_sizes_are_checked_before_anything_is_unpacked(
    folder: Path, tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    """A description that contradicts itself, or asks for more than there is, is refused for what it says."""
    description = {"format": 1} | {
        key: describe((folder / "patch").read_bytes())[key] for key in ("old", "new", "parts")
    }
    (tmp_path / "patch").write_bytes(forge(description | change))
    with pytest.raises(PatchError, match=says):
        apply(folder / "old", tmp_path / "patch", out=tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_a_frame_that_holds_more_than_it_says_is_not_unpacked(folder: Path, tmp_path: Path) -> None:
    """A description of 64 MB behind a declared length of 100 bytes is refused, and so is one beyond any length."""
    for length in (100, 1 << 31):
        packed = compress(b" " * (64 << 20))
        body = MAGIC + length.to_bytes(4, "little") + len(packed).to_bytes(4, "little") + packed
        (tmp_path / "patch").write_bytes(body + hashlib.blake2b(body, digest_size=16).digest())
        with pytest.raises(PatchError, match="damaged"):
            apply(folder / "old", tmp_path / "patch", out=tmp_path / "made")


def test_a_file_beyond_the_disk_is_refused_at_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the new file would not fit the disk, nothing of it is written."""
    full = SimpleNamespace(free=(folder / "new").stat().st_size - 1)
    monkeypatch.setattr("memrec_convert.patches.apply.shutil.disk_usage", lambda _: full)
    with pytest.raises(OutputError, match="are free there"):
        apply(folder / "old", folder / "patch", out=tmp_path / "made")
    assert list(tmp_path.iterdir()) == []
