"""What was saved loads as it was, and nothing else does."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from small_models import DIM, OwnModel, falsify, join, make_bag, make_dlrm, make_own, save_dlrm, save_tiny, split
from torch import nn

from memrec_convert import compress, load, save, verify
from memrec_convert.artifact.metadata import METADATA_ATTRIBUTE
from memrec_convert.artifact.reader import build_modules, read_artifact
from memrec_convert.artifact.verification import check_disjoint
from memrec_convert.artifact.writer import collect_tensors, write_model
from memrec_convert.encoding import LevelSpec, TableSpec
from memrec_convert.encoding.index import build_index, choose_index, order_ids
from memrec_convert.errors import ArtifactError, MemrecError, ModelError, OutputError
from memrec_convert.lookup import CompressedEmbeddingBag

DENSE = torch.linspace(-1, 1, 6).unsqueeze(1)
IDS = torch.tensor([[0, 39, 49, 59], [19, 0, 1, 2], [5, 5, 5, 5], [1, 20, 30, 40], [9, 8, 7, 6], [2, 4, 8, 16]])


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


def test_a_known_network_comes_back_by_itself(path: Path) -> None:
    """The loaded network gives the logits of the saved one, bit for bit, in eval mode."""
    model, original = load(path), make_dlrm()
    assert not model.training
    with torch.no_grad():
        assert torch.equal(model(DENSE, IDS), original(DENSE, IDS))
    result = verify(path)
    assert (result.bytes, result.tables) == (path.stat().st_size, 4)
    assert result.tensors == len(read_artifact(path).tensors)


def test_equal_models_make_equal_files(path: Path, tmp_path: Path, saved: bytes) -> None:
    """A model built again, and one that was loaded, are written with the very same bytes."""
    assert save_dlrm(tmp_path).read_bytes() == saved
    assert save(load(path), tmp_path / "again.safetensors") == len(saved)
    assert (tmp_path / "again.safetensors").read_bytes() == saved


def test_shared_groups_are_stored_once_and_stay_shared(path: Path) -> None:
    """Two hashed tables of one group have one group after loading, and the file holds its tensors once."""
    artifact = read_artifact(path)
    assert {name for name in artifact.tensors if ".group." in name} == {
        f"tables.2.group.{name}" for name in ("tokens", "scale", "weights")
    }
    assert artifact.metadata.aliases["tables.3.group.tokens"] == "tables.2.group.tokens"
    model = load(path)
    assert model.tables[2].group is model.tables[3].group is not None
    filled = build_modules(artifact, filled=True)
    for number, table in enumerate(make_dlrm().tables):
        ids = torch.arange(table.spec.rows)
        assert torch.equal(filled[f"tables.{number}"].lookup(ids), table.lookup(ids))


def test_a_class_of_ones_own_is_filled(tmp_path: Path) -> None:
    """A fresh instance gets its tables replaced and all other tensors, shared modules and layers staying shared."""
    target, original = tmp_path / "own.safetensors", make_own()
    save(original, target)
    fresh = OwnModel()
    loaded = load(target, into=fresh)
    assert loaded is fresh
    assert fresh.words is fresh.also_words
    assert fresh.first.weight is fresh.second.weight
    ids = torch.arange(40)
    with torch.no_grad():
        assert torch.equal(fresh(ids), original(ids))
    assert verify(target).tables == 2
    with pytest.raises(ArtifactError, match=r"load\(path, into=model\)"):
        load(target)


def test_a_compressed_model_survives_its_file(tmp_path: Path) -> None:
    """compress, save and load(into=) of one's own class give the compressed model's answers."""
    torch.manual_seed(3)
    small, _ = compress(OwnModel(nn.Embedding(3000, DIM)), 6000, epochs=0)
    target = tmp_path / "own.safetensors"
    save(small, target)
    assert target.stat().st_size <= 6000
    loaded = load(target, into=OwnModel(nn.Embedding(3000, DIM)))
    ids = torch.arange(3000)
    with torch.no_grad():
        assert torch.equal(loaded(ids), small(ids))
    verify(target)


def test_another_class_is_refused(tmp_path: Path) -> None:
    """An instance without the table or a tensor, or with another shape, is refused with the name of what differs."""
    target = tmp_path / "own.safetensors"
    save(make_own(), target)
    with pytest.raises(ModelError, match="no module there"):
        load(target, into=nn.Linear(2, 2))
    lacking, wide = OwnModel(), OwnModel()
    lacking.extra = nn.Linear(1, 1)
    with pytest.raises(ModelError, match=r"extra\.bias"):
        load(target, into=lacking)
    wide.first = nn.Linear(DIM, 3)
    with pytest.raises(ModelError, match=r"first\.(weight|bias).*shape"):
        load(target, into=wide)
    narrow = OwnModel()
    narrow.coarse = narrow.coarse.double()
    with pytest.raises(ArtifactError, match=r"coarse: dtype torch\.float16, expected torch\.float64"):
        load(target, into=narrow)


def test_transposed_views_are_not_taken_for_each_other(tmp_path: Path) -> None:
    """Two tensors that show one memory in different orders are stored each for itself."""

    def build() -> OwnModel:
        model = make_own()
        square = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
        model.register_buffer("straight", square)
        model.register_buffer("turned", square.t())
        return model

    target = tmp_path / "own.safetensors"
    save(build(), target)
    assert read_artifact(target).tensors["turned"].tolist() == [[1.0, 3.0], [2.0, 4.0]]


def test_cast_tables_are_not_stored(tmp_path: Path) -> None:
    """A model that was cast to another precision is refused, for its file could not be read again."""
    with pytest.raises(ModelError, match=r"frame is torch\.float64, expected torch\.float32"):
        save(make_own().double(), tmp_path / "own.safetensors")
    assert not list(tmp_path.iterdir())


def test_models_without_tables_or_with_odd_tensors_are_refused(tmp_path: Path) -> None:
    """Nothing is written for a model without a compressed table, or with a tensor that has no place in the format."""
    with pytest.raises(ModelError, match="no compressed table"):
        save(nn.Linear(2, 2), tmp_path / "x.safetensors")
    model = make_own()
    model.register_buffer("phase", torch.zeros(2, dtype=torch.complex64))
    with pytest.raises(ModelError, match=r"'phase' is torch\.complex64"):
        save(model, tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())


def test_shared_tensors_are_those_that_were_planned(tmp_path: Path) -> None:
    """A model whose sharing is not the metadata's is refused before anything is written."""
    model = make_dlrm()
    assert collect_tensors(model, dense="fp32")[1]
    with pytest.raises(ModelError, match="shared tensors changed"):
        write_model(tmp_path / "x.safetensors", model, getattr(model, METADATA_ATTRIBUTE))
    assert not list(tmp_path.iterdir())


def test_targets_are_protected(path: Path, saved: bytes) -> None:
    """An existing file is replaced by force alone."""
    with pytest.raises(OutputError, match="--force"):
        save(make_own(), path)
    assert path.read_bytes() == saved
    save(make_own(), path, force=True)
    assert path.read_bytes() != saved


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    """With any single bit flipped, length, header, padding and tensors, verify refuses the file; so does load."""
    path = save_tiny(tmp_path)
    saved = path.read_bytes()
    assert 3000 < len(saved) < 5000
    undetected, loaded = [], []
    with path.open("r+b", buffering=0) as stream:
        for place, byte in enumerate(saved):
            for bit in range(8):
                stream.seek(place)
                stream.write(bytes([byte ^ 1 << bit]))
                with contextlib.suppress(ArtifactError):
                    verify(path)
                    undetected.append((place, bit))
                if (place + bit) % 16 == 0:
                    with contextlib.suppress(ArtifactError, ModelError):
                        load(path)
                        loaded.append((place, bit))
            stream.seek(place)
            stream.write(bytes([byte]))
    assert undetected == []
    assert loaded == []
    verify(path)


@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_spoilt_files_are_refused(tmp_path_factory: pytest.TempPathFactory, saved: bytes, data: st.DataObject) -> None:
    """Pieces overwritten, cut out or put in anywhere are refused with an error of the hierarchy by verify."""
    path = tmp_path_factory.mktemp("fuzz") / "x.safetensors"
    for _ in range(4):
        start = data.draw(st.integers(0, len(saved)))
        cut = data.draw(st.integers(0, 40))
        wrong = saved[:start] + data.draw(st.binary(max_size=40)) + saved[start + cut :]
        if wrong == saved:
            continue
        path.write_bytes(wrong)
        with pytest.raises((ArtifactError, ModelError)):
            verify(path)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 100, 1000, -200, -8, -1])
def test_truncated_files_are_refused(path: Path, saved: bytes, length: int) -> None:
    """A file that ends too early is refused by read, load and verify, and the error names it."""
    path.write_bytes(saved[:length])
    for act in (read_artifact, load, verify):
        with pytest.raises(ArtifactError, match=r"spoilt\.safetensors"):
            act(path)


def test_bytes_behind_the_end_are_refused(path: Path, saved: bytes) -> None:
    """Nothing can hide behind the last tensor."""
    path.write_bytes(saved + b"\0")
    with pytest.raises(ArtifactError):
        verify(path)


def test_headers_written_otherwise_are_refused(path: Path, saved: bytes) -> None:
    """The same header with other spaces, or its tensors in another order, is not the file that was written."""
    header, body = split(saved)
    path.write_bytes(join(header, body))
    verify(path)
    path.write_bytes(join(dict(reversed(header.items())), body))
    read_artifact(path)
    with pytest.raises(ArtifactError, match="header is not the one"):
        verify(path)
    length = int.from_bytes(saved[:8], "little")
    path.write_bytes((length + 8).to_bytes(8, "little") + saved[8 : 8 + length] + b" " * 8 + saved[8 + length :])
    read_artifact(path)
    with pytest.raises(ArtifactError, match="header is not the one"):
        verify(path)


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    """No file, a directory, a pipe, an impossible name, text, and another tool's safetensors are each told apart."""
    foreign, text = tmp_path / "foreign.safetensors", tmp_path / "text.safetensors"
    save_file({"a": torch.zeros(2)}, foreign)
    text.write_text("hello, I am no safetensors file")
    os.mkfifo(tmp_path / "pipe")
    for path, message in (
        (tmp_path / "none", "there is no file"),
        (tmp_path, "is no file"),
        (tmp_path / "pipe", "is no file"),
        (tmp_path / ("x" * 300), "name too long"),
        (text, "no readable safetensors file .*; pass the file that convert or save wrote"),
        (foreign, "not an artifact of this tool"),
    ):
        for act in (load, verify):
            with pytest.raises(ArtifactError, match=message):
                act(path)


def change_module(number: int, **changes: Any) -> Callable[[dict[str, Any]], None]:
    """A forger's change of a table's description."""
    return lambda plain: plain["modules"][f"tables.{number}"].update(changes)


def change_architecture(**changes: Any) -> Callable[[dict[str, Any]], None]:
    """A forger's change of the network."""
    return lambda plain: plain["architecture"].update(changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_module(0, rows=10**13), r"tables\.0\.rows: found .*expected"),
        (change_module(0, dim=10**13), "expected"),
        (change_module(0, codec="fp32"), r"expected torch\.float32"),
        (change_module(1, rows=10**12), r"tables\.1\.base"),
        (change_module(1, rows=10**30), "description of the tables is damaged"),
        (change_module(1, dim=3), r"tables\.1\.frame"),
        (change_module(1, levels=[{}]), "description of the tables is damaged"),
        (change_module(1, stages=[4, 4]), r"tables\.1\.codebook"),
        (change_module(2, hashing={"group": "g", "dim": 2, "rows": 10**9, "k": 2}), r"tables\.2\.group\.tokens"),
        (change_module(3, hashing=5), "description of the tables is damaged"),
        (change_module(1, same_as="tables.9"), "description of the tables is damaged"),
        (change_module(1, same_as=["tables.0"]), "description of the tables is damaged"),
        (change_module(1, oov="drop"), "description of the tables is damaged"),
        (lambda plain: plain["modules"].pop("tables.3"), "does not fit|damaged"),
        (lambda plain: plain["modules"].update({"tables.x": {"same_as": "tables.0"}}), "not numbered from 0"),
        (lambda plain: plain["aliases"].clear(), r"group\.(tokens|scale|weights): found none"),
        (lambda plain: plain["digests"].popitem(), "missing or unknown"),
        (change_architecture(name="resnet"), "network is damaged"),
        (change_architecture(bottom=[10**7, 10**7, 2]), "network is damaged"),
        (change_architecture(bottom=["1", "2"]), "network is damaged"),
        (change_architecture(bottom=[-1, 2]), "network is damaged"),
        (change_architecture(tables=[1, 2, 3, 4]), "network is damaged"),
        (change_architecture(tables=[[], [], [], []]), "network is damaged"),
        (change_architecture(top=[13, 1]), "network is damaged"),
        (lambda plain: plain.update(architecture={}), "network is damaged"),
        (lambda plain: plain.update(architecture=None), "give a fresh instance"),
    ],
)
def test_forged_descriptions_are_refused(path: Path, change: Callable[[dict[str, Any]], None], message: str) -> None:
    """A forger who writes fitting digests gets neither a crash nor memory: the tensors in the file decide."""
    falsify(path, lambda plain: None)
    load(path)
    falsify(path, change)
    with pytest.raises((ArtifactError, ModelError), match=message) as caught:
        load(path)
    assert isinstance(caught.value, MemrecError)
    assert "spoilt.safetensors" in str(caught.value)


def test_a_forged_index_is_refused(path: Path, saved: bytes) -> None:
    """An index that points outside its level is refused by load and verify where its digest fits."""
    artifact = read_artifact(path)
    header, body = split(saved)
    start, _ = header["tables.1.level0_index"]["data_offsets"]
    spoilt = body[: start + 4] + b"\xff" + body[start + 5 :]
    path.write_bytes(join(header, spoilt))
    for act in (load, verify):
        with pytest.raises(ArtifactError, match=r"tables\.1\.level0_index: its bytes do not match their digest"):
            act(path)
    wrong = {**artifact.tensors, "tables.1.level0_index": load_file(path)["tables.1.level0_index"]}
    falsify(path, lambda plain: plain.update(digests=dict(artifact.metadata.with_digests(wrong).digests)))
    for act in (load, verify):
        with pytest.raises(ArtifactError, match=r"tables\.1 *: the index of level 0 is damaged"):
            act(path)


def test_a_table_by_itself_can_be_saved(tmp_path: Path) -> None:
    """A model of one nested bag is written and filled again under its path."""

    class Holder(nn.Module):
        def __init__(self, bag: nn.Module) -> None:
            super().__init__()
            self.inner = nn.ModuleDict({"a b": bag})

    target, bag = tmp_path / "x.safetensors", make_bag(40, mode="mean", padding_idx=2, include_last_offset=True)
    save(Holder(bag), target)
    for other in (nn.EmbeddingBag(40, DIM), nn.Embedding(40, DIM)):
        with pytest.raises(ModelError, match="expected"):
            load(target, into=Holder(other))
    same = nn.EmbeddingBag(40, DIM, mode="mean", padding_idx=2, include_last_offset=True)
    found = load(target, into=Holder(same)).inner["a b"]
    assert (found.mode, found.padding_idx, found.include_last_offset) == ("mean", 2, True)
    ids, offsets = torch.tensor([1, 2, 3]), torch.tensor([0, 2, 3])
    assert torch.equal(found(ids, offsets), bag(ids, offsets))


def test_an_id_in_two_levels_is_found():
    """Which level such an id takes would depend on the reader, so verify refuses the file."""
    ids = np.array([3, 5], dtype=np.int64)
    index = choose_index(40, 2)
    levels = (LevelSpec("codes", index, depth=1), LevelSpec("rows", index, codec="fp32"))
    module = CompressedEmbeddingBag(TableSpec(40, 4, "replaced", stages=(2,), shifts=(0,), levels=levels))
    for number in (0, 1):
        setattr(module, f"level{number}_index", torch.from_numpy(build_index(index, order_ids(index, ids))))
    with pytest.raises(ArtifactError, match="id 3 is in both levels"):
        check_disjoint(module, "a table")
