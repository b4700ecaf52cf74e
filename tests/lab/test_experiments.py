"""The experiments: rows are resumed and never mixed, bad settings are refused, and each finds what it says."""

import csv
import json

import numpy as np
import pytest
from click.testing import CliRunner

from memrec_convert.cli.commands import cli
from memrec_convert.errors import LogError, OptionError
from memrec_convert.lab.experiments import NAMES, find_experiment
from memrec_convert.lab.experiments import cache as cache_experiment
from memrec_convert.lab.experiments.collisions import measure_collisions, predict_collisions, rank_correlation
from memrec_convert.lab.experiments.experiment import ChartSpec, Experiment
from memrec_convert.lab.experiments.figure import collect_lines
from memrec_convert.lab.experiments.iso_auc import find_crossing
from memrec_convert.lab.experiments.laboratory import Lab
from memrec_convert.lab.experiments.runner import run_experiment, to_csv
from memrec_convert.lab.experiments.sizes import find_knee


@pytest.fixture(scope="module")
def lab(tiny):
    """The tiny model on the bench."""
    choices = {"data": [str(tiny.train)], "val": [str(tiny.val)], "threads": 1}
    return Lab(tiny.checkpoint, choices, [str(tiny.test)], quick=True)


def counting(limit=None, log=None):
    """An experiment that notes its cells and, at `limit` of them, is interrupted."""
    ran = [] if log is None else log

    def run(_lab, cell, seed):
        if limit is not None and len(ran) >= limit:
            raise KeyboardInterrupt
        ran.append((cell["d"], seed))
        return {"auc_delta": cell["d"] * 10 + seed}

    return Experiment(
        "counting",
        lambda _lab, _quick: {"d": (1, 2, 3)},
        run,
        lambda rows: f"{len(rows)} rows",
        ChartSpec("d", "auc_delta"),
        limits={"d": (1, 10)},
        needs_model=False,
    )


def empty_lab(**changes):
    """A bench for experiments that need no model."""
    return Lab(None, {}, **changes)


def test_an_interrupted_experiment_goes_on_where_it_was(tmp_path):
    """Finished cells are taken from the folder, the others are run, once each."""
    ran = []
    with pytest.raises(KeyboardInterrupt):
        run_experiment(counting(2, ran), empty_lab(), tmp_path)
    found = run_experiment(counting(None, ran), empty_lab(), tmp_path)
    assert ran == [(1, 0), (2, 0), (3, 0)]
    assert [row["auc_delta"] for row in found["rows"]] == [10, 20, 30]


def test_rows_of_another_seed_size_or_version_are_never_taken(tmp_path, monkeypatch):
    """Each is measured anew, and the results hold only what was asked for."""
    ran = []
    run_experiment(counting(None, ran), empty_lab(), tmp_path)
    other = run_experiment(counting(None, ran), empty_lab(), tmp_path, seed=1)
    assert [row["seed"] for row in other["rows"]] == [1, 1, 1]
    run_experiment(counting(None, ran), empty_lab(quick=True), tmp_path)
    monkeypatch.setattr("memrec_convert.lab.experiments.runner.__version__", "9.9")
    run_experiment(counting(None, ran), empty_lab(), tmp_path)
    assert len(ran) == 12


def test_a_damaged_row_is_measured_anew(tmp_path):
    """A file that was cut off or changed counts for nothing."""
    ran = []
    run_experiment(counting(None, ran), empty_lab(), tmp_path)
    first, second, _ = sorted((tmp_path / "cells").iterdir())
    first.write_text("{")
    held = json.loads(second.read_text())
    held["facts"]["seed"] = 7
    second.write_text(json.dumps(held))
    run_experiment(counting(None, ran), empty_lab(), tmp_path)
    assert len(ran) == 5


def test_results_are_written_as_json_csv_and_chart(tmp_path):
    """All three hold the same rows, and several seeds are told apart."""
    found = run_experiment(counting(), empty_lab(domain="here"), tmp_path, seeds=2)
    assert json.loads((tmp_path / "counting-here.json").read_text())["rows"] == found["rows"]
    with (tmp_path / "counting-here.csv").open(newline="") as stream:
        assert [row["seed"] for row in csv.DictReader(stream)] == ["0", "0", "0", "1", "1", "1"]
    assert (tmp_path / "counting-here.svg").read_text(encoding="utf-8").startswith("<?xml")
    assert found["finding"] == "6 rows"


def test_charts_are_the_means_over_seeds():
    """A point per x, by rising x; rows without a figure are left out."""
    rows = [
        {"x": 2, "y": 1.0, "m": "a"},
        {"x": 1, "y": 3.0, "m": "a"},
        {"x": 1, "y": 5.0, "m": "a"},
        {"x": 1, "y": None, "m": "b"},
    ]
    assert collect_lines(rows, ChartSpec("x", "y", ("m",))) == {"m a": [(1.0, 4.0), (2.0, 1.0)]}
    assert to_csv(rows).splitlines()[0] == "x,y,m"


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("sizes", ["d=3", "k=4"], "d is 3, smaller than k = 4"),
        ("sizes", ["k=0"], "k of the experiment sizes is '0'; expected a number from 1"),
        ("sizes", ["d=-1"], "d of the experiment sizes is '-1'"),
        ("sizes", ["dd=1"], "cannot set 'dd=1': it takes d, k, k_weights"),
        ("sizes", ["d"], "cannot set 'd'"),
        ("cache", ["llc=0"], "llc of the experiment cache is '0'"),
        ("cache", ["llc=nan"], "llc of the experiment cache is 'nan'"),
        ("cache", ["zipf=x"], "zipf of the experiment cache is 'x'"),
        ("equal-bytes", ["ratio=0"], "ratio of the experiment equal-bytes"),
        ("weight-table", ["d=1"], "d is 1, smaller than k = 2"),
    ],
)
def test_settings_that_cannot_be_measured_are_refused(lab, tmp_path, name, settings, words):
    """One sentence, before anything is measured or written."""
    with pytest.raises(OptionError, match=words):
        run_experiment(find_experiment(name), lab, tmp_path / "out", settings=settings)
    assert not (tmp_path / "out").exists()


def test_unknown_experiments_and_missing_logs_are_refused(tiny, tmp_path):
    """With the nearest name, and with what is missing."""
    with pytest.raises(OptionError, match="did you mean 'collisions'"):
        find_experiment("colisions")
    with pytest.raises(LogError, match="give its checkpoint"):
        run_experiment(find_experiment("sizes"), empty_lab(), tmp_path)
    with pytest.raises(LogError, match="--val, --eval besides"):
        run_experiment(find_experiment("sizes"), Lab(tiny.checkpoint, {"data": [str(tiny.train)]}, {}), tmp_path)
    with pytest.raises(OptionError, match="0 seeds"):
        run_experiment(counting(), empty_lab(), tmp_path, seeds=0)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "cache"])
def test_every_experiment_on_a_model_runs_at_quick_size(lab, tmp_path, name):
    """It gives a row per cell with its AUC or its times, and says what was found."""
    found = run_experiment(find_experiment(name), lab, tmp_path)
    assert found["finding"]
    for row in found["rows"]:
        if name == "latency":
            assert min(row[f"{model}_ms"] for model in ("dlrm", "ours", "hashed", "pooled")) > 0
        else:
            assert row["auc"] is None or row["ci_low"] <= row["auc_delta"] <= row["ci_high"]
    assert any(row.get("auc") or row.get("dlrm_ms") for row in found["rows"])
    assert {"json", "csv", "svg"} == {file.rpartition(".")[2] for file in found["files"]}


def test_the_cache_experiment_needs_no_model(tmp_path, monkeypatch):
    """MEM-REC misses less than the full tables, the more so the larger the cache."""
    found = run_experiment(
        find_experiment("cache"), empty_lab(quick=True), tmp_path, settings=["samples=4000", "llc=1,4", "d=8000"]
    )
    small, large = found["rows"]
    assert 1 < small["misses_ratio"] < large["misses_ratio"]
    assert small["slides_misses"] is None
    assert set(cache_experiment.SLIDES) == {14, 28, 56}


def test_collisions_of_random_tokens_are_as_predicted():
    """Bloom's formula and the birthday formula, on tokens drawn at random."""
    generator = np.random.default_rng(0)
    ids = 20_000
    for d, k in ((5000, 1), (20_000, 2), (300, 2)):
        measured = measure_collisions(generator.integers(d, size=(ids, k)), np.ones(ids), d)
        np.testing.assert_allclose(measured, predict_collisions(ids, d, k), atol=0.02)


def test_collisions_count_lookups_and_not_ids():
    """Two ids share a token; the third, read twice as often as both, shares none."""
    tokens = np.array([[1, 2], [2, 1], [3, 4]])
    assert measure_collisions(tokens, np.array([1.0, 1.0, 4.0]), 5) == pytest.approx((1 / 3, 1 / 3))
    half = np.array([[1, 2], [2, 0], [1, 4]])  # 1 and 2 are shared, 0 and 4 are not
    assert measure_collisions(half, np.ones(3), 5) == pytest.approx((1 / 3, 0.0))


def test_the_knee_is_the_smallest_size_within_a_tenth_of_the_gain():
    """By hand: of 0 to 10, 9.1 is within a tenth, 8.9 is not."""
    assert find_knee([(1, 0.0), (2, 8.9), (4, 9.1), (8, 10.0)]) == 4


def test_the_crossing_is_interpolated_over_the_logarithm_of_the_bytes():
    """Half way between -0.0001 and -0.0009 lies -0.0005: half way between the logarithms of 1 MB and 100 kB."""
    points = [(1e6, -0.0001), (1e5, -0.0009), (1e4, -0.02)]
    assert find_crossing(points) == pytest.approx(10**5.5)
    assert find_crossing([(1e6, -0.01)]) is None
    assert find_crossing([(1e6, 0.0), (1e5, 0.0)]) == 1e5


def test_rank_correlation_knows_order_alone():
    """1 for the same order, -1 for the reverse, 0 where one side is constant."""
    assert rank_correlation([1, 2, 30], [0.1, 0.2, 0.3]) == pytest.approx(1)
    assert rank_correlation([1, 2, 30], [3, 2, 1]) == pytest.approx(-1)
    assert rank_correlation([1, 1], [1, 2]) == 0


def test_the_command_prints_its_finding_and_its_files(tmp_path):
    """`experiment cache` at a small size; a domain that is no part of a file's name is refused."""
    arguments = ["experiment", "cache", "--out", str(tmp_path), "--set", "samples=500", "--set", "llc=1", "--quick"]
    shown = CliRunner().invoke(cli, arguments)
    assert shown.exit_code == 0
    assert "fewer misses at 1 MiB" in shown.output
    assert (tmp_path / "cache.csv").is_file()
    told = CliRunner().invoke(cli, [*arguments, "--json", "--quiet"])
    assert json.loads(told.output)["experiment"] == "cache"
    refused = CliRunner().invoke(cli, [*arguments, "--domain", "../x"])
    assert isinstance(refused.exception, OptionError)
