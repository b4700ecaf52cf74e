"""The quality gate, the search for the smallest file, and the plan's predictions."""

from __future__ import annotations

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memrec_convert import convert, plan
from memrec_convert.cli.commands import main
from memrec_convert.conversion.gating import GateResult, bisect_lowest
from memrec_convert.conversion.measuring.prediction import AucModel, soft_auc
from memrec_convert.errors import LogError, OptionError, QualityError
from memrec_convert.evaluation.metrics import auc


@given(st.integers(1, 200).flatmap(lambda high: st.tuples(st.just(high), st.integers(0, high))))
@settings(max_examples=30, deadline=None)
def test_bisection_finds_the_lowest_place_that_passes(case):
    """For any monotone test the lowest passing place is found, and its neighbour below was seen to fail."""
    high, lowest = case
    seen = {}

    def passes(place):
        seen[place] = place >= lowest
        return seen[place]

    assert bisect_lowest(passes, -1, high) == lowest
    assert lowest == 0 or lowest == high or seen[lowest - 1] is False


def test_soft_auc_of_certain_labels_is_the_auc():
    """With chances 0 and 1 the expected AUC is the ordinary one."""
    draw = np.random.default_rng(1)
    labels, scores = draw.integers(0, 2, 300), draw.normal(size=300)
    assert soft_auc(labels.astype(float), scores) == pytest.approx(auc(labels, scores), abs=1e-12)


def test_predicted_drop_rises_with_distortion_and_is_zero_without():
    """More change of the logits is never predicted to cost less."""
    model = AucModel(np.random.default_rng(2).normal(0, 1.2, 20_000), samples=1000)
    drops = [model.drop(distortion) for distortion in (0.0, 10.0, 100.0, 1000.0)]
    assert drops[0] == 0.0
    assert drops == sorted(drops)
    assert drops[-1] > drops[1] > 0


def test_calibration_meets_the_measured_drop_within_its_limits():
    """A calibrated model predicts what was measured, and tiny measurements change nothing."""
    model = AucModel(np.random.default_rng(3).normal(0, 1.2, 20_000), samples=1000)
    measured = model.drop(100.0) / 2
    assert model.calibrate(100.0, measured).drop(100.0) == pytest.approx(measured)
    assert model.calibrate(100.0, 1e-6) is model


@pytest.mark.parametrize("factor", [0.3, 0.8, 1.0, 2.5])
def test_a_calibrated_curve_still_rises(factor):
    """A calibration scales smaller drops; a smaller drop than predicted is a fixed gain from there on."""
    plain = AucModel(np.random.default_rng(3).normal(0, 1.2, 20_000), samples=1000)
    at = plain.drop(100.0)
    model = plain.calibrate(100.0, factor * at)
    drops = [model.drop(100.0 * 2.0**step) for step in range(-4, 8)]
    assert drops == sorted(drops)
    assert model.drop(20.0) == pytest.approx(factor * plain.drop(20.0))
    if factor < 1:
        assert plain.drop(900.0) - model.drop(900.0) == pytest.approx((1 - factor) * at)
    else:
        assert model.drop(900.0) == pytest.approx(factor * plain.drop(900.0))
    assert model.calibrate(100.0, at).drop(900.0) == pytest.approx(plain.drop(900.0))


def test_gate_is_supported_only_when_the_whole_interval_is_within():
    """The estimate alone does not support a bound."""
    assert GateResult(0.001, 0.0005, (0.0001, 0.0009), "val", 10).supported
    assert not GateResult(0.001, 0.0005, (0.0001, 0.0011), "val", 10).supported


def test_a_result_worse_than_allowed_is_not_written(tiny, tmp_path):
    """The gate raises QualityError and leaves the folder empty."""
    with pytest.raises(QualityError, match="nothing was written"):
        convert(
            tiny.checkpoint,
            5500,
            data=tiny.train,
            val=tiny.val,
            out=tmp_path / "a.safetensors",
            epochs=0,
            fail_if_worse_than=0.005,
        )
    assert list(tmp_path.iterdir()) == []


def test_a_result_within_the_bound_is_written_and_says_so(tiny, tmp_path):
    """The report carries bound, drop, interval and where it was judged; without val the evaluation data judges."""
    report = convert(
        tiny.checkpoint,
        20_000,
        data=tiny.train,
        eval=tiny.test,
        out=tmp_path / "a.safetensors",
        epochs=0,
        fail_if_worse_than=0.4,
    )
    gate = report.to_json()["plan"]["gate"]
    assert gate["judged_on"] == "eval"
    assert gate["drop"] == pytest.approx(-report.to_json()["auc"]["delta"])
    assert gate["ci95"][0] <= gate["drop"] <= gate["ci95"][1]


def test_the_smallest_file_is_within_the_bound_and_its_neighbour_is_not(tiny, tmp_path):
    """Of the budgets that were tried, those just below the chosen one fail, at most 3 % smaller."""
    report = convert(
        tiny.checkpoint, data=tiny.train, val=tiny.val, out=tmp_path / "a.safetensors", epochs=0, max_auc_drop=0.03
    )
    gate, chosen = report.to_json()["plan"]["gate"], report.budget_bytes
    tried = {one["budget_bytes"]: one["drop"] for one in gate["tried"]}
    below = [budget for budget in tried if budget < chosen]
    assert tried[chosen] <= 0.03
    assert not below or (tried[max(below)] > 0.03 and chosen / max(below) <= 1.03)
    assert (tmp_path / "a.safetensors").stat().st_size <= chosen


def test_a_cap_below_the_bound_is_a_quality_error(tiny, tmp_path):
    """With a budget as cap and a bound that it cannot meet, nothing is written."""
    with pytest.raises(QualityError, match="even at"):
        convert(
            tiny.checkpoint,
            5500,
            data=tiny.train,
            val=tiny.val,
            out=tmp_path / "a.safetensors",
            epochs=0,
            max_auc_drop=0.005,
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bound", [-0.1, 0.0, 0.9, float("nan")])
def test_absurd_bounds_are_refused(tiny, tmp_path, bound):
    """A bound must be a drop that an AUC can have."""
    with pytest.raises(OptionError, match="bound"):
        convert(tiny.checkpoint, 9000, out=tmp_path / "a.safetensors", fail_if_worse_than=bound)


def test_a_bound_needs_something_to_judge_on(tiny, tmp_path):
    """Without hold-out or evaluation data there is nothing to hold the result to."""
    with pytest.raises(LogError, match="--val"):
        convert(tiny.checkpoint, 9000, data=tiny.train, out=tmp_path / "a.safetensors", max_auc_drop=0.01)


@pytest.mark.parametrize("column", ["label", None])
def test_a_bound_needs_labels_of_both_classes(tiny, tmp_path, column):
    """A hold-out of one class, or without labels, has no AUC that could drop."""
    table = pq.read_table(tiny.val)
    clicks = table.filter(pc.equal(table["label"], 1))
    log = tmp_path / "val.parquet"
    pq.write_table(clicks if column else table.drop_columns(["label"]), log)
    with pytest.raises(LogError, match="both classes" if column else "needs labels"):
        convert(
            tiny.checkpoint, 9000, data=tiny.train, val=log, out=tmp_path / "a.safetensors", epochs=0, max_auc_drop=0.01
        )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--max-auc-drop", "0.001"], "--val"),
        (["--max-auc-drop", "0.001", "--eval", "{test}"], "needs a hold-out (--val)"),
        (["--fail-if-worse-than", "0.001"], "--eval"),
        (["--max-auc-drop", "-0.001", "--val", "{val}"], "bound"),
        (["--fail-if-worse-than", "0.7", "--val", "{val}"], "bound"),
        (["--fail-if-worse-than", "nan", "--val", "{val}"], "bound"),
        (["--fail-if-worse-than", "0.000001", "--val", "{val}"], "rows are needed"),
        (["--val", "{train}"], "expected held-out data"),
        (["--val", "{test}", "--eval", "{test}"], "give --val and --eval different files"),
        (["--eval", "{test}", "--group", "nobody"], "no group column"),
        (["--group", "C1"], "add --val or --eval"),
        (["--eval", "{test}", "--control"], "needs --val"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(tiny, tmp_path, monkeypatch, capsys, arguments, said):
    """On the command line: one line on stderr that says what to do, and nothing is written."""
    logs = {"train": str(tiny.train), "val": str(tiny.val), "test": str(tiny.test)}
    line = ["convert", str(tiny.checkpoint), "--budget", "9000", "--data", "{train}", "--epochs", "1", *arguments]
    out = ["--out", str(tmp_path / "a.safetensors"), "--quiet", "--threads", "1"]
    monkeypatch.setattr("sys.argv", ["memrec-convert", *(one.format(**logs) for one in line), *out])
    with pytest.raises(SystemExit) as end:
        main()
    told = capsys.readouterr()
    assert (end.value.code, told.out) == (2, "")
    assert said in told.err
    assert told.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_bound_too_fine_for_the_rows_names_how_many_are_needed(tiny, tmp_path):
    """A hold-out that cannot tell such a drop from none is refused with the number of rows that could."""
    with pytest.raises(LogError, match=r"about [\d,]+ rows are needed"):
        convert(
            tiny.checkpoint,
            9000,
            data=tiny.train,
            val=tiny.val,
            out=tmp_path / "a.safetensors",
            epochs=0,
            fail_if_worse_than=1e-6,
        )


def test_the_plan_explains_itself(tiny):
    """Every table has a sensitivity and a share, the shares sum to one, and the curve loses more at fewer bytes."""
    found = plan(tiny.checkpoint, 15_000, data=tiny.train, val=tiny.val, curve=True)
    assert [entry["name"] for entry in found.explained] == ["emb_l.0", "emb_l.1", "emb_l.2"]
    assert sum(entry["distortion_share"] for entry in found.explained) == pytest.approx(1.0)
    assert all(entry["sensitivity"] > 0 for entry in found.explained)
    assert found.predicted_auc_drop >= 0
    assert found.measured_auc_drop is not None
    sizes = [point["predicted_bytes"] for point in found.curve]
    losses = [point["distortion"] for point in found.curve]
    assert sizes == sorted(sizes, reverse=True)
    assert losses == sorted(losses)


def test_without_data_nothing_is_predicted(tiny):
    """No log, no logits: the predictions say so with None."""
    found = plan(tiny.bare, 15_000)
    assert found.predicted_auc_drop is None
    assert all(entry["next_kilobyte_auc"] is None for entry in found.explained)
