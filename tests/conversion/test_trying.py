"""Facts that a file leaves open: tried on labelled data, refused if another reading is better, settled by stating."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner

from memrec_convert import convert, evaluate, plan
from memrec_convert.checkpoint import Assumption, Facts, parse_assumed, read_facts, read_source
from memrec_convert.cli.commands import cli
from memrec_convert.conversion.inputs.from_checkpoint import LogChoices, read_checked
from memrec_convert.conversion.inputs.readings import FAR_BELOW, TRIED_SAMPLES, try_readings, warn_of_auc
from memrec_convert.errors import CheckpointError, ModelError
from memrec_convert.models import build_original

BUDGET = 12_000
FAST = {"epochs": 0, "method": "int8"}
UPPER = {"assume": {"pairs": "upper"}}


def state_of(tiny):
    """The tiny model's tensors."""
    return torch.load(tiny.bare, weights_only=True)["state_dict"]


@pytest.fixture(scope="module")
def upper(tiny, tmp_path_factory):
    """A model whose pairs are of the upper triangle, and logs of the tiny one's ids with labels drawn from its logits.

    (path, val, test)
    """
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("upper")
    state = {name: torch.randn_like(value) for name, value in state_of(tiny).items()}
    state |= {name: value / value.shape[1] ** 0.5 for name, value in state.items() if name.endswith("_l.0.weight")}
    path = folder / "upper.pt"
    torch.save({"state_dict": state, "test_auc": 0.99}, path)
    model = build_original(read_checked(path, facts=Facts(pairs="upper")))
    logs = []
    for log in (tiny.val, tiny.test):
        table = pq.read_table(log)
        dense = torch.log1p(torch.from_numpy(np.stack([table[f"I{n}"] for n in (1, 2)], axis=1)))
        ids = torch.from_numpy(np.stack([table[f"C{n}"] for n in (1, 2, 3)], axis=1)).long()
        with torch.no_grad():
            logits = model(dense, ids)
        labels = torch.bernoulli(torch.sigmoid((logits - logits.median()) * 2 / logits.std()))
        logs.append(folder / log.name)
        place = table.column_names.index("label")
        pq.write_table(table.set_column(place, "label", pa.array(labels.to(torch.int8).numpy())), logs[-1])
    return SimpleNamespace(path=path, val=logs[0], test=logs[1])


def test_a_conversion_stops_where_another_reading_is_better(tiny, upper, tmp_path):
    """It names what was assumed, what is better and how to accept it, and writes nothing."""
    out = tmp_path / "a.safetensors"
    for logs in ({"val": upper.val}, {"eval": upper.test}, {"val": upper.val, "eval": upper.test}):
        with pytest.raises(CheckpointError, match=r"pairs=lower.*--assume pairs=upper, .*--assume pairs=lower") as e:
            convert(upper.path, BUDGET, out=out, **logs, **FAST)
        log = upper.val if "val" in logs else upper.test
        assert f"on {min(TRIED_SAMPLES, 4000):,} samples of {log.name}" in str(e.value)
    with pytest.raises(CheckpointError, match="--assume pairs=upper"):
        plan(upper.path, BUDGET, val=upper.val)
    assert not list(tmp_path.iterdir())


def test_a_stated_reading_is_taken_and_no_longer_tried(tiny, upper, tmp_path):
    """Accepting gives the better model, confirming the assumed one; neither is asked about again."""
    right = convert(
        upper.path, BUDGET, out=tmp_path / "a.safetensors", eval=upper.test, assume={"pairs": "upper"}, **FAST
    )
    wrong = convert(
        upper.path, BUDGET, out=tmp_path / "b.safetensors", eval=upper.test, assume={"pairs": "lower"}, **FAST
    )
    assert wrong.auc.before < right.auc.before - 0.02
    assert right.auc.before > 0.75
    assert any("other values of dense_transform tried on" in line for line in right.assumed)


def test_what_was_tried_is_told(tiny, tmp_path):
    """The report lists it with the assumptions, and with it the data that it was tried on."""
    report = convert(tiny.bare, BUDGET, out=tmp_path / "c.safetensors", eval=tiny.test, **FAST)
    assert any("pairs, dense_transform tried on 4,000 samples of test.parquet" in line for line in report.assumed)


def test_without_labelled_data_nothing_is_tried(tiny, upper, tmp_path):
    """What cannot be known is assumed, and the report says nothing of a trial."""
    report = convert(upper.path, BUDGET, out=tmp_path / "a.safetensors", data=tiny.train, **FAST)
    assert not any("tried" in line for line in report.assumed)


def test_evaluating_a_checkpoint_warns_of_a_better_reading(tiny, upper):
    """A measurement is given all the same, and a stated reading is not doubted."""
    found = evaluate(upper.path, upper.test)
    assert [line for line in found.warnings if "--assume pairs=upper" in line]
    right = evaluate(upper.path, upper.test, **UPPER)
    assert not [line for line in right.warnings if "--assume" in line]
    assert right.auc > found.auc + 0.02
    assert any("tried" in line for line in right.assumed)


def test_an_auc_far_below_the_stored_one_is_a_warning(tiny, upper, tmp_path):
    """The stated threshold decides; figures that can be no AUC of a trained model are left alone."""
    report = convert(upper.path, BUDGET, out=tmp_path / "a.safetensors", eval=upper.test, **UPPER, **FAST)
    (line,) = [line for line in report.warnings if "test_auc" in line]
    assert "0.9900" in line
    assert f"{report.auc.before:.4f}" in line
    found = plan(upper.path, BUDGET, val=upper.val, **UPPER)
    assert [line for line in found.warnings if "test_auc" in line]
    assert [line for line in evaluate(upper.path, upper.test, **UPPER).warnings if "test_auc" in line]
    source = read_source(upper.path)
    assert warn_of_auc(source, 0.99 - FAR_BELOW, "log") == ()
    assert len(warn_of_auc(source, 0.99 - FAR_BELOW - 1e-6, "log")) == 1
    assert warn_of_auc(source, None, "log") == warn_of_auc(read_source(tiny.bare), 0.1, "log") == ()


def test_the_dense_transform_can_be_stated_when_a_checkpoint_is_evaluated(tiny, tmp_path):
    """The figures are those of the stated transform; an artifact has its own, which cannot be stated away."""
    identity = {"assume": {"dense_transform": "identity"}}
    plain, other = evaluate(tiny.bare, tiny.test), evaluate(tiny.bare, tiny.test, **identity)
    assert other.auc != plain.auc
    done = CliRunner().invoke(
        cli, ["evaluate", str(tiny.bare), "--eval", str(tiny.test), "--assume", "dense_transform=identity", "--json"]
    )
    assert json.loads(done.stdout)["auc"] == other.auc
    convert(tiny.bare, BUDGET, out=tmp_path / "a.safetensors", **FAST)
    assert evaluate(tmp_path / "a.safetensors", tiny.test, assume={"dense_transform": "log1p"}).auc is not None
    with pytest.raises(ModelError, match="log1p, and identity was stated"):
        evaluate(tmp_path / "a.safetensors", tiny.test, **identity)


def test_multiplied_parts_that_were_added_are_found(tiny, tmp_path):
    """The operation of quotient-remainder tables is tried as a fact of its own, by reading the file anew."""
    state = state_of(tiny)
    rows = state.pop("emb_l.0.weight")
    remainder, parts = torch.zeros(20, 8), rows[::20].clone()
    state |= {"emb_l.0.weight_q": parts, "emb_l.0.weight_r": remainder}
    torch.save({"state_dict": state}, tmp_path / "qr.pt")
    source = read_checked(tmp_path / "qr.pt")
    assert ("qr_operation", "mult") in {(one.fact, one.taken) for one in source.open_facts}
    tried = try_readings(source, LogChoices({}), tiny.test, batch_size=512, workers=1)
    assert tried.better is None or tried.better.assumption.fact == "qr_operation"
    stated = read_checked(tmp_path / "qr.pt", facts=Facts(qr_operation="add"))
    assert "qr_operation" not in {one.fact for one in stated.open_facts}


def test_bags_may_be_averaged(tiny, tmp_path):
    """Stated, the tables average in the original and in the artifact; sums of single ids stay what they were."""
    source = read_source(tiny.bare, facts=Facts(pooling="mean"))
    model = build_original(source)
    ids, starts = torch.tensor([1, 2, 3]), torch.tensor([0, 2])
    rows = state_of(tiny)["emb_l.0.weight"]
    assert torch.allclose(model.tables[0](ids, starts), torch.stack([rows[1:3].mean(0), rows[3]]))
    on_disk = build_original(source, held_bytes=0)
    assert torch.equal(on_disk.tables[0](ids, starts), model.tables[0](ids, starts))
    report = convert(
        tiny.bare, BUDGET, out=tmp_path / "a.safetensors", eval=tiny.test, assume={"pooling": "mean"}, **FAST
    )
    assert report.auc.before == pytest.approx(evaluate(tiny.bare, tiny.test).auc, abs=1e-9)
    assert "averaged" in " ".join(report.assumed)
    both = evaluate(tmp_path / "a.safetensors", tiny.test, against=tiny.bare)
    assert both.auc.before == pytest.approx(report.auc.before, abs=1e-9)


def test_a_reading_no_better_than_chance_is_no_better_reading(upper, tmp_path):
    """Where labels are drawn against the model, the reversed reading may win and yet means nothing."""
    table = pq.read_table(upper.test)
    place = table.column_names.index("label")
    turned = pa.array(1 - np.asarray(table["label"]))
    pq.write_table(table.set_column(place, "label", turned), tmp_path / "turned.parquet")
    source = read_checked(upper.path, facts=Facts(pairs="upper"))
    source = replace(source, open_facts=(Assumption("pairs", "upper", ("lower",)),))
    tried = try_readings(source, LogChoices({}), tmp_path / "turned.parquet", batch_size=512, workers=1)
    assert tried.auc < 0.3
    lower = read_checked(upper.path, facts=Facts(pairs="lower"))
    other = try_readings(lower, LogChoices({}), tmp_path / "turned.parquet", batch_size=512, workers=1)
    assert other.auc > tried.auc
    assert (tried.better is None) == (other.auc <= 0.5)


def test_an_interaction_that_fits_twice_is_an_open_fact(tmp_path):
    """With 15 tables as wide as 8 the top layer's width fits dot and cat; stated, it is no longer open."""
    state = {f"emb_l.{n}.weight": torch.randn(4, 8) for n in range(15)}
    state |= {"bot_l.0.weight": torch.randn(8, 2), "bot_l.0.bias": torch.zeros(8)}
    state |= {"top_l.0.weight": torch.randn(1, 128), "top_l.0.bias": torch.zeros(1)}
    torch.save({"state_dict": state}, tmp_path / "m.pt")
    source = read_source(tmp_path / "m.pt")
    assert ("interaction", "dot", ("cat",)) in {(one.fact, one.taken, one.others) for one in source.open_facts}
    cat = read_source(tmp_path / "m.pt", facts=Facts(interaction="cat"))
    assert cat.architecture["interaction"] == "cat"
    assert read_facts(cat.architecture).interaction == "cat"
    assert not {"interaction", "pairs"} & {one.fact for one in cat.open_facts}
    with pytest.raises(CheckpointError, match=r"'dot-with-itself' was stated.*dot or cat"):
        read_source(tmp_path / "m.pt", facts=Facts(interaction="dot-with-itself"))


@pytest.mark.parametrize(
    ("assume", "said"),
    [
        ({"nonsense": "1"}, "nothing that can be assumed"),
        ({"pairs": "left"}, "'left' is not one of lower, upper"),
        ({"pooling": "max"}, "not one of sum, mean"),
        ({"field-sizes": "5,x"}, "whole numbers"),
    ],
)
def test_what_cannot_be_assumed_is_refused(tiny, assume, said):
    """Names and values are known ones."""
    with pytest.raises(CheckpointError, match=said):
        plan(tiny.bare, BUDGET, assume=assume)


def test_what_is_assumed_goes_before_the_recipe(tiny, tmp_path):
    """And lists may be given as texts, under names with hyphens, or as lists."""
    recipe = tmp_path / "r.yaml"
    recipe.write_text("pairs: upper\n")
    found = plan(tiny.bare, BUDGET, recipe=recipe, assume={"pairs": "lower"}, data=tiny.train, val=tiny.val)
    assert found.predicted_bytes <= BUDGET
    assert not any("tried" in line and "pairs" in line for line in found.assumed)
    for given, text in ((("state=ema",), "assume is a tuple"), ({"state": 5}, "assume > state is 5")):
        with pytest.raises(CheckpointError, match=text):
            parse_assumed(given)
    texts = parse_assumed({"table-order": "a, b", "field_sizes": "3,4"})
    assert texts == parse_assumed({"table_order": ["a", "b"], "field_sizes": [3, 4]})
    assert texts == Facts(table_order=("a", "b"), field_sizes=(3, 4))


def test_the_command_line_takes_as_many_as_are_needed(tiny, upper, tmp_path):
    """--assume is repeatable; a text without '=' and one name with two values are refused."""
    arguments = ["convert", str(upper.path), "--budget", str(BUDGET), "--eval", str(upper.test), "--epochs", "0", "-q"]
    arguments += ["--method", "int8", "--out", str(tmp_path / "a.safetensors")]
    done = CliRunner().invoke(cli, arguments)
    assert isinstance(done.exception, CheckpointError)
    done = CliRunner().invoke(cli, [*arguments, "--assume", "pairs=upper", "--assume", "dense-transform=log1p"])
    assert done.exit_code == 0, done.output
    assert "no NAME=VALUE" in CliRunner().invoke(cli, [*arguments, "--assume", "pairs"]).output
    assert "both" in CliRunner().invoke(cli, [*arguments, "--assume", "pairs=upper", "--assume", "pairs=lower"]).output
