"""A row codec is complete: kernel, second reader, page and planner know it; one that is half there still answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import artifact_reader_check as second
import numpy as np
import pytest
import torch
from random_tables import random_kept, random_table
from torch import Tensor, nn

from memrec_convert import convert, load, save, verify
from memrec_convert.artifact.features import FEATURES, list_features
from memrec_convert.artifact.reader import read_artifact
from memrec_convert.encoding import describe_table
from memrec_convert.encoding.codecs import CODECS
from memrec_convert.errors import ArtifactError
from memrec_convert.finetune.stored_rows import TrainableKept
from memrec_convert.kernels.loading import load_kernel
from memrec_convert.lookup import CompressedEmbeddingBag
from memrec_convert.lookup.kernel_tables import kernel_can_read
from memrec_convert.models import build_model
from memrec_convert.planning.curves import TableCurves
from memrec_convert.planning.forms import choose_form, spec_of

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "artifact.md").read_text(encoding="utf-8")
NAME, FORMAT_1 = "twelve", ("fp32", "bf16", "fp16", "int8")
SIMPLE = {"architecture": None, "dense": "fp32", "profile": {}, "plan": {}, "seed": 0, "aliases": {}, "digests": {}}


@dataclass(frozen=True)
class TwelveBits:
    """A codec that nobody knows: two values in three bytes, an fp16 step per row, and no part that is called `rows`."""

    name: str = NAME

    def parts(self, rows: int, dim: int) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Packed values and steps; the width is even in these tests."""
        return {"packed": (torch.uint8, (rows, dim // 2 * 3)), "step": (torch.float16, (rows,))}

    def encode(self, rows: Tensor) -> dict[str, Tensor]:
        """Values -2047..2047 of the row's step."""
        step = (rows.abs().amax(dim=1) / 2000).to(torch.float16)
        wide = step.to(torch.float32).clamp_min(1e-8).unsqueeze(1)
        codes = (rows / wide).round().clamp(-2047, 2047).to(torch.int32) + 2048
        low, high = codes[:, ::2], codes[:, 1::2]
        packed = torch.stack([low % 256, low // 256 + high % 16 * 16, high // 16], dim=2).flatten(1)
        return {"packed": packed.to(torch.uint8), "step": step}

    def decode(self, parts: Mapping[str, Tensor], numbers: Tensor, dim: int) -> Tensor:
        """One product per value."""
        first, middle, last = parts["packed"][numbers].to(torch.int32).unflatten(1, (-1, 3)).unbind(2)
        codes = torch.stack([first + middle % 16 * 256, middle // 16 + last * 16], dim=2).flatten(1) - 2048
        return codes.to(torch.float32) * parts["step"][numbers].to(torch.float32).unsqueeze(1)


def uses_twelve(fields: Mapping[str, Any]) -> bool:
    """Whether metadata describes a table or level in that codec."""
    return f"'codec': '{NAME}'" in str(fields["modules"])


@pytest.fixture
def twelve(monkeypatch: pytest.MonkeyPatch) -> None:
    """The codec, registered as CONTRIBUTING says: its entry in CODECS, and a feature, since format 1 has none such."""
    monkeypatch.setitem(CODECS, NAME, TwelveBits())
    monkeypatch.setitem(FEATURES, NAME, uses_twelve)


def make_bags(codec: str, dim: int = 4, **facts: Any) -> list[CompressedEmbeddingBag]:
    """A table kept in a codec, and one with a level of rows stored in it."""
    spec, tensors, _ = random_kept(1, codec, dim=dim)
    random = random_table(2, "codes", ("codes", codec), dim)
    bags = []
    for one, content in ((spec, tensors), (random.spec, random.tensors)):
        bags.append(CompressedEmbeddingBag(one, name=codec, **facts))
        bags[-1].fill(content)
    return bags


class Bags(nn.Module):
    """A model of an own class around some tables."""

    def __init__(self, tables: list[CompressedEmbeddingBag]) -> None:
        super().__init__()
        self.tables = nn.ModuleList(tables)


def ask(bag: CompressedEmbeddingBag) -> tuple[Tensor, Tensor]:
    """A module's answer for bags of weighted ids, and the sum of the rows that the codec itself gives."""
    ids = torch.arange(bag.spec.rows)
    offsets, weights = torch.arange(0, len(ids), 3), torch.linspace(0.5, 2, len(ids))
    rows = bag.lookup(ids) * weights.unsqueeze(1)
    expected = torch.stack([rows[start : start + 3].sum(dim=0) for start in offsets.tolist()])
    return bag(ids, offsets, weights), expected


@pytest.mark.parametrize("codec", CODECS)
def test_the_kernel_reads_every_codec(codec: str) -> None:
    """Kept tables and stored rows of each codec are looked up by the kernel where there is one, and rightly."""
    for bag in make_bags(codec):
        assert kernel_can_read(bag) == (load_kernel() is not None)
        found, expected = ask(bag)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("codec", CODECS)
def test_the_second_reader_and_the_page_know_every_codec(codec: str, tmp_path: Path) -> None:
    """Section 4 has a row for it, and a reader that follows the page gives its rows to the bit."""
    section = PAGE.split("## 4. ")[1].split("## 5. ")[0]
    assert f"| `{codec}` | " in section
    path = tmp_path / "x.safetensors"
    bags = make_bags(codec)
    save(Bags(bags), path)
    for number, bag in enumerate(bags):
        ids = np.arange(bag.spec.rows)
        found, expected = second.ArtifactFile(path).lookup(f"tables.{number}", ids), bag.lookup(torch.from_numpy(ids))
        assert np.array_equal(found.view(np.uint32), expected.numpy().view(np.uint32))


@pytest.mark.parametrize("codec", CODECS)
def test_the_planner_weighs_every_codec(codec: str) -> None:
    """A table is kept in the codec where that alone is free of loss, with the bytes of the codec's own parts."""
    kept = {name: 0.0 if name == codec else 1e9 for name in CODECS}
    curves = TableCurves("t", 100, 4, np.array([100]), (), {}, kept)
    choice = choose_form(curves, price=1e-9)
    assert choice.kept == codec
    assert spec_of(choice, 100, 4).tensors() == CODECS[codec].parts(100, 4)


def requires_feature(codec: str) -> bool:
    """Whether a file is of format 2 because a table, or a level of one, is stored in the codec."""
    descriptions = [describe_table(bag.spec, name="t", oov="clip") for bag in make_bags(codec)]
    needs = {bool(list_features(SIMPLE | {"modules": {"t": plain}})) for plain in descriptions}
    assert len(needs) == 1
    return needs.pop()


@pytest.mark.parametrize("codec", CODECS)
def test_codecs_beyond_format_1_require_a_feature(codec: str) -> None:
    """The four codecs of format 1 need none; a further one does, or an old reader would call its file damaged."""
    assert requires_feature(codec) == (codec not in FORMAT_1)


def test_a_codec_without_a_feature_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check above fails for a codec that is in CODECS and in no feature, and passes once it is in one."""
    monkeypatch.setitem(CODECS, NAME, TwelveBits())
    assert not requires_feature(NAME)
    monkeypatch.setitem(FEATURES, NAME, uses_twelve)
    assert requires_feature(NAME)


@pytest.mark.usefixtures("twelve")
def test_a_codec_without_a_kernel_takes_the_reference() -> None:
    """A codec in CODECS alone answers, alone and among tables that the kernel reads, and can be trained."""
    unknown, known = make_bags(NAME), make_bags("int8")
    for bag in unknown:
        assert not kernel_can_read(bag)
        found, expected = ask(bag)
        torch.testing.assert_close(found, expected)
    architecture = {"name": "dlrm", "bottom": [2, 4], "top": [4 + 16, 1], "interaction": "cat", "pairs": "lower"}
    tables = [*unknown, *known]
    architecture |= {"tables": [[bag.spec.rows, bag.spec.dim] for bag in tables]}
    vectors = build_model(architecture, tables).embed(torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]]))
    for number, bag in enumerate(tables):
        assert torch.equal(vectors[number], bag.lookup(torch.tensor([1 + number, 5 + number])))
    trained = TrainableKept(unknown[0], mapped=False).decode(torch.arange(9))  # coded anew, by steps of its own
    torch.testing.assert_close(trained, unknown[0].lookup(torch.arange(9)), rtol=1e-3, atol=1e-3)


@pytest.mark.usefixtures("twelve")
def test_a_new_codec_is_converted_to_saved_and_refused_by_name(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planner takes it up; its file is of format 2, verifies, and an older release says what it lacks."""
    path = tmp_path / "x.safetensors"
    convert(tiny.bare, "8x", out=path, epochs=0, threads=1)
    metadata = read_artifact(path).metadata
    assert uses_twelve({"modules": metadata.modules})
    assert '"format":2' in metadata.to_text()
    assert verify(path).bytes == path.stat().st_size
    for table in load(path).tables:
        found, expected = ask(table)
        torch.testing.assert_close(found, expected)
    monkeypatch.delitem(FEATURES, NAME)
    with pytest.raises(ArtifactError, match="requires the feature 'twelve', which this release does not know"):
        load(path)
    with pytest.raises(second.Refused, match="twelve"):
        second.ArtifactFile(path)
