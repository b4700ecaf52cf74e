"""The command line: exit codes, one sentence for every bad input, JSON alone on stdout, nothing left behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from memrec_convert.cli.commands import cli, main
from memrec_convert.report import Report

BUDGET = "12kB"


class Ran:
    """What a call of the command line came to."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def run(monkeypatch, capsys):
    """A function that runs the command line in this process."""

    def call(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["memrec-convert", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        streams = capsys.readouterr()
        return Ran(end.value.code, streams.out, streams.err)

    return call


@pytest.fixture
def refuse(run, tmp_path):
    """A function that runs the command line on bad input and gives its sentence; nothing may be written."""

    def call(*arguments: object, folder: Path = tmp_path) -> str:
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        ran = run(*arguments)
        after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        said = [line for line in ran.err.splitlines() if not line.endswith(" ...")]  # progress, a line per stage
        assert (ran.code, ran.out, after) == (2, "", before), ran.err
        assert len(said) == 1, ran.err
        assert "Traceback" not in ran.err
        assert said[0].endswith((".", "?")), said
        return said[0]

    return call


@pytest.fixture(scope="module")
def state(tiny):
    """The tiny model's state dict."""
    return torch.load(tiny.bare, weights_only=True)["state_dict"]


@pytest.fixture
def write_log(tiny, tmp_path):
    """A function that writes the test log with some columns changed, or left out where given None."""

    def write(name: str = "changed.parquet", rows: int = 500, **changes: object) -> Path:
        table = pq.read_table(tiny.test).slice(0, rows).to_pydict()
        table |= changes
        pq.write_table(pa.table({key: value for key, value in table.items() if value is not None}), tmp_path / name)
        return tmp_path / name

    return write


def ids_of(path: Path, column: str, rows: int = 500) -> np.ndarray:
    """A column of a log as an array that can be written to."""
    return pq.read_table(path)[column].to_numpy()[:rows].copy()


# ---- what works


def test_a_file_without_a_command_is_converted(run, tiny, tmp_path):
    """FILE alone means `convert FILE`, and the report goes to stdout within 80 columns."""
    out = tmp_path / "small.safetensors"
    ran = run(tiny.checkpoint, "--budget", BUDGET, "--data", tiny.train, "--eval", tiny.test, "--out", out)
    assert ran.code == 0, ran.err
    assert 0 < out.stat().st_size <= 12_000
    assert max(len(line) for line in ran.out.splitlines() if str(tmp_path) not in line) <= 80
    assert "AUC" in ran.out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["small.card.md", "small.report.json", "small.safetensors"]


def test_convert_json_is_one_object_with_the_promised_keys(run, tiny, tmp_path):
    """--json prints exactly one object, equal to the report file, and the progress stays on stderr."""
    out = tmp_path / "a.safetensors"
    options = ("--method", "int8", "--data", tiny.train, "--eval", tiny.test, "--out", out, "--json")
    ran = run("convert", tiny.checkpoint, "--budget", BUDGET, *options)
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert found == json.loads((tmp_path / "a.report.json").read_text())
    assert found["artifact"] == {"path": str(out), "bytes": out.stat().st_size}
    assert found["budget_bytes"] == 12_000
    assert found["weights"] == "log"
    assert {"name", "method", "bytes_before", "bytes_after"} <= set(found["tables"][0])
    assert [table["bytes_before"] for table in found["tables"]] == [2000 * 32, 300 * 32, 40 * 32]
    assert found["auc"]["delta"] == found["auc"]["after"] - found["auc"]["before"]
    assert {"log_loss", "plan", "seconds", "warnings"} <= set(found)
    assert ran.err
    assert Report.from_json(found).artifact.bytes == out.stat().st_size


def test_without_an_evaluation_log_the_auc_is_null(run, tiny, tmp_path):
    """Nothing is claimed that was not measured; without any data a warning says how rows were weighted."""
    out = tmp_path / "a.safetensors"
    ran = run("convert", tiny.bare, "--budget", BUDGET, "--method", "int8", "--out", out, "--json", "--quiet")
    found = json.loads(ran.out)
    assert (ran.code, found["auc"], found["log_loss"], ran.err) == (0, None, None, "")
    assert found["weights"] == "displacement"
    assert any("how far training moved them" in warning for warning in found["warnings"])


def test_quiet_prints_nothing(run, tiny, tmp_path):
    """With --quiet both streams stay empty while the files are written."""
    out = tmp_path / "q.safetensors"
    ran = run(tiny.checkpoint, "--budget", BUDGET, "--method", "int8", "--out", out, "-q")
    assert (ran.code, ran.out, ran.err) == (0, "", "")
    assert out.is_file()
    for command in (["inspect", tiny.checkpoint], ["verify", out], ["evaluate", out, "--eval", tiny.test]):
        ran = run(*command, "--quiet")
        assert (ran.code, ran.out, ran.err) == (0, "", ""), command


def test_the_default_target_lies_beside_the_checkpoint(run, tiny, tmp_path):
    """Without --out the artifact has the checkpoint's name."""
    (tmp_path / "model.pt").write_bytes(tiny.bare.read_bytes())
    assert run(tmp_path / "model.pt", "--budget", BUDGET, "--method", "int8", "-q").code == 0
    assert (tmp_path / "model.safetensors").is_file()


def test_inspect_json_has_the_promised_keys(run, tiny):
    """`inspect --json` names layout, container, tables with their bytes, dense bytes and the optimizer."""
    found = json.loads(run("inspect", tiny.checkpoint, "--json").out)
    assert {"layout", "container", "tables", "dense_bytes", "optimizer", "warnings"} <= set(found)
    assert found["tables"][0] == {"name": "emb_l.0", "rows": 2000, "dim": 8, "dtype": "float32", "bytes": 64_000}
    assert found["layout"] == "facebookresearch-dlrm"
    assert found["optimizer"] == "adagrad"
    assert json.loads(run("inspect", tiny.bare, "--json").out)["optimizer"] is None


def test_every_text_fits_eighty_columns(run, tiny, tmp_path):
    """inspect, plan, evaluate and the help of all commands stay within 80 columns when not on a terminal."""
    out = tmp_path / "a.safetensors"
    assert run(tiny.checkpoint, "--budget", BUDGET, "--method", "int8", "--out", out, "-q").code == 0
    calls = [
        ["inspect", tiny.checkpoint],
        ["plan", tiny.checkpoint, "--budget", BUDGET, "--method", "int8"],
        ["evaluate", out, "--eval", tiny.test, "--against", tiny.checkpoint],
        ["--help"],
        *([name, "--help"] for name in ("convert", "plan", "inspect", "evaluate", "verify")),
    ]
    for call in calls:
        ran = run(*call)
        assert ran.code == 0, ran.err
        assert max(map(len, ran.out.splitlines())) <= 80, call


def test_plan_predicts_the_bytes_of_convert_and_writes_nothing(run, tiny, tmp_path):
    """The plan's byte count is that of the file which the same options then write."""
    options = ("--budget", BUDGET, "--method", "codes", "--data", tiny.train, "--json")
    planned = run("plan", tiny.checkpoint, *options)
    assert planned.code == 0, planned.err
    assert list(tmp_path.iterdir()) == []
    written = run("convert", tiny.checkpoint, *options, "--out", tmp_path / "a.safetensors")
    found = json.loads(planned.out)
    assert found["predicted_bytes"] == json.loads(written.out)["artifact"]["bytes"]
    assert [table["form"] for table in found["tables"]] == [t["form"] for t in json.loads(written.out)["tables"]]


def test_evaluate_and_verify_agree_with_convert(run, tiny, tmp_path):
    """The artifact measured again gives the AUC of its report; verify finds it sound."""
    out = tmp_path / "a.safetensors"
    common = ("--budget", BUDGET, "--method", "int8", "--out", out, "--json", "-q")
    report = json.loads(run(tiny.checkpoint, *common, "--data", tiny.train, "--eval", tiny.test).out)
    again = json.loads(run("evaluate", out, "--eval", tiny.test, "--against", tiny.checkpoint, "--json").out)
    for name in ("before", "after", "delta"):
        assert again["auc"][name] == pytest.approx(report["auc"][name], abs=1e-6)
    assert again["auc"]["ci95"] == pytest.approx(report["auc"]["ci95"], abs=1e-6)
    assert again["auc"]["verdict"] == report["auc"]["verdict"]
    assert again["samples"] == 4000
    sound = json.loads(run("verify", out, "--against", tiny.checkpoint, "--json").out)
    assert sound["bytes"] == out.stat().st_size
    assert all(0 <= table["relative_error"] <= 1.5 for table in sound["against"]["tables"])


def test_a_packaged_recipe_and_options_on_top_of_it_work(run, tiny, tmp_path):
    """What the command line says goes before what the recipe says."""
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("budget: 9kB\nmethod: int8\nseed: 3\n")
    out = tmp_path / "a.safetensors"
    found = json.loads(run(tiny.bare, "--recipe", recipe, "--budget", "10kB", "--out", out, "--json").out)
    assert (found["budget_bytes"], found["provenance"]["options"]) == (10_000, {"method": "int8", "seed": 3})


def test_force_replaces_an_artifact(run, tiny, tmp_path):
    """--force writes over what was there, report and card included."""
    for name in ("a.safetensors", "a.report.json", "a.card.md"):
        (tmp_path / name).write_text("old")
    out = tmp_path / "a.safetensors"
    assert run(tiny.bare, "--budget", BUDGET, "--method", "int8", "--out", out, "--force", "-q").code == 0
    assert all(path.read_bytes() != b"old" for path in tmp_path.iterdir())
    assert len(list(tmp_path.iterdir())) == 3


# ---- bad checkpoints


def test_a_missing_checkpoint_is_one_sentence(refuse, tmp_path):
    """The path is named."""
    assert "nowhere.pt" in refuse(tmp_path / "nowhere.pt", "--budget", BUDGET)


@pytest.mark.parametrize(
    "content", [b"", b"hello, this is a text file\n", b"PK\x03\x04", b"\x80\x02", b"{}", bytes(range(255, 191, -1))]
)
def test_a_file_that_is_no_checkpoint_is_one_sentence(refuse, tmp_path, content):
    """Empty files, texts and rubbish are refused by convert, plan and inspect alike."""
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    assert "model.pt" in refuse(path, "--budget", BUDGET)
    assert "model.pt" in refuse("plan", path, "--budget", BUDGET)
    assert "model.pt" in refuse("inspect", path)
    assert "model.pt" in refuse("evaluate", path, "--eval", tmp_path / "no.parquet")


@pytest.mark.parametrize("share", [0.02, 0.5, 0.97, 0.9999])
def test_a_truncated_checkpoint_is_one_sentence(refuse, tiny, tmp_path, share):
    """A file that broke off anywhere is refused."""
    content = tiny.checkpoint.read_bytes()
    (tmp_path / "model.pt").write_bytes(content[: int(share * len(content))])
    assert "model.pt" in refuse(tmp_path / "model.pt", "--budget", BUDGET)


def test_a_damaged_checkpoint_is_one_sentence(refuse, tiny, tmp_path):
    """A changed byte in a table is found by its checksum."""
    content = bytearray(tiny.checkpoint.read_bytes())
    content[len(content) // 3] ^= 255
    (tmp_path / "model.pt").write_bytes(content)
    assert "model.pt" in refuse(tmp_path / "model.pt", "--budget", BUDGET)


def test_a_model_without_tables_is_one_sentence(refuse, tmp_path):
    """Any other network's weights are refused."""
    torch.save({"state_dict": torch.nn.Linear(3, 2).state_dict()}, tmp_path / "mlp.pt")
    assert refuse(tmp_path / "mlp.pt", "--budget", BUDGET).startswith("NoTables")


def test_a_directory_is_no_checkpoint(refuse, tmp_path):
    """A folder in the checkpoint's place is one sentence."""
    (tmp_path / "folder").mkdir()
    assert "folder" in refuse(tmp_path / "folder", "--budget", BUDGET)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nonfinite_rows_are_named_and_can_be_allowed(refuse, run, state, tmp_path, value):
    """The table, the count and the first row are named; --allow-nonfinite reads them as zeros and says so."""
    weight = state["emb_l.1.weight"].clone()
    weight[[7, 31]] = value
    torch.save({"state_dict": state | {"emb_l.1.weight": weight}}, tmp_path / "odd.pt")
    said = refuse(tmp_path / "odd.pt", "--budget", BUDGET)
    assert said.startswith("NonFiniteRows")
    assert "emb_l.1" in said
    assert "2 rows" in said
    assert "the first is row 7" in said
    options = ("--method", "int8", "--json", "--out", tmp_path / "a.safetensors", "--allow-nonfinite")
    ran = run(tmp_path / "odd.pt", "--budget", BUDGET, *options)
    assert ran.code == 0, ran.err
    assert any("emb_l.1" in warning and "zeros" in warning for warning in json.loads(ran.out)["warnings"])


# ---- bad budgets


@pytest.mark.parametrize("budget", ["48 MBs", "", "many", "-5MB", "0", "0%", "0x", "1e6", "NaN", "5 %%", "١٢kB", "-3x"])
def test_a_budget_that_cannot_be_read_is_one_sentence(refuse, tiny, tmp_path, budget):
    """The forms that are understood are named, or what is wrong with the number."""
    said = refuse(tiny.checkpoint, f"--budget={budget}", "--out", tmp_path / "a.safetensors")
    assert said.startswith("Budget")


def test_no_budget_is_one_sentence(refuse, tiny, tmp_path):
    """Neither option nor recipe: the sentence says what to add."""
    assert "--budget" in refuse(tiny.checkpoint, "--out", tmp_path / "a.safetensors")
    assert "--budget" in refuse("plan", tiny.checkpoint)


@pytest.mark.parametrize("method", ["auto", "codes", "int8", "memrec"])
def test_the_smallest_reachable_budget_that_is_named_works(refuse, run, tiny, tmp_path, method):
    """A budget too small names one; converting with exactly that one succeeds within it."""
    out = tmp_path / "a.safetensors"
    said = refuse(tiny.checkpoint, "--budget", "1kB", "--method", method, "--out", out)
    assert said.startswith("BudgetTooSmall")
    smallest = int(said.rsplit("(", 1)[1].split(" bytes")[0])
    ran = run(tiny.checkpoint, "--budget", smallest, "--method", method, "--out", out, "--json", "-q")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["artifact"]["bytes"] <= smallest


def test_a_budget_above_the_original_keeps_it_bit_for_bit(run, tiny, state, tmp_path):
    """A warning, exit code 0, and every row equal to the checkpoint's."""
    import memrec_convert

    out = tmp_path / "a.safetensors"
    ran = run(tiny.checkpoint, "--budget", "10MB", "--out", out, "--json", "-q")
    assert ran.code == 0
    assert any("stays at fp32" in warning for warning in json.loads(ran.out)["warnings"])
    model = memrec_convert.load(out)
    for number, table in enumerate(model.tables):
        original = state[f"emb_l.{number}.weight"]
        assert torch.equal(table.lookup(torch.arange(len(original))), original)


# ---- bad logs


def test_a_log_with_other_columns_names_both_sides(refuse, tiny, write_log, tmp_path):
    """The log's columns and the model's tables are both named."""
    log = write_log(C2=None, zip=[1] * 500)
    said = refuse(tiny.checkpoint, "--budget", BUDGET, "--data", log, "--out", tmp_path / "a.safetensors")
    assert "zip" in said
    assert "emb_l.1 (300 rows)" in said


def test_columns_map_a_log_of_other_names(run, tiny, write_log, tmp_path):
    """--columns makes the same log readable."""
    log = write_log(C2=None, zip=ids_of(tiny.test, "C2"))
    options = ("--method", "int8", "--out", tmp_path / "a.safetensors", "--columns", "emb_l.1=zip")
    assert run(tiny.checkpoint, "--budget", BUDGET, "--data", log, *options, "-q").code == 0


@pytest.mark.parametrize("given", ["emb_l.1", "=zip", "emb_l.1=", "emb_l.9=zip"])
def test_a_column_choice_that_makes_no_sense_is_one_sentence(refuse, tiny, tmp_path, given):
    """Neither half may be missing, and the input must exist."""
    out = tmp_path / "a.safetensors"
    assert refuse(tiny.checkpoint, "--budget", BUDGET, "--data", tiny.test, "--columns", given, "--out", out)


def test_ids_outside_a_table_are_counted_and_each_choice_works(refuse, run, tiny, write_log, tmp_path):
    """Column, count and first example are named; clip, hash and zero each read the log."""
    ids = ids_of(tiny.test, "C2")
    ids[[3, 40, 41]] = [300, -1, 999]
    log = write_log(C2=ids)
    options = ("--method", "int8", "--data", log, "--out", tmp_path / "a.safetensors")
    said = refuse(tiny.checkpoint, "--budget", BUDGET, *options)
    assert said.startswith("IdRange")
    assert "3 of the 500" in said
    assert "(first: 300)" in said
    for choice in ("clip", "hash", "zero"):
        ran = run(tiny.checkpoint, "--budget", BUDGET, *options, "--eval", tiny.val, "--oov", choice, "--force", "-q")
        assert ran.code == 0, ran.err
        evaluated = run("evaluate", tmp_path / "a.safetensors", "--eval", write_log("e.parquet", rows=400), "--json")
        assert evaluated.code == 0, evaluated.err


@pytest.mark.parametrize("choice", ["clip", "hash", "zero"])
def test_an_artifact_measures_logs_with_ids_outside(run, tiny, write_log, tmp_path, choice):
    """The evaluation log may hold them too: its samples are all scored."""
    ids = ids_of(tiny.test, "C1")
    ids[5] = 5000
    log = write_log(C1=ids)
    out = tmp_path / "a.safetensors"
    options = ("--method", "int8", "--data", tiny.train, "--eval", log, "--oov", choice, "--json", "-q")
    ran = run(tiny.checkpoint, "--budget", BUDGET, *options, "--out", out)
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["evaluation"]["samples"] == 500
    again = json.loads(run("evaluate", out, "--eval", log, "--json").out)
    assert again["auc"] == pytest.approx(json.loads(ran.out)["auc"]["after"], abs=1e-6)


def test_the_profiles_own_data_are_no_evaluation(refuse, tiny, tmp_path):
    """The training log, under another name or beside others, is refused as evaluation and as hold-out."""
    copy = tmp_path / "renamed.parquet"
    copy.write_bytes(tiny.train.read_bytes())
    common = (tiny.checkpoint, "--budget", BUDGET, "--data", tiny.train, "--out", tmp_path / "a.safetensors")
    assert refuse(*common, "--eval", copy).startswith("ProfileLeak")
    assert "renamed.parquet" in refuse(*common, "--eval", tiny.test, "--eval", copy)
    assert refuse(*common, "--val", copy).startswith("ProfileLeak")


def test_the_hold_out_is_no_evaluation(refuse, tiny, tmp_path):
    """What chose between plans cannot measure them."""
    common = (tiny.checkpoint, "--budget", BUDGET, "--data", tiny.train, "--out", tmp_path / "a.safetensors")
    said = refuse(*common, "--val", tiny.val, "--eval", tiny.val)
    assert said.startswith("ProfileLeak")
    assert "hold-out" in said


def test_training_data_are_no_evaluation_though_a_profile_of_others_is_given(run, refuse, tiny, tmp_path):
    """A stored profile of another log does not make the training data fit for measuring."""
    profile = tmp_path / "p.npz"
    common = (tiny.checkpoint, "--budget", BUDGET, "--method", "int8", "--out", tmp_path / "a.safetensors")
    assert run(*common, "--data", tiny.val, "--profile", profile, "-q").code == 0
    assert profile.is_file()
    said = refuse(*common, "--force", "--data", tiny.train, "--profile", profile, "--eval", tiny.train)
    assert said.startswith("ProfileLeak")


def test_evaluate_refuses_the_data_of_the_profile(run, refuse, tiny, tmp_path):
    """The artifact itself remembers which files it was made from, alone or among others."""
    out = tmp_path / "a.safetensors"
    ran = run(tiny.checkpoint, "--budget", BUDGET, "--method", "int8", "--data", tiny.train, "--out", out, "-q")
    assert ran.code == 0
    assert refuse("evaluate", out, "--eval", tiny.train).startswith("ProfileLeak")
    assert refuse("evaluate", out, "--eval", tiny.test, "--eval", tiny.train).startswith("ProfileLeak")


def test_an_evaluation_of_one_class_is_a_warning(run, tiny, write_log, tmp_path):
    """No AUC exists there: null, a warning, exit code 0."""
    log = write_log(label=[0] * 500)
    options = ("--method", "int8", "--data", tiny.train, "--out", tmp_path / "a.safetensors", "--json")
    ran = run(tiny.checkpoint, "--budget", BUDGET, *options, "--eval", log)
    found = json.loads(ran.out)
    assert (ran.code, found["auc"]) == (0, None)
    assert any("one class" in warning for warning in found["warnings"])
    assert found["log_loss"]["before"] > 0
    again = run("evaluate", tmp_path / "a.safetensors", "--eval", log, "--against", tiny.checkpoint, "--json")
    assert (again.code, json.loads(again.out)["auc"]) == (0, None)
    assert "one class" in again.out


def test_an_evaluation_without_labels_is_refused_before_any_work(refuse, tiny, write_log, tmp_path):
    """Nothing can be measured on such a log, and that is said before tables are fitted."""
    log = write_log(label=None)
    said = refuse(tiny.checkpoint, "--budget", BUDGET, "--eval", log, "--out", tmp_path / "a.safetensors")
    assert "no label column" in said


@pytest.mark.parametrize("option", ["--data", "--val", "--eval"])
def test_a_missing_or_foreign_log_is_one_sentence(refuse, tiny, tmp_path, option):
    """A log that is not there, or is no log, is named."""
    common = (tiny.bare, "--budget", BUDGET, "--out", tmp_path / "a.safetensors")
    assert "nowhere.parquet" in refuse(*common, option, tmp_path / "nowhere.parquet")
    (tmp_path / "odd.parquet").write_text("no parquet")
    assert "odd.parquet" in refuse(*common, option, tmp_path / "odd.parquet")


def test_a_profile_that_is_none_is_one_sentence(refuse, tiny, tmp_path):
    """Neither a missing one without data, nor a file of another kind, nor a place that does not exist."""
    common = (tiny.bare, "--budget", BUDGET, "--out", tmp_path / "a.safetensors")
    assert "p.npz" in refuse(*common, "--profile", tmp_path / "p.npz")
    (tmp_path / "odd.npz").write_text("no profile")
    assert "odd.npz" in refuse(*common, "--profile", tmp_path / "odd.npz")
    assert "none" in refuse(*common, "--data", tiny.train, "--profile", tmp_path / "none" / "p.npz")


# ---- bad targets and options


def test_targets_that_cannot_be_written_are_refused_at_once(refuse, tiny, tmp_path):
    """A missing directory, a directory, an existing file, an existing report: each is one sentence."""
    common = (tiny.bare, "--budget", BUDGET, "--out")
    assert "none" in refuse(*common, tmp_path / "none" / "a.safetensors")
    assert "directory" in refuse(*common, tmp_path)
    (tmp_path / "a.safetensors").write_text("mine")
    assert "--force" in refuse(*common, tmp_path / "a.safetensors")
    (tmp_path / "b.report.json").write_text("mine")
    assert "b.report.json" in refuse(*common, tmp_path / "b.safetensors")


def test_the_checkpoint_itself_is_no_target(refuse, tiny, tmp_path):
    """Not even --force writes the artifact over the model that it is made from."""
    (tmp_path / "model.pt").write_bytes(tiny.bare.read_bytes())
    said = refuse(tmp_path / "model.pt", "--budget", BUDGET, "--out", tmp_path / "model.pt", "--force")
    assert said.startswith("Output")


@pytest.mark.parametrize(
    "options",
    [
        ["--method", "magic"],
        ["--weights", "guess"],
        ["--dense", "fp8"],
        ["--targets", "hope"],
        ["--oov", "drop"],
        ["--assume", "pairs=sideways"],
        ["--assume", "dense-transform=square"],
        ["--epochs", "-1"],
        ["--epochs", "many"],
        ["--batch-size", "0"],
        ["--seed", "-1"],
        ["--threads", "-1"],
        ["--threshold", "ten"],
        ["--no-such-option"],
        ["--modulus", "0", "--data", "x"],
        ["--weights", "log"],
        ["--recipe", "no-such-recipe"],
        ["extra-argument"],
    ],
    ids=" ".join,
)
def test_an_option_of_an_unknown_value_is_one_sentence(refuse, tiny, tmp_path, options):
    """Nothing is guessed, and nothing is written."""
    refuse(tiny.bare, "--budget", BUDGET, "--out", tmp_path / "a.safetensors", *options)


@pytest.mark.parametrize("options", [["--threads", "-1"], ["--batch-size", "0"], ["--scores", "/no/such/place.npy"]])
def test_evaluate_refuses_values_that_make_no_sense(refuse, tiny, options):
    """evaluate checks its options as convert does."""
    refuse("evaluate", tiny.bare, "--eval", tiny.test, *options)


def test_an_unknown_key_of_a_recipe_is_one_sentence(refuse, tiny, tmp_path):
    """The key is named with the one that was probably meant."""
    (tmp_path / "r.yaml").write_text("budgett: 12kB\n")
    assert "budget" in refuse(tiny.bare, "--recipe", tmp_path / "r.yaml", "--out", tmp_path / "a.safetensors")


def test_a_damaged_artifact_is_one_sentence(run, refuse, tiny, tmp_path):
    """verify and evaluate name the file; a checkpoint in its place is told apart."""
    out = tmp_path / "a.safetensors"
    assert run(tiny.bare, "--budget", BUDGET, "--method", "int8", "--out", out, "-q").code == 0
    content = bytearray(out.read_bytes())
    content[-1] ^= 255
    out.write_bytes(content)
    assert "digest" in refuse("verify", out)
    out.write_bytes(content[:-9])
    assert "a.safetensors" in refuse("verify", out)
    assert "a.safetensors" in refuse("evaluate", out, "--eval", tiny.test)
    assert refuse("verify", tiny.bare).startswith("Artifact")


def test_an_artifact_under_any_name_is_evaluated(run, tiny, tmp_path):
    """The file's content tells artifact from checkpoint, not its suffix."""
    out = tmp_path / "small.memrec"
    assert run(tiny.bare, "--budget", BUDGET, "--method", "int8", "--out", out, "-q").code == 0
    ran = run("evaluate", out, "--eval", tiny.test, "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["samples"] == 4000


def test_a_safetensors_checkpoint_is_evaluated_and_converted(run, tiny, state, tmp_path):
    """A checkpoint in safetensors is measured like any other, and its artifact does not take its name."""
    from safetensors.torch import save_file

    save_file(dict(state), tmp_path / "model.safetensors")
    expected = json.loads(run("evaluate", tiny.bare, "--eval", tiny.test, "--json").out)["auc"]
    ran = run("evaluate", tmp_path / "model.safetensors", "--eval", tiny.test, "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["auc"] == expected
    assert run(tmp_path / "model.safetensors", "--budget", BUDGET, "--method", "int8", "-q").code == 0
    assert (tmp_path / "model.memrec.safetensors").is_file()


def test_the_original_of_a_comparison_has_the_artifacts_pairs(run, tiny, tmp_path):
    """What was stated of the network for conversion holds when the original is measured beside the artifact."""
    out = tmp_path / "a.safetensors"
    options = (
        "--budget",
        "10MB",
        "--assume",
        "pairs=upper",
        "--assume",
        "dense_transform=identity",
        "--out",
        out,
        "-q",
    )
    assert run(tiny.bare, *options).code == 0
    found = json.loads(run("evaluate", out, "--eval", tiny.test, "--against", tiny.bare, "--json").out)
    assert found["auc"]["delta"] == 0


def test_a_mistyped_command_is_suggested(refuse, run, tiny, tmp_path, monkeypatch):
    """It is not taken for a file, unless there is one of that name, or it looks like one."""
    assert "did you mean doctor?" in refuse("doctr")
    assert "did you mean compare?" in refuse("compar", tiny.bare)
    assert "plan.pt" in refuse("plan.pt", "--budget", BUDGET)
    assert "did you mean" not in refuse("wholly-unlike", "--budget", BUDGET)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "doctr").write_bytes(tiny.bare.read_bytes())
    assert run("doctr", "--budget", BUDGET, "--method", "int8", "-q").code == 0


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_command_prints_json_on_request(name):
    """--json is a flag everywhere, and so is --quiet."""
    flags = {option.name for option in cli.commands[name].params if getattr(option, "is_flag", False)}
    assert {"as_json", "quiet"} <= flags


def test_a_report_is_printed_as_json(run, tiny, tmp_path):
    """`report --json` prints what the file holds."""
    out = tmp_path / "a.safetensors"
    assert run(tiny.bare, "--budget", BUDGET, "--method", "int8", "--out", out, "-q").code == 0
    ran = run("report", tmp_path / "a.report.json", "--json")
    assert (ran.code, json.loads(ran.out)) == (0, json.loads((tmp_path / "a.report.json").read_text()))


def test_compare_takes_several_budgets(run, tiny):
    """--budget is repeatable; the JSON has a table for each, also for one."""
    words = ("compare", tiny.bare, "--eval", tiny.test, "--only", "int4", "--json", "-q")
    for budgets in (["9kB"], ["9kB", "14kB"]):
        ran = run(*words, *(word for budget in budgets for word in ("--budget", budget)))
        assert ran.code == 0, ran.err
        tables = json.loads(ran.out)["budgets"]
        assert [table["budget_bytes"] for table in tables] == [int(one[:-2]) * 1000 for one in budgets]
        assert all([row["method"] for row in table["rows"]] == ["int4 rows (greedy clipping)"] for table in tables)


# ---- interruption


def test_ctrl_c_leaves_nothing_behind(tiny, tmp_path):
    """Interrupted in the middle of the fit: exit code 130, one line, no file, no temporary."""
    out = tmp_path / "a.safetensors"
    command = [sys.executable, "-m", "memrec_convert", str(tiny.checkpoint), "--budget", BUDGET, "--out", str(out)]
    options = ["--data", str(tiny.train), "--val", str(tiny.val), "--epochs", "1000", "--threads", "2"]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if line.startswith("fit tables"):
                break
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (130, "")
    assert "Traceback" not in stderr
    assert "Interrupted" in stderr
    assert list(tmp_path.iterdir()) == []


def test_a_closed_pipe_is_no_traceback(tiny):
    """`memrec-convert inspect ... | head -0` ends quietly."""
    command = f"{sys.executable} -m memrec_convert inspect {tiny.checkpoint} --json | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr


def test_no_argument_at_all_is_the_help(run):
    """Whoever types the bare name learns what to type."""
    ran = run()
    assert "Usage: " in ran.out + ran.err
    assert "convert" in ran.out + ran.err
    assert "Traceback" not in ran.err


def test_the_process_ends_at_once_and_says_all():
    """The installed command: what was printed arrives whole, a caller's words too, and no thread is waited for."""
    code = """
import sys, threading, time
from memrec_convert.cli import commands
threading.Thread(target=time.sleep, args=(60,)).start()
def main():
    print("x" * 100_000)
    sys.exit({end})
commands.main = main
commands.run()
"""
    for end, status, said in (("None", 0, ""), ("3", 3, ""), ("'some words'", 1, "some words\n")):
        ran = subprocess.run(
            [sys.executable, "-c", code.replace("{end}", end)], capture_output=True, text=True, timeout=50, check=False
        )
        assert (ran.returncode, len(ran.stdout), ran.stderr) == (status, 100_001, said)


def test_a_reader_that_leaves_early_is_no_crash():
    """`memrec-convert ... | head -1`: no traceback, and a status that says that not all was read."""
    line = f"{sys.executable} -m memrec_convert convert --help; echo $? >&2"
    ran = subprocess.run(["bash", "-c", f"({line}) | true"], capture_output=True, text=True, check=False)
    assert ran.stderr.strip() in ("0", "1")


@pytest.mark.parametrize("words", ["--version", "inspect {file}", "inspect {file} --json"])
def test_output_that_cannot_be_written_is_one_sentence(tiny, words):
    """On a full device: a status and a sentence; into a closed stream nothing is said, as by any other program."""
    line = f"{sys.executable} -m memrec_convert {words.format(file=tiny.checkpoint)}"
    if Path("/dev/full").exists():  # which Linux has
        ran = subprocess.run(["bash", "-c", f"{line} > /dev/full"], capture_output=True, text=True, check=False)
        assert ran.returncode == 1
        assert ran.stderr.startswith("Output: it could not be written (No space left on device); send it elsewhere")
    ran = subprocess.run(["bash", "-c", f"{line} >&-"], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
