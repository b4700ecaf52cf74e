"""The dense part in bf16 and int8: what is written, what a reader makes of it, and who may choose otherwise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import falsify_text
from tiny_networks import NETWORKS, make_batch, save_network

from memrec_convert import load, save, verify
from memrec_convert.artifact.dense import SCALE
from memrec_convert.artifact.expanding import expand_tables
from memrec_convert.artifact.reader import read_artifact
from memrec_convert.errors import ArtifactError, BudgetError, ModelError
from memrec_convert.models import ClickNetwork

WIDE = ["dlrm, wide layers", "dlrm-dcn, wide layers"]


def ask(model: Any, name: str) -> torch.Tensor:
    """Logits of a small batch, whose ids may lie outside their tables."""
    architecture = NETWORKS[name][1] | {"tables": [list(shape) for shape in model.shapes]}
    values, inputs = make_batch(architecture, bags=False)
    ids = torch.stack([torch.from_numpy(one[0]) for one in inputs], dim=1)
    with torch.no_grad():
        result: torch.Tensor = model(torch.from_numpy(values), ids)
    return result


@pytest.mark.parametrize("dense", ["bf16", "int8"])
@pytest.mark.parametrize("name", WIDE)
def test_a_file_says_how_it_is_stored_and_computed(tmp_path: Path, name: str, dense: str) -> None:
    """It requires the features by name, and a model loaded from it computes so."""
    path = save_network(name, tmp_path, dense=dense)
    plain = json.loads(read_artifact(path).metadata.to_text())
    assert (plain["dense"], plain["compute"], plain["format"]) == (dense, dense, 2)
    assert plain["requires"] == (["compute", "int8-dense"] if dense == "int8" else ["compute"])
    assert verify(path).bytes == path.stat().st_size
    model = load(path)
    assert isinstance(model, ClickNetwork)
    assert model.compute == dense
    found, wide = ask(model, name), ask(load(path, compute="fp32"), name)
    assert 0 < float((found - wide).abs().max()) < 0.05 * float(wide.abs().max())


def test_a_file_in_fp32_keeps_its_format(tmp_path: Path) -> None:
    """No feature, no field: what needs neither is of format 1, and can be computed narrowly all the same."""
    path = save_network(WIDE[0], tmp_path)
    plain = json.loads(read_artifact(path).metadata.to_text())
    assert plain["format"] == 1
    assert "compute" not in plain
    assert not torch.equal(ask(load(path), WIDE[0]), ask(load(path, compute="int8"), WIDE[0]))


@pytest.mark.parametrize("dense", ["bf16", "int8"])
def test_a_loaded_file_is_saved_to_the_same_bytes(tmp_path: Path, dense: str) -> None:
    """Rounding again rounds nothing, whatever precision the model was loaded to compute in."""
    path = save_network(WIDE[0], tmp_path, dense=dense)
    for number, compute in enumerate((None, "fp32", "int8")):
        again = tmp_path / f"{number}.safetensors"
        save(load(path, compute=compute), again)
        assert again.read_bytes() == path.read_bytes()


def test_int8_takes_a_quarter_of_the_large_matrices(tmp_path: Path) -> None:
    """One byte per weight and four per output; small tensors stay as they are."""
    tensors = read_artifact(save_network(WIDE[0], tmp_path, dense="int8")).tensors
    assert (tensors["top.2.weight"].dtype, tensors["top.2.weight" + SCALE].shape) == (torch.int8, (33,))
    assert tensors["top.0.weight"].dtype == torch.float32
    assert "top.0.weight" + SCALE not in tensors


@pytest.mark.parametrize("change", ["scale missing", "scale alone", "scale not finite", "rows in another type"])
def test_a_damaged_matrix_is_refused(tmp_path: Path, change: str) -> None:
    """Matrix and scales go together, in the types and shapes of the page."""
    path = save_network(WIDE[0], tmp_path, dense="int8")
    tensors, metadata = dict(read_artifact(path).tensors), read_artifact(path).metadata
    name = "top.2.weight"
    if change == "scale missing":
        del tensors[name + SCALE]
    elif change == "scale alone":
        tensors[name] = tensors[name].float()
    elif change == "scale not finite":
        tensors[name + SCALE][0] = torch.nan
    else:
        tensors[name] = tensors[name].view(torch.uint8)
    path.write_bytes(write(tensors, metadata))
    with pytest.raises((ArtifactError, ModelError), match=r"top\.2\.weight"):
        load(path)


def write(tensors: dict[str, torch.Tensor], metadata: Any) -> bytes:
    """A file of these tensors whose digests fit."""
    from memrec_convert.artifact.layout import build_header, order_names
    from memrec_convert.artifact.metadata import tensor_bytes

    shapes = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    header = build_header(shapes, metadata.with_digests(tensors).to_text())
    return header + b"".join(bytes(tensor_bytes(tensors[name])) for name in order_names(shapes))


@pytest.mark.parametrize(
    "change",
    [{"compute": "fp32"}, {"compute": "fp8"}, {"compute": None}, {"compute": "int8", "architecture": None}],
    ids=str,
)
def test_a_computation_that_cannot_be_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    """fp32 is what an absent field says; there is no other type; and a user's own class has no such choice."""
    path = save_network(WIDE[0], tmp_path, dense="bf16")
    falsify_text(path, lambda plain: plain.update(change))
    with pytest.raises(ArtifactError, match="convert the source again"):
        load(path)


@pytest.mark.parametrize("compute", ["bf16", "int8"])
@pytest.mark.parametrize("name", WIDE)
def test_one_call_gives_what_the_stages_give(tmp_path: Path, name: str, compute: Any) -> None:
    """From ids to logits in the kernel, or vectors first and the rest after: the very bits."""
    model = load(save_network(name, tmp_path), compute=compute)
    assert isinstance(model, ClickNetwork)
    dense, ids = torch.rand(70, 2), torch.randint(0, 30, (70, len(model.tables)))
    with torch.no_grad():
        assert torch.equal(model(dense, ids), model.interact(dense, model.embed(ids)))
        assert torch.equal(model(dense, ids.int()), model(dense, ids))
        assert torch.equal(model(dense[:1], ids[:1]), model(dense, ids)[:1])


def test_ids_outside_a_table_are_named(tmp_path: Path) -> None:
    """The pipeline finds them, and the error is that of the table."""
    model = load(save_network(WIDE[0], tmp_path), compute="int8")
    assert isinstance(model, ClickNetwork)
    for table in model.tables:
        table.oov = "error"
    with pytest.raises(IndexError, match=r"table table 2 has \d+ rows: 1 ids are outside, the first is 1000"):
        model(torch.rand(2, 2), torch.tensor([[0, 0, 1000, 0], [0, 0, 0, 0]]))


@pytest.mark.parametrize("room", [1, 2_000, "1MB"])
@pytest.mark.parametrize("name", ["dlrm, lower", "dlrm, side by side", "deepfm, rows", "dlrm, wide layers"])
def test_expanded_tables_answer_alike(tmp_path: Path, name: str, room: Any) -> None:
    """Whatever is decoded beforehand, logits have the very bits; the tables' own tensors stay."""
    path = save_network(name, tmp_path)
    plain, expanded = load(path), load(path, expand=room)
    assert torch.equal(ask(plain, name), ask(expanded, name))
    again = tmp_path / "again.safetensors"
    save(expanded, again)
    assert again.read_bytes() == path.read_bytes()


def test_expansion_stays_within_its_memory(tmp_path: Path) -> None:
    """Smallest tables first, none that is fp32 already, and never a byte more than was given."""
    tables = list(load(save_network("dlrm, side by side", tmp_path)).tables)
    sizes = sorted(4 * table.spec.rows * table.spec.dim for table in tables if table.spec.codec != "fp32")
    assert expand_tables(tables, 0) == 0
    assert expand_tables(tables, sum(sizes[:3])) == sum(sizes[:3])
    assert expand_tables(tables, sum(sizes[:3]) - 1) == sum(sizes[:2])
    assert sum(table.shown is not table for table in tables) == 3


def test_a_replaced_tensor_ends_an_expansion(tmp_path: Path) -> None:
    """The kernel reads the new numbers, not those that were decoded from the old ones."""
    name = "dlrm, lower"
    model = load(save_network(name, tmp_path), expand="1MB")
    before = ask(model, name)
    for table in model.tables:
        if table.spec.form == "replaced":
            table.frame = table.frame * 2
    assert not torch.equal(ask(model, name), before)


@pytest.mark.parametrize("room", ["10x", "5%", "nothing", 0])
def test_a_room_that_is_no_size_is_refused(tmp_path: Path, room: Any) -> None:
    """A share means nothing here."""
    with pytest.raises(BudgetError):
        load(save_network("dlrm, lower", tmp_path), expand=room)
