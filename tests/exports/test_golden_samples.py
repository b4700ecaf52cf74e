"""The samples that travel with an export: they reach every form, read back as they were, and find another model."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_networks import NETWORKS, save_network

from memrec_convert import export, load
from memrec_convert.errors import ExportError, OptionError, OutputError
from memrec_convert.exports.export import find_place, prove, read_subject
from memrec_convert.exports.golden import SAMPLES, UNREADABLE, golden_from_json, make_golden, read_inputs

KINDS = ("ids", "bags", "weighted-bags")


def takes(name: str, inputs: str) -> bool:
    """Whether a network takes inputs of this kind."""
    architecture = NETWORKS[name][1]
    return inputs == "ids" or not (
        architecture["name"] == "tables" or (inputs == "weighted-bags" and architecture.get("pooling") == "mean")
    )


@pytest.mark.parametrize("inputs", KINDS)
@pytest.mark.parametrize("name", NETWORKS)
def test_samples_read_back_as_they_were(name, inputs, tmp_path):
    """JSON keeps every number to the bit, and the model gives the logits that are written there."""
    path = save_network(name, tmp_path)
    if not takes(name, inputs):
        with pytest.raises(ExportError, match="export with inputs"):
            read_subject(path, inputs)
        return
    golden = read_subject(path, inputs).golden
    again = golden_from_json(json.loads(json.dumps(golden.to_json())))
    assert golden.feeds.keys() == again.feeds.keys()
    for key, value in golden.feeds.items():
        assert again.feeds[key].dtype == value.dtype
        assert np.array_equal(again.feeds[key], value)
    if again.logits is None:
        assert again.digests == golden.digests
        return
    count = 1 + max(int(key.split("_")[1]) for key in again.feeds if key.startswith("ids_")) if inputs != "ids" else 0
    logits = load(path)(torch.from_numpy(again.feeds["dense"]), read_inputs(again.feeds, count))
    assert np.array_equal(again.logits, logits.numpy())
    assert again.logits.shape == (SAMPLES,)


def test_samples_reach_every_level_and_what_is_outside(tmp_path):
    """Ids come from each form of each table, and from both sides of a table that takes foreign ids."""
    subject = read_subject(save_network("dlrm-dcn", tmp_path), "ids")
    for table, feed in zip(subject.model.tables, subject.model.table_inputs, strict=True):
        ids = torch.from_numpy(subject.golden.feeds["ids"][:, feed])
        inside = ids[(ids >= 0) & (ids < table.spec.rows)]
        if table.spec.form == "replaced":
            assert set(table.form_of(inside).tolist()) == set(range(1 + len(table.spec.levels)))
        assert int(ids.min()) < 0
        assert int(ids.max()) >= table.spec.rows


def test_samples_stay_inside_tables_that_refuse_foreign_ids(tiny, tmp_path):
    """Where `oov` is error, the model itself would refuse them."""
    from memrec_convert import convert

    out = tmp_path / "a.safetensors"
    convert(tiny.bare, "12kB", out=out, method="int8")
    ids = read_subject(out, "ids").golden.feeds["ids"]
    assert (ids >= 0).all()
    assert (ids < [2000, 300, 40]).all()


def test_another_model_is_found(tmp_path):
    """A logit beyond the tolerance, one that is no number, and rows that differ in a bit are refused."""
    golden = read_subject(save_network("dlrm, lower", tmp_path), "ids").golden
    assert golden.compare({"logit": golden.logits}, "here") == 0
    near = golden.logits * np.float32(1 + 2e-6)
    assert 0 < golden.compare({"logit": near}, "here") < 1e-5
    for wrong in (golden.logits + np.float32(1e-3), np.full(SAMPLES, np.nan, np.float32)):
        with pytest.raises(ExportError, match=r"here: sample \d+ gives the logit"):
            golden.compare({"logit": wrong}, "here")
    (tmp_path / "tables").mkdir()
    subject = read_subject(save_network("tables", tmp_path / "tables"), "ids")
    rows = {
        f"rows_{n}": table(torch.from_numpy(subject.golden.feeds[f"ids_{n}"])).numpy().copy()
        for n, table in enumerate(subject.model.tables)
    }
    assert subject.golden.compare(rows, "here") == 0
    rows["rows_1"][3, 0] = np.nextafter(rows["rows_1"][3, 0], np.float32(9))
    with pytest.raises(ExportError, match="its rows_1 differ"):
        subject.golden.compare(rows, "here")
    with pytest.raises(ExportError, match=r"sample \d+"):
        replace(golden, logits=golden.logits + 1).compare({"logit": golden.logits}, "here")


def test_bad_options_are_refused_before_anything_is_read(tmp_path):
    """An unknown place or kind of inputs, a runtime for another place, a target that cannot be."""
    path = save_network("dlrm, lower", tmp_path)
    for error, wrong in (
        (OptionError, {"to": "tflite"}),
        (OptionError, {"to": "onnx", "inputs": "words"}),
        (OptionError, {"to": "onnx", "web_runtime": tmp_path}),
        (OutputError, {"to": "onnx", "out": tmp_path / "no" / "a.onnx"}),
        (OutputError, {"to": "onnx", "out": path}),
        (OutputError, {"to": "pt2", "out": path}),
    ):
        with pytest.raises(error):
            export(path, **({"out": tmp_path / "a.onnx"} | wrong))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_what_is_no_export_is_named(tmp_path):
    """An artifact is none; `prove` says so."""
    path = save_network("dlrm, lower", tmp_path)
    assert find_place(path) is None
    with pytest.raises(ExportError, match="no export of this program"):
        prove(path)


def test_a_model_whose_logits_are_no_numbers_is_refused(tmp_path):
    """Such samples prove nothing, and JSON holds none."""
    subject = read_subject(save_network("dlrm, lower", tmp_path), "ids")
    subject.model.top[-1].bias.fill_(float("nan"))
    with pytest.raises(ExportError, match="finite"):
        make_golden(subject.model, subject.architecture, "ids")


@pytest.mark.parametrize(
    "change", [{"logits": None}, {"logits": []}, {"logits": [0.5] * 63}, {"feeds": {"ids": [2**70]}}, {"digests": 3}]
)
def test_samples_that_are_none_are_refused(change, tmp_path):
    """No logits, too few, an id that no integer holds: damage, never a proof that compares nothing."""
    plain = json.loads(json.dumps(read_subject(save_network("dlrm, lower", tmp_path), "ids").golden.to_json()))
    assert golden_from_json(plain).logits is not None
    with pytest.raises(UNREADABLE):
        golden_from_json(plain | change)


def test_other_outputs_than_expected_are_no_proof(tmp_path):
    """An output that is missing or has another length is named."""
    golden = read_subject(save_network("dlrm, lower", tmp_path), "ids").golden
    for outputs, said in (({}, "no output logit"), ({"logit": golden.logits[:9]}, "64 samples with 9 logits")):
        with pytest.raises(ExportError, match=said):
            golden.compare(outputs, "here")
