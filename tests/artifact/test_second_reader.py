"""docs/artifact.md is enough to write a reader: one that follows it gives the rows and logits of every network."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import artifact_reader_check as second
import numpy as np
import pytest
import torch
from golden.make import GOLDEN, INPUTS, make_inputs
from small_models import OwnModel, make_own
from tiny_networks import NETWORKS, SAMPLES, make_batch, save_network

from memrec_convert import load, save, verify
from memrec_convert.clicklog.columns import transform_dense
from memrec_convert.models import MODELS

WITH_LOGITS = [name for name in NETWORKS if name != "tables"]


def test_every_network_has_a_tiny_artifact() -> None:
    """A network that is added without one here is noticed, and one that the second reader does not know."""
    assert {architecture["name"] for _, architecture in NETWORKS.values()} == set(MODELS)
    assert set(second.NETWORKS) | {"tables"} == set(MODELS)


def test_the_second_reader_shares_no_code() -> None:
    """It imports numpy and the standard library, and nothing of the package: only the page leads it."""
    tree = ast.parse(Path(second.__file__).read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported == {"__future__", "hashlib", "json", "pathlib", "typing", "numpy"}


@pytest.mark.parametrize("dense", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("name", NETWORKS)
def test_rows_are_the_same_to_the_bit(tmp_path: Path, name: str, dense: str) -> None:
    """Every row of every table, in every form, of files of every dense precision; each digest; the file verifies."""
    path = save_network(name, tmp_path, dense=dense)
    file, model = second.ArtifactFile(path), load(path)
    assert file.metadata["digests"] == {tensor: file.digest(tensor) for tensor in file.header}
    assert file.metadata["self"] == file.digest_self()
    assert verify(path).bytes == path.stat().st_size
    tables = list(model.tables)
    assert set(file.metadata["modules"]) == {f"tables.{number}" for number in range(len(tables))}
    for number, table in enumerate(tables):
        ids = np.arange(-5, table.spec.rows + 7)
        expected = table.lookup(torch.from_numpy(ids)).numpy()
        assert np.array_equal(file.lookup(f"tables.{number}", ids).view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("bags", [False, True], ids=["one id", "bags"])
@pytest.mark.parametrize("dense", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("name", WITH_LOGITS)
def test_logits_are_the_same(tmp_path: Path, name: str, dense: str, bags: bool) -> None:
    """From the file alone: raw dense values and ids in, one by one or in bags with weights, logits out.

    To 1e-5 where the file is computed in fp32.
    """
    path = save_network(name, tmp_path, dense=dense)
    file, architecture = second.ArtifactFile(path), NETWORKS[name][1]
    values, inputs = make_batch(file.metadata["architecture"], bags=bags)
    found = file.logits(values, inputs)
    transformed = transform_dense(values, architecture.get("dense_transform", "log1p"), ("a", "b"), where="x")
    given = [
        (torch.from_numpy(i), torch.from_numpy(o), None if w is None else torch.from_numpy(w)) for i, o, w in inputs
    ]
    ids = given if bags else torch.stack([one[0] for one in given], dim=1)
    with torch.no_grad():
        expected = load(path)(torch.from_numpy(transformed), ids).numpy()
    assert found.shape == (SAMPLES,)
    assert np.ptp(expected) > 0.1
    # A value that two orders of summing put on either side of a rounding differs by a whole step of it afterwards.
    slack = 1e-5 if file.metadata.get("compute", "fp32") == "fp32" else 2e-3
    np.testing.assert_allclose(found, expected, rtol=slack, atol=slack * max(1, np.abs(expected).max()))


def test_a_bag_for_a_table_of_single_ids_is_refused(tmp_path: Path) -> None:
    """`single_valued` is no remark: rows cannot stand for such a bag, and both readers say so."""
    file = second.ArtifactFile(save_network("dlrm, side by side", tmp_path))
    values, inputs = make_batch(file.metadata["architecture"] | {"single_valued": []}, bags=True)
    with pytest.raises(second.Refused, match="several ids for table 1"):
        file.logits(values, inputs)


def test_tables_have_names(tmp_path: Path) -> None:
    """Without a network, a table is found by its name in the checkpoint: entry n of `names` is table n."""
    path = save_network("tables", tmp_path)
    file, model = second.ArtifactFile(path), load(path)
    for number, name in enumerate(file.metadata["architecture"]["names"]):
        ids = np.arange(5)
        assert np.array_equal(file.embed(f"tables.{number}", ids), model(name, torch.from_numpy(ids)).numpy())


@pytest.mark.parametrize(
    "path",
    sorted(one for name in INPUTS for one in GOLDEN.glob(f"format-*-{name}.safetensors")),
    ids=lambda path: path.stem,
)
def test_golden_files_answer_alike(path: Path) -> None:
    """The second reader gives the logits that the writing version gave, to 1e-5."""
    dense, ids = (tensor.numpy() for tensor in make_inputs(*INPUTS[path.stem.split("-")[-1]]))
    file = second.ArtifactFile(path)
    raw = np.expm1(dense.astype(np.float64)).astype(np.float32)
    found = file.logits(raw, [(column, np.arange(len(ids)), None) for column in ids.T])
    answers = json.loads(path.with_suffix(".json").read_text())["logits"]
    np.testing.assert_allclose(found, [float.fromhex(value) for value in answers], rtol=1e-5, atol=1e-5)


def test_a_model_of_an_own_class_is_read_by_its_paths(tmp_path: Path) -> None:
    """One table under two paths, tied layers, and buffers of any type: all under their names in the class."""
    path = tmp_path / "own.safetensors"
    save(make_own(), path)
    file, model = second.ArtifactFile(path), load(path, into=OwnModel())
    assert file.metadata["architecture"] is None
    assert sorted(file.metadata["modules"]) == ["also_words", "words"]
    ids = np.arange(len(model.words.weight))
    vectors = file.embed("words", ids) + file.embed("also_words", ids)
    for layer in ("first", "second"):
        vectors = vectors @ file.tensor(f"{layer}.weight").T + file.tensor(f"{layer}.bias")
    found = vectors * file.tensor("count") + file.tensor("coarse").astype(np.float32)
    with torch.no_grad():
        np.testing.assert_allclose(found, model(torch.from_numpy(ids)).numpy(), rtol=1e-5, atol=1e-5)
    assert file.tensor("mask").tolist() == [True, False, True]
    assert file.tensor("nothing").shape == (0, 3)
