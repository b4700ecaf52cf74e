"""What `diff` writes `apply` carries out; what would eat memory, or a file it was made from, is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_models import save_dlrm
from test_patches import describe, forge, save_levels, second_reader

from memrec_convert import apply, diff
from memrec_convert.cli.commands import cli
from memrec_convert.errors import OutputError, PatchError
from memrec_convert.patches import diff as diff_module
from memrec_convert.patches.description import (
    Block,
    Description,
    End,
    Part,
    compress,
    edit_bytes,
    join_patch,
    may_be_edited,
    split_patch,
)

IDS = np.random.default_rng(0).permutation(3000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two days of a table with levels, and the patch between them."""
    made = tmp_path_factory.mktemp("levels")
    save_levels(made / "old", IDS[:1000])
    save_levels(made / "new", IDS[5:1005])
    diff(made / "old", made / "new", out=made / "patch")
    return made


def test_a_level_that_loses_more_than_it_gains_is_edited(tmp_path: Path) -> None:
    """Its old bytes are more than its new ones: the patch applies, here and by the page."""
    old = save_levels(tmp_path / "old", IDS[:1000])
    new = save_levels(tmp_path / "new", np.delete(IDS[:1000], np.arange(600, 1000, 7)))
    diff(old, new, out=tmp_path / "patch")
    patch = (tmp_path / "patch").read_bytes()
    assert any("edits" in part and part["held"] > part["bytes"] for part in describe(patch)["parts"])
    apply(old, tmp_path / "patch", out=tmp_path / "made")
    assert (tmp_path / "made").read_bytes() == new.read_bytes() == second_reader(old.read_bytes(), patch)


@pytest.mark.parametrize("other", [{"stages": (16, 16)}, {"dim": 3}])
def test_levels_of_other_widths_are_told_as_bytes(tmp_path: Path, other: dict[str, Any]) -> None:
    """Codes of more bits and rows of more values have nothing to take out or put in; the patch applies both ways."""
    ends = [save_levels(tmp_path / "old", IDS[:1000]), save_levels(tmp_path / "new", IDS[7:1003], **other)]
    for before, after in (ends, ends[::-1]):
        diff(before, after, out=tmp_path / "patch", force=True)
        apply(before, tmp_path / "patch", out=tmp_path / "made", force=True)
        assert (tmp_path / "made").read_bytes() == after.read_bytes()


def test_a_patch_that_does_not_apply_is_not_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault in the telling is found by carrying the patch out: one sentence, and no file."""
    monkeypatch.setattr(diff_module, "tell_block", lambda base, _new, _width: (Block(), base[:0].tobytes()))
    with pytest.raises(PatchError, match=r"no patch was made .* a fault of memrec-convert"):
        diff(folder / "old", folder / "new", out=tmp_path / "patch")
    assert list(tmp_path.iterdir()) == []


def edit_of(held: int, nbytes: int, width: int) -> tuple[Part, bytes]:
    """A part of zeros with edits that change nothing."""
    plain = Part(bytes=nbytes, start=0, held=held, entry_bits=width)
    frame = compress(bytes(edit_bytes(plain)))
    return plain.model_copy(update={"edits": len(frame)}), frame


@pytest.mark.parametrize(
    ("nbytes", "width", "fits"),
    [
        (1 << 25, 1, True),
        ((1 << 25) + 1, 1, False),
        (1 << 28, 8, True),
        ((1 << 28) + 1, 8, False),
        ((1 << 25) * 9, 9, True),
        ((1 << 25) * 9 + 1, 9, False),
        (1 << 41, 65536, True),
        (1 << 60, 65536, False),
    ],
)
def test_edits_are_bounded_in_entries(nbytes: int, width: int, fits: bool) -> None:
    """Neither end of an edited part may have more than 2^28 entries, of which a bit each is held."""
    for held, made in ((1, nbytes), (nbytes, 1)):
        assert may_be_edited(Part(bytes=made, start=0, held=held, entry_bits=width)) == fits


def test_an_edited_part_beyond_the_bound_is_refused(folder: Path, tmp_path: Path) -> None:
    """Single bits by the hundred millions, whose marks alone take as much as they do, are refused for their number."""
    part, frame = edit_of(1, 1 << 26, 1)
    told = part.model_dump() | {"blocks": [{}] * 16}
    old = describe((folder / "patch").read_bytes())["old"]
    new = {"bytes": 1 << 26, "digest": "0" * 32}
    (tmp_path / "bomb").write_bytes(forge({"format": 1, "old": old, "new": new, "parts": [told]}, frame))
    with pytest.raises(PatchError, match="is edited, and has 67108864 bytes"):
        apply(folder / "old", tmp_path / "bomb", out=tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_no_old_byte_is_edited_twice(folder: Path, tmp_path: Path) -> None:
    """A thousand parts that each read the whole old file would take a thousand times as long as it has bytes."""
    old = describe((folder / "patch").read_bytes())["old"]
    part, frame = edit_of(old["bytes"], 8, 8)
    told = part.model_dump() | {"blocks": [{}]}
    new = {"bytes": 8 * 1000, "digest": "0" * 32}
    (tmp_path / "bomb").write_bytes(forge({"format": 1, "old": old, "new": new, "parts": [told] * 1000}, frame * 1000))
    with pytest.raises(PatchError, match="its edited parts take more bytes than the old file has"):
        apply(folder / "old", tmp_path / "bomb", out=tmp_path / "made")


def test_a_long_name_in_a_description_is_cut(folder: Path, tmp_path: Path) -> None:
    """The sentence stays one line that a terminal holds."""
    old = describe((folder / "patch").read_bytes())["old"]
    (tmp_path / "odd").write_bytes(forge({"format": 1, "old": old, "new": old, "parts": [], "x\n" * 100_000: 1}))
    with pytest.raises(PatchError, match="its description is none") as caught:
        apply(folder / "old", tmp_path / "odd", out=tmp_path / "made")
    assert len(str(caught.value)) < 500 + len(str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "parts",
    [
        [{"bytes": 5, "start": 0, "held": 5, "blocks": [{}] * 140_000}],
        [{"bytes": 1, "start": 0, "held": 1}] * 70_000,
        [0] * 140_000,
        [{str(number): 0 for number in range(140_000)}],
    ],
    ids=["blocks", "parts", "numbers", "fields"],
)
def test_a_description_of_too_many_values_is_not_parsed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: list[Any]
) -> None:
    """Kilobytes that decompress into hundreds of thousands of objects are refused before one of them is made."""
    monkeypatch.setattr(Description, "model_validate_json", lambda _: pytest.fail("it was parsed"))
    old = describe((folder / "patch").read_bytes())["old"]
    description = {"format": 1, "old": old, "new": {"bytes": 5, "digest": "0" * 32}, "parts": parts}
    (tmp_path / "bomb").write_bytes(forge(description))
    with pytest.raises(PatchError, match="more than 131072 values"):
        apply(folder / "old", tmp_path / "bomb", out=tmp_path / "made")


def test_a_thousand_tables_fit_a_description() -> None:
    """Ten changed tensors in each of a thousand tables, every one of 1 MB, are well within its bounds."""
    block = Block(changed=12345, difference=True, stored=1)
    parts = [
        Part(bytes=1_000_000, start=1_000_000 * at, held=1_000_000, entry_bits=24, blocks=(block,))
        for at in range(10_000)
    ]
    end = End(bytes=10_000_000_000, digest="0" * 32)
    patch = join_patch(Description(format=1, old=end, new=end, parts=tuple(parts)), [b"x"] * 10_000)
    found, blocks = split_patch(memoryview(patch), "the patch")
    assert (len(found.parts), len(blocks)) == (10_000, 10_000)


@pytest.mark.parametrize("victim", ["old", "new"])
def test_diff_writes_over_neither_end(folder: Path, tmp_path: Path, victim: str) -> None:
    """Force replaces a patch, never one of the artifacts, under whatever name it goes."""
    for name in ("old", "new"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "link").symlink_to(tmp_path / victim)
    for out in (tmp_path / victim, tmp_path / "link", tmp_path / ".." / tmp_path.name / victim):
        with pytest.raises(OutputError, match=f"it is {victim.upper()} itself"):
            diff(tmp_path / "old", tmp_path / "new", out=out, force=True)
    assert (tmp_path / victim).read_bytes() == (folder / victim).read_bytes()


def test_apply_does_not_write_over_the_patch(folder: Path, tmp_path: Path) -> None:
    """The patch stays, with force too."""
    patch = (folder / "patch").read_bytes()
    (tmp_path / "patch").write_bytes(patch)
    with pytest.raises(OutputError, match="it is the patch itself"):
        apply(folder / "old", tmp_path / "patch", out=tmp_path / "patch", force=True)
    assert (tmp_path / "patch").read_bytes() == patch


def test_the_command_names_what_was_removed(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A tensor that only the old artifact has is in the text as in the JSON."""
    other = save_dlrm(tmp_path)
    words = ["diff", str(folder / "old"), str(other), "--out", str(tmp_path / "patch"), "--force"]
    cli.main(words, standalone_mode=False)
    text = capsys.readouterr().out
    cli.main([*words, "--json"], standalone_mode=False)
    removed = json.loads(capsys.readouterr().out)["removed"]
    assert len(removed) > 12
    assert f"removed: {', '.join(removed[:12])} and {len(removed) - 12} more" in text
