"""convert and plan on checkpoint files: what the file gives back, where weights come from, what is left on disk."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from memrec_convert import convert, evaluate, load, plan, verify
from memrec_convert.clicklog import LogSchema, load_profile, open_log, save_profile
from memrec_convert.conversion.options import Options
from memrec_convert.errors import CheckpointError, LogError, NonFiniteRowsError, OptionError, ProfileLeakError
from memrec_convert.report import Report

BUDGET = 10_000
FAST = {"method": "int8", "epochs": 0}


def make_schema(model) -> LogSchema:
    """What a log must provide for a loaded model."""
    return LogSchema(tuple((t.name, t.spec.rows) for t in model.tables), model.bottom[0].in_features)


@pytest.fixture(scope="module")
def converted(tiny, tmp_path_factory):
    """One full conversion: (path of the artifact, its report)."""
    out = tmp_path_factory.mktemp("converted") / "small.safetensors"
    return out, convert(tiny.checkpoint, BUDGET, data=tiny.train, val=tiny.val, eval=tiny.test, out=out)


def test_load_gives_the_logits_that_evaluate_wrote(tiny, converted, tmp_path):
    """Exactly, batch by batch."""
    path, _ = converted
    evaluate(path, tiny.test, scores=tmp_path / "scores.npy", batch_size=1000)
    model = load(path)
    with torch.no_grad():
        batches = open_log(tiny.test, make_schema(model)).batches(1000)
        logits = torch.cat([model(batch.dense, batch.ids) for batch in batches])
    scores = np.load(tmp_path / "scores.npy")
    assert scores.dtype == np.float32
    assert np.array_equal(scores, logits.numpy())


def test_the_report_states_what_evaluate_measures(tiny, converted):
    """AUC before and after are those of checkpoint and artifact, each measured alone."""
    path, report = converted
    assert evaluate(path, tiny.test).auc == pytest.approx(report.auc.after, abs=1e-7)
    assert evaluate(tiny.checkpoint, tiny.test).auc == pytest.approx(report.auc.before, abs=1e-7)
    assert report.auc.before > 0.65
    assert report.auc.delta > -0.01


def test_the_artifact_needs_no_checkpoint(tiny, tmp_path):
    """The file is complete: it loads and runs after its source is gone, and again from another place."""
    source = tmp_path / "model.pt"
    source.write_bytes(tiny.bare.read_bytes())
    out = tmp_path / "a.safetensors"
    convert(source, BUDGET, out=out, **FAST)
    source.unlink()
    moved = out.rename(tmp_path / "moved.safetensors")
    model = load(moved)
    assert torch.isfinite(model(torch.zeros(3, 2), torch.zeros(3, 3, dtype=torch.int64))).all()
    assert verify(moved).tables == 3


def test_report_and_card_lie_beside_the_artifact(converted):
    """The JSON is the report that convert returned, and reads back as one; the card names the figures."""
    path, report = converted
    values = json.loads(path.with_name("small.report.json").read_text())
    assert values == report.to_json()
    assert Report.from_json(values).to_json() == values
    card = path.with_name("small.card.md").read_text()
    assert f"{report.auc.after:.4f}" in card
    assert sorted(p.name for p in path.parent.iterdir()) == ["small.card.md", "small.report.json", "small.safetensors"]


def test_the_report_knows_its_source_and_data(tiny, converted):
    """Layout, digest of the source and of the log, samples, seconds and shares of the lookups."""
    import hashlib

    _, report = converted
    assert report.provenance.source_digest == hashlib.sha256(tiny.checkpoint.read_bytes()).hexdigest()
    assert report.provenance.layout == "facebookresearch-dlrm"
    assert report.evaluation == {"log": "test.parquet", "samples": 4000}
    assert report.seconds["total"] > 0
    for table in report.tables:
        assert sum(table.lookup_share.values()) == pytest.approx(1, abs=1e-4)
    assert report.serving_bytes < 4 * BUDGET


def test_the_model_states_its_metadata_in_the_file(converted):
    """The measured figures and the plan's budget stand in the artifact itself."""
    path, report = converted
    metadata = load(path).memrec_metadata
    assert float(metadata.measured["auc_after"]) == pytest.approx(report.auc.after, abs=1e-9)
    assert metadata.plan["budget_bytes"] == BUDGET
    assert metadata.profile["weights"] == "log"


# ---- weights


def test_adagrads_state_stands_for_the_log(tiny, tmp_path):
    """Without data the optimizer's accumulators weigh the rows; without those their displacement, with a warning."""
    with_state = convert(tiny.checkpoint, BUDGET, out=tmp_path / "a.safetensors", **FAST)
    without = convert(tiny.bare, BUDGET, out=tmp_path / "b.safetensors", **FAST)
    assert (with_state.weights, without.weights) == ("optimizer", "displacement")
    assert any("no data and no Adagrad state" in warning for warning in without.warnings)
    assert not any("no data and no Adagrad state" in warning for warning in with_state.warnings)
    assert (tmp_path / "a.safetensors").read_bytes() != (tmp_path / "b.safetensors").read_bytes()


@pytest.mark.parametrize("weights", ["log", "optimizer", "displacement", "uniform"])
def test_a_choice_of_weights_is_obeyed(tiny, weights):
    """Each source of weights can be forced where it is there."""
    assert plan(tiny.checkpoint, BUDGET, data=tiny.train, weights=weights, **FAST).weights == weights


def test_weights_that_are_not_there_are_refused(tiny):
    """Neither a log nor an optimizer's state is made up."""
    with pytest.raises(LogError, match="--data"):
        plan(tiny.checkpoint, BUDGET, weights="log", **FAST)
    with pytest.raises(LogError, match=r"emb_l\.0"):
        plan(tiny.bare, BUDGET, weights="optimizer", **FAST)


def test_the_log_keeps_what_is_read_often(tiny):
    """Of the largest table, the rows that are stored serve more of the lookups than their share of the ids."""
    found = plan(tiny.checkpoint, BUDGET, data=tiny.train, **FAST)
    table = found.tables[0]
    kept = int(table.form.split(" + ")[1].split(" ids")[0])
    assert table.lookup_share["row"] > 2 * kept / 2000


# ---- the profile


def test_a_profile_is_written_once_and_then_used(tiny, tmp_path):
    """The second conversion counts nothing, and the file comes out the same."""
    profile = tmp_path / "p.npz"
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    convert(tiny.checkpoint, BUDGET, data=tiny.train, profile=profile, out=first, **FAST)
    stored = profile.read_bytes()
    report = convert(tiny.checkpoint, BUDGET, data=tiny.train, profile=profile, out=second, **FAST)
    assert profile.read_bytes() == stored
    assert first.read_bytes() == second.read_bytes()
    counts = load_profile(profile).counts
    assert [len(count) for count in counts] == [2000, 300, 40]
    ids = pq.read_table(tiny.train)["C1"].to_numpy()
    assert np.array_equal(counts[0], np.bincount(ids, minlength=2000))
    assert report.provenance.profile_digest == load_profile(profile).digest.combined


def test_a_profile_gives_what_its_log_gives(tiny, tmp_path):
    """What the model feels of its rows lies in the profile: without the log the file is the same, to the byte."""
    profile, made = tmp_path / "p.npz", [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    convert(tiny.checkpoint, BUDGET, data=tiny.train, profile=profile, out=made[0], epochs=0)
    assert all(one.lookups for one in load_profile(profile).sensitivities)
    convert(tiny.checkpoint, BUDGET, profile=profile, out=made[1], epochs=0)
    assert made[0].read_bytes() == made[1].read_bytes()


def test_sensitivities_of_another_model_are_not_used(tiny, tmp_path):
    """The counts stay, the sensitivities are measured anew; with no log to measure on, all rows count alike."""
    profile = tmp_path / "p.npz"
    plan(tiny.checkpoint, BUDGET, data=tiny.train, profile=profile, **FAST)
    strange = replace(load_profile(profile), model="of another")
    save_profile(strange, profile)
    counted = plan(tiny.checkpoint, BUDGET, profile=profile, **FAST)
    assert load_profile(profile).model == "of another"
    again = plan(tiny.checkpoint, BUDGET, data=tiny.train, profile=profile, **FAST)
    assert load_profile(profile).model not in ("of another", "")
    assert [one["sensitivity"] for one in counted.explained] == [1.0] * 3
    assert all(one["sensitivity"] != 1 for one in again.explained)


def test_a_profile_alone_weighs_by_the_log(tiny, tmp_path):
    """Where the log itself is gone its profile still says how often each id was read."""
    profile = tmp_path / "p.npz"
    plan(tiny.checkpoint, BUDGET, data=tiny.train, profile=profile, **FAST)
    found = convert(tiny.bare, BUDGET, profile=profile, eval=tiny.test, out=tmp_path / "a.safetensors", **FAST)
    assert found.weights == "log"
    assert found.auc is not None
    with pytest.raises(ProfileLeakError):
        convert(tiny.bare, BUDGET, profile=profile, eval=tiny.train, out=tmp_path / "b.safetensors", **FAST)


# ---- recipes and choices


def test_a_recipe_gives_what_the_caller_leaves_open(tiny, tmp_path):
    """Budget, method and columns come from it; a keyword goes before it."""
    recipe = tmp_path / "r.yaml"
    recipe.write_text("budget: 9kB\nmethod: int8\nepochs: 0\nthreshold: 2000rows\ncolumns: {emb_l.2: C3}\n")
    found = plan(tiny.bare, recipe=recipe)
    assert found.budget_bytes == 9000
    assert [t.method for t in found.tables] == ["rows", "kept int8", "kept int8"]
    assert plan(tiny.bare, "11kB", recipe=recipe).budget_bytes == 11_000


def test_columns_may_be_named_otherwise(tiny, tmp_path):
    """A log with other names gives the same artifact as one with the names that are expected."""
    table = pq.read_table(tiny.train)
    renamed = tmp_path / "renamed.parquet"
    pq.write_table(table.rename_columns(["click", "I1", "I2", "user", "C2", "C3"]), renamed)
    columns = {"label": "click", "emb_l.0": "user"}
    first = plan(tiny.checkpoint, BUDGET, data=tiny.train, **FAST)
    second = plan(tiny.checkpoint, BUDGET, data=renamed, columns=columns, **FAST)
    assert [t.lookup_share for t in first.tables] == [t.lookup_share for t in second.tables]
    with pytest.raises(LogError, match="user"):
        plan(tiny.checkpoint, BUDGET, data=renamed, **FAST)


def test_a_log_may_be_several_files(tiny, tmp_path):
    """Two halves count as the whole, in any order."""
    table = pq.read_table(tiny.train)
    halves = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    pq.write_table(table.slice(0, 5000), halves[0])
    pq.write_table(table.slice(5000), halves[1])
    profiles = []
    for data in (tiny.train, halves, halves[::-1], tmp_path, str(tmp_path / "*.parquet")):
        profile = tmp_path / f"{len(profiles)}.npz"
        plan(tiny.bare, "1MB", data=data, profile=profile, **FAST)
        profiles.append(load_profile(profile))
    for profile in profiles[1:]:
        assert profile.samples == 12_000
        assert all(np.array_equal(*pair) for pair in zip(profile.counts, profiles[0].counts, strict=True))
        assert profile.digest == profiles[1].digest


def test_unknown_choices_are_refused_by_name(tiny):
    """A typing error is no silent default."""
    with pytest.raises(OptionError, match="did you mean 'method'"):
        plan(tiny.bare, BUDGET, methods="int8")
    with pytest.raises(OptionError, match="no option 'eval'"):
        plan(tiny.bare, BUDGET, eval=tiny.test)
    with pytest.raises(OptionError, match="budget"):
        plan(tiny.bare)


@pytest.mark.parametrize(
    "choice",
    [
        {"method": "none"},
        {"epochs": -1},
        {"epochs": 1.5},
        {"seed": True},
        {"threads": -1},
        {"batch_size": 0},
        {"k": 0},
        {"k_weights": 17},
        {"threshold": "tall"},
        {"oov": "drop"},
        {"dense": "fp16"},
        {"targets": "x"},
    ],
    ids=str,
)
def test_choices_out_of_range_are_refused(tiny, choice):
    """Each field of Options checks its own value and is named."""
    with pytest.raises(OptionError, match=next(iter(choice))):
        plan(tiny.bare, BUDGET, **choice)


def test_every_option_of_convert_is_a_choice():
    """The command line offers no option that the library does not know, and the library none that it hides."""
    from memrec_convert.cli.commands import cli

    offered = {parameter.name for parameter in cli.commands["convert"].params}
    own = set(Options.model_fields) - {"k", "k_weights"}
    assert own <= offered


def test_memrec_with_nothing_to_hash_is_refused(tiny):
    """All tables below the threshold: the published form cannot be had."""
    with pytest.raises(OptionError, match="threshold"):
        plan(tiny.bare, BUDGET, method="memrec", threshold="1GB")


def test_a_threshold_keeps_tables(tiny):
    """Tables below it are never replaced, whatever the method."""
    for method in ("codes", "memrec"):
        found = plan(tiny.bare, 14_000, method=method, threshold="301rows")
        assert [t.method.split()[0] for t in found.tables][1:] == ["kept", "kept"]
        assert not found.tables[0].method.startswith("kept")


def test_the_dense_part_can_be_narrowed(tiny, tmp_path):
    """bf16 halves its bytes in the file; the report measures it so; loaded, the model is float32 again."""
    full = convert(tiny.bare, BUDGET, out=tmp_path / "a.safetensors", **FAST)
    half = convert(tiny.bare, BUDGET, out=tmp_path / "b.safetensors", eval=tiny.test, dense="bf16", **FAST)
    assert half.sizes.artifact.dense * 2 == full.sizes.artifact.dense == full.sizes.source.dense
    assert evaluate(tmp_path / "b.safetensors", tiny.test).log_loss == pytest.approx(half.log_loss.after, abs=1e-7)
    model = load(tmp_path / "b.safetensors")
    assert model.bottom[0].weight.dtype == torch.float32
    state = torch.load(tiny.bare, weights_only=True)["state_dict"]
    assert torch.equal(model.bottom[0].weight, state["bot_l.0.weight"].to(torch.bfloat16).float())


def test_a_dense_part_with_nan_is_refused(tiny, tmp_path):
    """With it no logit is a number, so there is nothing to convert."""
    state = torch.load(tiny.bare, weights_only=True)["state_dict"]
    state["bot_l.0.weight"][0, 0] = float("nan")
    torch.save({"state_dict": state}, tmp_path / "odd.pt")
    with pytest.raises(NonFiniteRowsError, match=r"bottom\.0\.weight"):
        plan(tmp_path / "odd.pt", BUDGET, data=tiny.train, allow_nonfinite=True)


def test_progress_is_told_in_order(tiny, tmp_path):
    """Every stage ends at its total, and no stage goes back."""
    told: list[tuple[str, int, int]] = []
    convert(
        tiny.checkpoint,
        BUDGET,
        data=tiny.train,
        val=tiny.val,
        eval=tiny.test,
        out=tmp_path / "a.safetensors",
        progress=lambda *step: told.append(step),
        method="int8",
    )
    stages = list(dict.fromkeys(stage for stage, _, _ in told))
    assert stages[0] == "profile"
    assert stages[-2:] == ["fine-tune", "evaluate"]
    for stage in stages:
        steps = [(done, total) for name, done, total in told if name == stage]
        assert steps == sorted(steps)
        assert steps[-1][0] == steps[-1][1]


def test_a_failure_leaves_an_old_artifact_alone(tiny, tmp_path):
    """--force gives leave to replace a file, not to lose it."""
    out = tmp_path / "a.safetensors"
    out.write_text("old")
    with pytest.raises(LogError):
        convert(tiny.bare, BUDGET, eval=tmp_path / "nowhere.parquet", out=out, force=True, **FAST)
    assert out.read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("change", ["touched", "replaced"])
def test_a_checkpoint_that_changes_meanwhile_writes_nothing(tiny, tmp_path, change):
    """One sentence names it, and an earlier artifact stays with its report."""
    source, out = tmp_path / "model.pt", tmp_path / "small.safetensors"
    source.write_bytes(tiny.bare.read_bytes())
    out.write_bytes(b"an earlier artifact")
    before = sorted(path.name for path in tmp_path.iterdir())

    def progress(stage, done, total):
        if stage == "plan and code" and done == 0:
            if change == "replaced":
                other = tmp_path / "other.pt"
                other.write_bytes(tiny.bare.read_bytes())
                other.rename(source)
            else:
                os.utime(source, ns=(0, 0))

    with pytest.raises(CheckpointError, match=r"model\.pt: was changed while it was read"):
        convert(source, BUDGET, out=out, force=True, progress=progress, **FAST)
    assert out.read_bytes() == b"an earlier artifact"
    assert sorted(path.name for path in tmp_path.iterdir()) == before
