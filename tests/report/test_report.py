"""The report's JSON: complete, plain, and the way back."""

import json
from dataclasses import replace

import numpy as np
import pytest

from memrec_convert.errors import ReportError
from memrec_convert.report import Comparison, Report

KEYS = {
    "artifact",
    "budget_bytes",
    "weights",
    "tables",
    "auc",
    "log_loss",
    "normalized_entropy",
    "calibration",
    "slices",
    "sizes",
    "serving_bytes",
    "plan",
    "alternatives",
    "fine_tune",
    "architecture",
    "assumed",
    "provenance",
    "seconds",
    "seconds_reading",
    "warnings",
    "evaluation",
    "deciles",
    "groups",
    "ablation",
    "control",
}


def test_the_json_has_every_promised_key(full):
    """Names and nesting are those that other programs read."""
    values = full.to_json()
    assert set(values) == KEYS
    assert values["artifact"] == {"path": "out/user.safetensors", "bytes": 46_000_000}
    assert set(values["tables"][0]) == {
        "name",
        "method",
        "rows",
        "dim",
        "bytes_before",
        "bytes_after",
        "form",
        "lookup_share",
    }
    assert set(values["auc"]) == {"before", "after", "delta", "ci95", "verdict"}
    assert set(values["log_loss"]) == {"before", "after", "delta"}
    assert set(values["groups"]) == {
        "column",
        "groups",
        "both_classes",
        "covered",
        "gauc",
        "auc_ci95",
        "verdict",
        "resamples",
    }
    assert set(values["groups"]["gauc"]) == set(values["auc"])
    assert set(values["deciles"]) == {"before", "after"}
    assert values["deciles"]["after"][1] == {"samples": 50_010, "mean_prediction": 0.61, "mean_label": 0.5876}
    assert values["ablation"] == [{"table": "user0", "auc": 0.8022, "delta": -0.0005, "ci95": [-0.0007, -0.0003]}]
    assert set(values["control"]) == {
        "metric",
        "steps",
        "best_step",
        "gain",
        "rate",
        "training",
        "conversion",
        "compression",
    }
    assert all(set(values["control"][key]) == set(values["auc"]) for key in ("training", "conversion", "compression"))
    assert set(values["sizes"]["source"]) == {"tables", "dense", "file"}
    assert set(values["sizes"]["artifact"]) == {"tables", "dense", "header", "total"}
    assert {"version", "layout", "container", "source_digest", "profile_digest", "seed", "options"} == set(
        values["provenance"]
    )


def test_derived_figures_follow_from_the_others(full):
    """delta is after - before; the ratio leaves out what a source file holds besides tables and dense part."""
    values = full.to_json()
    assert values["auc"]["delta"] == values["auc"]["after"] - values["auc"]["before"]
    assert values["sizes"]["artifact"]["total"] == 46_000_000
    assert values["sizes"]["ratio"] == pytest.approx(2160 / 46)
    assert values["sizes"]["table_ratio"] == pytest.approx(2150 / 36)


def test_what_was_not_measured_is_null(bare):
    """Without data the figures are null, not zero and not missing."""
    values = bare.to_json()
    for key in (
        "auc",
        "log_loss",
        "normalized_entropy",
        "calibration",
        "slices",
        "serving_bytes",
        "fine_tune",
        "deciles",
        "groups",
        "ablation",
        "control",
    ):
        assert values[key] is None
    assert values["tables"][0]["lookup_share"] is None
    assert values["provenance"]["source_digest"] is None


@pytest.mark.parametrize("which", ["full", "bare"])
def test_a_report_comes_back_from_its_json(which, request):
    """Through text and back it is the same report."""
    report = request.getfixturevalue(which)
    text = json.dumps(report.to_json(), allow_nan=False)
    back = Report.from_json(json.loads(text))
    assert back == replace(report, plan=back.plan)
    assert back.to_json() == report.to_json()


def test_numpy_and_nan_become_plain_json(bare):
    """What the parts hand over as numpy values, tuples, paths or NaN is JSON all the same."""
    report = replace(
        bare,
        budget_bytes=np.int64(1000),
        plan={"theta": np.float32(0.5), "counts": np.arange(2), "pair": (1, 2), 3: float("nan"), "flag": np.True_},
    )
    values = report.to_json()
    assert values["plan"] == {"theta": 0.5, "counts": [0, 1], "pair": [1, 2], "3": None, "flag": True}
    assert type(values["budget_bytes"]) is int
    json.dumps(values, allow_nan=False)


def test_keys_of_later_versions_are_passed_over(bare):
    """A report with more in it than this version knows still reads."""
    assert Report.from_json({**bare.to_json(), "novelty": 1}) == bare


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"budget_bytes": None}, "budget_bytes: found a NoneType"),
        ({"tables": [{"name": "t"}]}, r"tables > 0 > method: found nothing"),
        ({"weights": 3}, "weights: found a int"),
        ({"auc": {"before": 0.5}}, "auc > after: found nothing"),
    ],
)
def test_a_damaged_report_names_the_place(bare, change, said):
    """A missing key or a value of another kind is one sentence."""
    with pytest.raises(ReportError, match=said):
        Report.from_json({**bare.to_json(), **change})


def test_an_empty_report_names_the_first_missing_key():
    """Something that is no report at all is refused too."""
    with pytest.raises(ReportError, match="artifact: found nothing"):
        Report.from_json({})


def test_a_comparison_has_its_difference():
    """The change is always artifact minus original."""
    assert Comparison(0.75, 0.5).delta == -0.25
