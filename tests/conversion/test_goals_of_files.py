"""`convert --model` of networks that predict no clicks: objective and metric by name or from the user's own code."""

from __future__ import annotations

import json
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from memrec_convert import convert
from memrec_convert.cli import main
from memrec_convert.errors import LogError, MemrecError, ModelError, OptionError, QualityError
from memrec_convert.safe_files import as_path

CODE = """
import numpy as np
import torch
from torch import nn


class Rating(nn.Module):
    def __init__(self):
        super().__init__()
        self.user, self.item = nn.Embedding(900, 8), nn.Embedding(200, 8)

    def forward(self, dense, ids):
        return 3 + (self.user(ids[:, 0]) * self.item(ids[:, 1])).sum(1)


class Next(Rating):
    def forward(self, dense, ids):
        return self.user(ids[:, 0]) @ self.item(torch.arange(200)).T


def loss(model, batch):
    return (model(batch.dense, batch.ids) - batch.labels).abs()


def broken(model, batch):
    return batch.no_such_thing


def worst(labels, outputs):
    return float(np.abs(labels - outputs).mean())
"""


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A working directory with the user's code, two checkpoints and their logs."""
    (tmp_path / "own_goals.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_goals", raising=False)
    generator = np.random.default_rng(0)
    users, items = (0.6 * generator.normal(size=(rows, 8)).astype(np.float32) for rows in (900, 200))
    state = {"user.weight": torch.from_numpy(users.copy()), "item.weight": torch.from_numpy(items.copy())}
    torch.save(state, tmp_path / "rows.pt")
    for name, rows in (("train", 6000), ("val", 3000), ("test", 3001)):
        user, item = ((count * generator.random(rows) ** 3).astype(np.int64) for count in (900, 200))
        rating = 3 + (users[user] * items[item]).sum(1) + 0.3 * generator.normal(size=rows)
        scores = users[user] @ items.T + generator.gumbel(size=(rows, 200))
        columns = {"user": user, "item": item, "label": rating.astype(np.float32), "taken": scores.argmax(1)}
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
    yield tmp_path
    sys.modules.pop("own_goals", None)


LOGS = {"data": "train.parquet", "val": "val.parquet", "eval": "test.parquet"}


def run(budget=9_000, model="own_goals:Rating", **choices):
    """convert with the directory's logs."""
    given = {"objective": "regression"} | LOGS | choices
    return convert("rows.pt", budget, model=model, out="small.safetensors", force=True, **given)


def test_ratings_are_judged_by_their_rmse(work):
    """Labels are any numbers, the report has the RMSE of both models on the test log, and so have card and page."""
    report = run(report_html="page.html")
    assert (report.metric.name, report.metric.units) == ("rmse", 3001)
    assert report.metric.before == pytest.approx(0.3, abs=0.02)
    assert report.evaluation == {"log": "test.parquet", "samples": 3001}
    assert report.fine_tune["metric"] == "-rmse"
    assert report.artifact.bytes == as_path("small.safetensors", ModelError).stat().st_size
    for name in ("small.card.md", "page.html"):
        assert f"RMSE {report.metric.before:.4f}" in (work / name).read_text(encoding="utf-8")


def test_rankings_of_a_catalogue_are_judged_by_recall(work):
    """A network that scores all items has the number of the taken one as its label, from a column of any name."""
    report = run(model="own_goals:Next", objective="ranking", metric="recall@20", columns={"label": "taken"})
    assert (report.metric.name, report.metric.resampled) == ("recall@20", "requests")
    assert report.metric.before > 0.15
    assert report.metric.verdict != "worse"


def test_functions_are_named_by_their_module(work):
    """A loss and a metric come from the user's code as the class does; groups widen what is resampled."""
    choices = {"metric": "own_goals:worst", "higher_is_better": False, "group": "user"}
    report = run(objective="own_goals:loss", **choices)
    assert (report.metric.name, report.metric.resampled) == ("worst", "groups")
    assert report.provenance.options["objective"] == "function"


def test_click_networks_of_ones_own_keep_their_auc(work):
    """Saying "binary" changes no byte and no figure of a conversion."""
    for name in ("train", "val", "test"):
        table = pq.read_table(f"{name}.parquet")
        clicks = pa.array((table["label"].to_numpy() > 3).astype(np.int8))
        pq.write_table(table.set_column(2, "label", clicks), f"{name}.parquet")
    plain = {"columns": {"label": "label"}}
    reports, files = [], []
    for objective, metric in ((None, None), ("binary", "auc")):
        reports.append(run(objective=objective, metric=metric, **plain).to_json())
        files.append((work / "small.safetensors").read_bytes())
    assert files[0] == files[1]
    assert "metric" not in reports[0]
    assert {k: v for k, v in reports[0].items() if k != "seconds"} == {
        k: v for k, v in reports[1].items() if k != "seconds"
    }
    ranked = run(objective="binary", metric="gauc", group="user")
    assert ranked.metric.name == "gauc"


def test_gates_hold_the_metric(work, monkeypatch):
    """--max-drop searches within a bound on the RMSE's rise, --fail-if-worse-than exits with 3 and leaves no file."""
    report = run(None, max_auc_drop=0.05, epochs=0)
    assert 0 < report.plan["gate"]["drop"] <= 0.05
    (work / "small.safetensors").unlink()
    with pytest.raises(QualityError, match="the RMSE rises by"):
        run(6_000, fail_if_worse_than=0.01, epochs=0)
    words = ["rows.pt", "--model", "own_goals:Rating", "--objective", "regression", "--val", "val.parquet"]
    more = ["--data", "train.parquet", "--epochs", "0", "--out", "small.safetensors", "--quiet", "--force"]
    for bound, code in ((["--budget", "6000", "--fail-if-worse-than", "0.01"], 3), (["--max-drop", "0.05"], 0)):
        monkeypatch.setattr(sys, "argv", ["memrec-convert", *words, *more, *bound])
        with pytest.raises(SystemExit) as done:
            main()
        assert done.value.code == code
        assert (work / "small.safetensors").exists() == (code == 0)


@pytest.mark.parametrize(
    ("choices", "error", "says"),
    [
        ({"model": None}, OptionError, "add --model"),
        ({"metric": "own_goals:worst"}, OptionError, "--higher-is-better or --lower-is-better"),
        ({"metric": "own_goals:missing", "higher_is_better": True}, ModelError, "--metric own_goals:missing"),
        ({"objective": "own_goals:broken", "metric": "rmse"}, ModelError, "--objective failed on a batch of the log"),
        ({"objective": "ranking"}, ModelError, "one score per sample"),
        (
            {"objective": "ranking", "model": "own_goals:Next", "columns": {"label": "user"}},
            LogError,
            "whole numbers below 200",
        ),
        ({"objective": "binary", "metric": "ndcg@5"}, LogError, "found the label"),
        ({"control": True}, OptionError, "--control measures the AUC of clicks"),
        ({"max_auc_drop": -1.0}, OptionError, "the bound on the RMSE rise"),
    ],
)
def test_wrong_choices_are_refused(work, choices, error, says):
    """One sentence says what was wrong, and nothing is written."""
    with pytest.raises(error, match=says):
        run(**choices)
    assert issubclass(error, MemrecError)
    assert not list(work.glob("small*"))


def test_a_metric_cannot_be_read_both_ways(work, monkeypatch, capsys):
    """--higher-is-better and --lower-is-better together are refused, in either order, before anything is read."""
    ways = ["--higher-is-better", "--lower-is-better"]
    for order in (ways, ways[::-1]):
        words = ["memrec-convert", "rows.pt", "--budget", "9000", "--metric", "own_goals:worst", *order]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as done:
            main()
        assert done.value.code == 2
        assert "not both" in capsys.readouterr().err


@pytest.mark.parametrize("way", ["--higher-is-better", "--lower-is-better"])
def test_the_command_line_says_how_to_read_a_metric(work, monkeypatch, capsys, way):
    """Either option alone reaches the report."""
    words = ["memrec-convert", "rows.pt", "--model", "own_goals:Rating", "--objective", "regression", "--budget"]
    words += ["9000", "--val", "val.parquet", "--data", "train.parquet", "--epochs", "0", "--out", "small.safetensors"]
    words += ["--eval", "test.parquet", "--metric", "own_goals:worst", way, "--quiet", "--json"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as done:
        main()
    assert done.value.code == 0
    assert json.loads(capsys.readouterr().out)["metric"]["higher_is_better"] is (way == "--higher-is-better")
