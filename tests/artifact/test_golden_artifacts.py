"""Files that released versions wrote are read by every later one; what a later one writes is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from golden.make import KINDS, NEWEST_WRITTEN, ask
from small_models import falsify_text

from memrec_convert import load, verify
from memrec_convert.artifact.features import NEWEST_FORMAT
from memrec_convert.errors import ArtifactError

GOLDEN = sorted((Path(__file__).parent / "golden").glob("format-*.safetensors"))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_old_files_answer_as_they_did(path: Path) -> None:
    """Every table's rows are the very bits that the writing version read, the logits the same to 1e-6."""
    assert verify(path).bytes == path.stat().st_size <= 8192
    expected = json.loads(path.with_suffix(".json").read_text())
    found = ask(path, path.stem.split("-")[-1])
    assert found["rows"] == expected["rows"]
    logits = [[float.fromhex(value) for value in one["logits"]] for one in (found, expected)]
    assert logits[0] == pytest.approx(logits[1], abs=1e-6)


def test_every_format_version_has_its_files() -> None:
    """Each version that can be written has a file with every form of table, and one that a conversion wrote."""
    named = {f"format-{version}-{kind}" for version in range(1, NEWEST_WRITTEN + 1) for kind in KINDS[version]}
    assert {path.stem for path in GOLDEN} == named


@pytest.mark.parametrize("version", [NEWEST_FORMAT + 1, 99, 0, -1, "1", 1.5, True, None, [1], {"major": 1}, 10**40])
def test_other_versions_are_refused_by_name(tmp_path: Path, version: Any) -> None:
    """A newer format is named with what to do, by read and verify alike, whatever else its file holds."""
    path = tmp_path / "new.safetensors"
    path.write_bytes(GOLDEN[-1].read_bytes())
    falsify_text(path, lambda plain: plain.update(format=version, fields_of_the_future=1))
    for act in (load, verify):
        with pytest.raises(ArtifactError, match=r"format version .*install a newer memrec-convert") as caught:
            act(path)
        if isinstance(version, int):
            assert str(version)[:20] in str(caught.value)
