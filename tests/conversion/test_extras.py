"""What is measured on request: groups, single tables, the control; and what is refused."""

from __future__ import annotations

import copy

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from memrec_convert import convert, evaluate, load
from memrec_convert.checkpoint import read_source
from memrec_convert.conversion.measuring.ablation import with_one_table
from memrec_convert.errors import LogError, OptionError, ProfileLeakError
from memrec_convert.evaluation.groups import compare_groups
from memrec_convert.evaluation.metrics import auc
from memrec_convert.models import build_original

CHOICES = {"batch_size": 256, "threads": 1}


def rewrite(path, target, change):
    """A log with its columns (name -> numpy array) changed."""
    table = pq.read_table(path)
    columns = {name: table[name].to_numpy() for name in table.column_names}
    pq.write_table(pa.table(change(columns)), target)
    return target


def run(tiny, tmp_path, name="a", **choices):
    """A conversion without training, measured on the test log."""
    out = tmp_path / f"{name}.safetensors"
    given = {"data": tiny.train, "eval": tiny.test, "epochs": 0} | CHOICES | choices
    return convert(tiny.checkpoint, 8_000, out=out, **given)


def logits_of(model, path):
    """Logits and columns of a whole log."""
    table = pq.read_table(path)
    dense = np.log1p(np.stack([table[f"I{n + 1}"].to_numpy() for n in range(2)], axis=1).astype(np.float32))
    ids = np.stack([table[f"C{n + 1}"].to_numpy() for n in range(3)], axis=1).astype(np.int64)
    with torch.no_grad():
        return model(torch.from_numpy(dense), torch.from_numpy(ids)).numpy(), table


def test_groups_are_measured_by_convert_and_evaluate_alike(tiny, tmp_path):
    """Both give the figures of the library's function on the written file; a table's name means its column."""
    report = run(tiny, tmp_path, group="C2").to_json()
    original = build_original(read_source(tiny.checkpoint))
    before, table = logits_of(original, tiny.test)
    after, _ = logits_of(load(tmp_path / "a.safetensors"), tiny.test)
    expected = compare_groups(table["label"].to_numpy(), before, after, table["C2"].to_numpy())
    told = report["groups"]
    assert (told["column"], told["groups"], told["both_classes"]) == ("C2", expected.groups, expected.both_classes)
    assert told["gauc"]["before"] == pytest.approx(expected.gauc_before, abs=1e-6)
    assert told["gauc"]["delta"] == pytest.approx(expected.gauc_delta, abs=1e-6)
    assert told["auc_ci95"] == pytest.approx(expected.auc_ci95, abs=1e-5)
    assert told["resamples"] == 2000
    found = evaluate(tmp_path / "a.safetensors", tiny.test, against=tiny.checkpoint, group="emb_l.1")
    assert found.groups.column == "C2"
    assert found.groups.gauc.delta == pytest.approx(expected.gauc_delta, abs=1e-6)
    alone = evaluate(tmp_path / "a.safetensors", tiny.test, group="C2").groups
    assert alone["gauc"] == pytest.approx(expected.gauc_after, abs=1e-6)
    assert alone["covered"] == pytest.approx(expected.covered)


def test_the_seed_of_the_resamples_is_the_conversions(tiny, tmp_path):
    """Another column of any type groups too, and another seed gives another interval."""
    log = rewrite(
        tiny.test,
        tmp_path / "test.parquet",
        lambda columns: columns | {"session": [f"s{value % 50}" for value in columns["C1"]]},
    )
    intervals = [
        tuple(run(tiny, tmp_path, f"{seed}", eval=log, group="session", seed=seed).groups.auc_ci95) for seed in (0, 1)
    ]
    assert intervals[0] != intervals[1]


def test_few_groups_are_warned_of(tiny, tmp_path):
    """A bootstrap over two groups is given, with a warning."""
    log = rewrite(tiny.test, tmp_path / "test.parquet", lambda columns: columns | {"half": columns["C1"] % 2})
    report = run(tiny, tmp_path, eval=log, group="half")
    assert report.groups.groups == 2
    assert any("2 groups" in warning for warning in report.warnings)


def test_deciles_of_both_models_are_in_the_report(tiny, tmp_path):
    """Ten tenths of each, predictions rising; those of the artifact are what evaluate finds."""
    deciles = run(tiny, tmp_path).to_json()["deciles"]
    for side in ("before", "after"):
        assert [one["samples"] for one in deciles[side]] == [400] * 10
        predicted = [one["mean_prediction"] for one in deciles[side]]
        assert predicted == sorted(predicted)
    assert deciles["before"] != deciles["after"]
    found = evaluate(tmp_path / "a.safetensors", tiny.test).deciles
    pairs = zip(found, deciles["after"], strict=True)
    assert all(one.mean_prediction == pytest.approx(two["mean_prediction"], abs=1e-6) for one, two in pairs)


def test_ablation_puts_one_table_at_a_time_into_the_original(tiny, tmp_path):
    """Each entry is the AUC of the original with that table's rows as the artifact decodes them."""
    told = run(tiny, tmp_path, ablation=True).to_json()["ablation"]
    original, converted = build_original(read_source(tiny.checkpoint)), load(tmp_path / "a.safetensors")
    before, table = logits_of(original, tiny.test)
    labels = table["label"].to_numpy()
    replaced = [n for n, one in enumerate(converted.tables) if one.spec.form == "replaced"]
    assert replaced
    assert [one["table"] for one in told] == [f"emb_l.{number}" for number in replaced]
    for number, one in zip(replaced, told, strict=True):
        twin = copy.deepcopy(original)
        rows = torch.arange(twin.tables[number].num_embeddings)
        with torch.no_grad():
            twin.tables[number].weight.copy_(converted.tables[number].lookup(rows))
        expected = auc(labels, logits_of(twin, tiny.test)[0])
        assert one["auc"] == pytest.approx(expected, abs=1e-6)
        assert one["delta"] == pytest.approx(expected - auc(labels, before), abs=1e-6)
        assert one["ci95"][0] <= one["delta"] <= one["ci95"][1]
    found = evaluate(tmp_path / "a.safetensors", tiny.test, against=tiny.checkpoint, ablation=True).ablation
    assert [one.delta for one in found] == pytest.approx([one["delta"] for one in told], abs=1e-6)


def test_putting_a_table_in_copies_no_other_table(tiny):
    """The tables that stay are the original's own, and the original is as it was."""
    original = build_original(read_source(tiny.checkpoint))
    other = torch.nn.EmbeddingBag(300, 8, mode="sum")
    twin = with_one_table(original, other, 1)
    assert twin.tables[1] is other
    assert twin.tables[0] is original.tables[0]
    assert original.tables[1] is not other


def test_control_tells_training_from_compression(tiny, tmp_path):
    """Its differences are those of models on the same rows, and chain to the report's own."""
    untrained = run(tiny, tmp_path, "untrained", val=tiny.val, method="codes").to_json()["auc"]
    report = run(tiny, tmp_path, "trained", val=tiny.val, method="codes", epochs=1, control=True).to_json()
    control = report["control"]
    assert control["steps"] == 47
    assert control["gain"] >= 0
    assert control["training"]["before"] == report["auc"]["before"]
    assert control["compression"]["before"] == control["training"]["after"]
    assert control["compression"]["after"] == report["auc"]["after"]
    assert control["conversion"]["after"] == pytest.approx(untrained["after"], abs=1e-9)
    if control["best_step"] == 0:
        assert control["training"]["delta"] == 0


def test_control_can_learn_where_there_is_something_to_learn(tiny, tmp_path):
    """On a model of shrunken rows the control finds the training that helps, and the original file stays as it is."""
    saved = torch.load(tiny.bare, weights_only=True)
    for name in saved["state_dict"]:
        if name.startswith("emb_l"):
            saved["state_dict"][name] *= 0.3
    torch.save(saved, tmp_path / "weak.pt")
    report = convert(
        tmp_path / "weak.pt",
        20_000,
        data=tiny.train,
        val=tiny.val,
        eval=tiny.test,
        out=tmp_path / "a.safetensors",
        control=True,
        epochs=2,
        assume={"pairs": "lower", "dense_transform": "log1p"},
        **CHOICES,
    ).to_json()
    assert report["control"]["best_step"] > 0
    assert report["control"]["gain"] > 0
    assert report["control"]["training"]["delta"] > 0


@pytest.mark.parametrize(
    ("choices", "error", "said"),
    [
        ({"group": "C1", "eval": None}, LogError, "--group.*add --val or --eval"),
        ({"ablation": True, "eval": None}, LogError, "--ablation.*add --eval"),
        ({"control": True, "eval": None}, LogError, "--control.*add --eval"),
        ({"control": True, "epochs": 1}, LogError, "needs --val"),
        ({"control": True, "val": "val", "epochs": 0}, OptionError, "--epochs 0"),
        ({"control": True, "val": "val", "data": None, "epochs": 1}, LogError, "needs --data"),
        ({"group": "nobody"}, LogError, "no group column 'nobody'"),
    ],
)
def test_what_cannot_be_measured_is_refused_at_once(tiny, tmp_path, choices, error, said):
    """One sentence each, and nothing written."""
    if choices.get("val") == "val":
        choices = choices | {"val": tiny.val}
    with pytest.raises(error, match=said):
        run(tiny, tmp_path, **choices)
    assert list(tmp_path.iterdir()) == []


def test_control_without_labels_is_refused(tiny, tmp_path):
    """The original's own logits cannot teach it."""
    log = rewrite(
        tiny.train, tmp_path / "train.parquet", lambda columns: {n: c for n, c in columns.items() if n != "label"}
    )
    with pytest.raises(LogError, match="control run needs labels"):
        run(tiny, tmp_path, data=log, val=tiny.val, epochs=1, control=True)


def test_evaluate_refuses_ablation_without_the_original(tiny, tmp_path):
    """Single tables need something to be put into."""
    run(tiny, tmp_path)
    with pytest.raises(LogError, match="add --against"):
        evaluate(tmp_path / "a.safetensors", tiny.test, ablation=True)


@pytest.mark.parametrize("role", ["val", "eval"])
def test_a_hold_out_that_was_trained_on_is_refused(tiny, tmp_path, role):
    """A copy of the training log under another name is the same log."""
    twin = tmp_path / "other.parquet"
    twin.write_bytes(tiny.train.read_bytes())
    with pytest.raises(ProfileLeakError, match=r"other\.parquet"):
        run(tiny, tmp_path, **{role: twin})


def test_a_hold_out_that_measures_is_refused(tiny, tmp_path):
    """What chose the plan cannot measure it, whatever the file is called."""
    twin = tmp_path / "other.parquet"
    twin.write_bytes(tiny.test.read_bytes())
    with pytest.raises(ProfileLeakError, match="give --val and --eval different files"):
        run(tiny, tmp_path, val=twin)
