"""Format 2 names what its reader must know: a known feature is read and written, all else is refused by its name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import artifact_reader_check as second
import pytest
from golden.make import GOLDEN
from small_models import falsify_text, save_tiny

from memrec_convert import load, save, verify
from memrec_convert.artifact.features import FEATURES
from memrec_convert.artifact.reader import read_artifact
from memrec_convert.errors import ArtifactError

GOLDEN_FILES = sorted(GOLDEN.glob("format-1-*.safetensors"))
DAMAGED = "requires: expected a sorted list of distinct names, at least one"


def forge(folder: Path, **changes: Any) -> Path:
    """A small artifact with these metadata fields in place of its own, and a digest that fits."""
    path = save_tiny(folder)
    falsify_text(path, lambda plain: plain.update(changes))
    return path


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """A feature that exists for the test: a file needs it where its dense part is stored as bf16."""
    monkeypatch.setitem(FEATURES, "coarse", lambda fields: bool(fields["dense"] == "bf16"))
    monkeypatch.setattr(second, "FEATURES", second.FEATURES | {"coarse"})


@pytest.mark.parametrize("act", [load, verify, second.ArtifactFile])
def test_an_unknown_feature_is_refused_by_its_name(tmp_path: Path, act: Any) -> None:
    """One sentence: which feature, which file, and what to do; whatever else the file holds."""
    path = forge(tmp_path, format=2, requires=["product-codes"], of_the_future={"deep": [1]})
    with pytest.raises((ArtifactError, second.Refused), match=r"requires the feature 'product-codes'") as caught:
        act(path)
    assert str(path) in str(caught.value)
    if act is not second.ArtifactFile:
        assert "install a newer memrec-convert, or convert the source again" in str(caught.value)
        assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("requires", "message"),
    [
        ([], DAMAGED),
        (None, DAMAGED),
        ("coarse", DAMAGED),
        ({"coarse": 1}, DAMAGED),
        ([1], DAMAGED),
        (["coarse", None], DAMAGED),
        (["coarse", "coarse"], DAMAGED),
        (["fine", "coarse"], DAMAGED),
        (["coarse", "fine"], "requires the feature 'fine'"),
        ([""], "requires the feature ''"),
        (["\x1b[2J\n"], r"requires the feature '\\x1b\[2J\\n'"),
        (["x" * 10_000], "requires the feature 'x{59}[.]{3}, which"),
        (["coarse"], r"requires \['coarse'\] and describes what requires \[\]"),
    ],
    ids=lambda value: str(value)[:30],
)
@pytest.mark.usefixtures("coarse")
def test_what_no_writer_writes_is_refused(tmp_path: Path, requires: Any, message: str) -> None:
    """A list that is empty, unsorted, doubled, of wrong kinds, or of a feature that nothing in the file needs."""
    path = forge(tmp_path, format=2, requires=requires)
    for act in (load, verify):
        with pytest.raises(ArtifactError, match=message) as caught:
            act(path)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 500
    if message == DAMAGED or "requires the feature" in message:
        with pytest.raises(second.Refused):
            second.ArtifactFile(path)


@pytest.mark.parametrize("version", [0, 3, "2", 2.0, True, None])
def test_the_second_reader_refuses_other_formats(tmp_path: Path, version: Any) -> None:
    """It reads what the page specifies, formats 1 and 2, and says so of anything else."""
    with pytest.raises(second.Refused, match="format"):
        second.ArtifactFile(forge(tmp_path, format=version))


@pytest.mark.parametrize("changes", [{"format": 2}, {"requires": ["coarse"]}])
@pytest.mark.usefixtures("coarse")
def test_requires_belongs_to_format_2(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Format 2 without the field, and format 1 with it, are damage."""
    path = forge(tmp_path, **changes)
    for act in (load, verify, second.ArtifactFile):
        with pytest.raises((ArtifactError, second.Refused)):
            act(path)


@pytest.mark.usefixtures("coarse")
def test_a_known_feature_is_written_and_read(tmp_path: Path) -> None:
    """A file that needs a feature is of format 2 and lists it; both readers read it, and it is written alike again."""
    path = tmp_path / "coarse.safetensors"
    old = save_tiny(tmp_path)
    falsify_text(old, lambda plain: plain.update(format=2, requires=["coarse"], dense="bf16"))
    model = load(old)
    nbytes = save(model, path)
    plain = json.loads(read_artifact(path).metadata.to_text())
    assert (plain["format"], plain["requires"]) == (2, ["coarse"])
    assert second.ArtifactFile(path).metadata == plain
    assert verify(path).bytes == nbytes == path.stat().st_size
    falsify_text(path, lambda own: own.update(format=1) or own.pop("requires"))
    with pytest.raises(ArtifactError, match=r"requires \[\] and describes what requires \['coarse'\]"):
        load(path)


@pytest.mark.parametrize("path", GOLDEN_FILES, ids=lambda path: path.stem)
def test_a_file_that_needs_no_feature_stays_format_1(path: Path) -> None:
    """What a released version wrote is written again to the letter: no feature of a later one changes its text."""
    metadata = read_artifact(path).metadata
    assert json.loads(metadata.to_text())["format"] == 1
    assert metadata.to_text() == second.ArtifactFile(path).metadata_text
