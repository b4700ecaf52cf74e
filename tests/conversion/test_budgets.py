"""The byte budget: predicted is written, never more than asked for; and no figure depends on threads or repetition."""

from __future__ import annotations

import hashlib
import tempfile
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memrec_convert import convert, plan
from memrec_convert.conversion.plan import Plan
from memrec_convert.conversion.steps import candidates
from memrec_convert.errors import BudgetTooSmallError
from memrec_convert.units import SHARE_ALLOWANCE_BYTES

FAST = {"epochs": 0}


@pytest.fixture(scope="module")
def smallest(tiny):
    """Per method the smallest budget that its error names."""
    found = {}
    for method in ("auto", "codes", "int8", "memrec"):
        with pytest.raises(BudgetTooSmallError) as error:
            plan(tiny.checkpoint, 500, method=method)
        found[method] = int(str(error.value).rsplit("(", 1)[1].split(" bytes")[0])
    return found


@settings(deadline=None, max_examples=10, derandomize=True)
@given(method=st.sampled_from(["memrec", "int8", "codes", "auto"]), extra=st.floats(0, 1), dense=st.booleans())
def test_every_reachable_budget_is_kept_to_the_byte(tiny, smallest, method, extra, dense):
    """From the smallest budget to past the original: the file is within it, and as long as was planned."""
    budget = smallest[method] + int(extra**3 * 90_000)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "a.safetensors"
        choices = {"method": method, "dense": "bf16" if dense else "fp32"}
        report = convert(tiny.checkpoint, budget, out=out, **choices, **FAST)
        written = out.stat().st_size
    assert written <= budget
    assert report.artifact.bytes == written
    assert report.plan["predicted_bytes"] == written
    assert report.sizes.artifact.total == written
    assert report.sizes.artifact.header > 0


@pytest.mark.parametrize("method", ["codes", "int8", "memrec"])
def test_the_smallest_budget_is_the_smallest(tiny, smallest, tmp_path, method):
    """One step below the named budget is refused again (memrec names it to a thousandth), at it the file fits."""
    step = 1 if method != "memrec" else smallest[method] // 200
    with pytest.raises(BudgetTooSmallError):
        convert(tiny.checkpoint, smallest[method] - step, method=method, out=tmp_path / "a.safetensors", **FAST)
    assert list(tmp_path.iterdir()) == []
    report = convert(tiny.checkpoint, smallest[method], method=method, out=tmp_path / "a.safetensors", **FAST)
    assert report.artifact.bytes <= smallest[method]


def test_a_budget_is_used_where_there_is_something_to_buy(tiny):
    """Well below the original's size at most a hundredth of the budget stays unused."""
    for budget, method in ((9_000, "auto"), (16_000, "int8"), (16_000, "memrec")):
        found = plan(tiny.checkpoint, budget, data=tiny.train, method=method, **FAST)
        assert found.predicted_bytes >= 0.99 * budget


def test_a_plan_whose_answers_are_not_finite_is_named_and_not_chosen(tiny, monkeypatch):
    """Beside another one; a NaN among the divergences would leave the others in any order."""
    real = candidates._measure_divergences

    def spoil(*arguments):
        return [float("nan"), *real(*arguments)[1:]]

    monkeypatch.setattr(candidates, "FAR_BEHIND", float("inf"))
    first = plan(tiny.checkpoint, 12_000, data=tiny.train, **FAST)
    monkeypatch.setattr(candidates, "_measure_divergences", spoil)
    found = plan(tiny.checkpoint, 12_000, data=tiny.train, **FAST)
    assert found.plan["chosen"] != first.plan["chosen"]
    odd = [one for one in found.alternatives if one.note == candidates.ODD_NOTE]
    assert [(one.name, one.score) for one in odd] == [(first.plan["chosen"], None)]


def test_more_bytes_never_make_the_answers_worse(tiny):
    """The divergence from the original's logits falls as the budget grows, to nothing where it holds everything."""
    divergences = []
    for budget in (7_000, 12_000, 25_000, 90_000):
        found = plan(tiny.checkpoint, budget, data=tiny.train, **FAST)
        divergences.append(found.plan["divergence"])
    assert all(more <= 1.05 * less for less, more in pairwise(divergences)), divergences
    assert divergences[0] > 10 * divergences[2]
    assert divergences[-1] == 0


def test_the_chosen_plan_is_the_nearest_to_the_original(tiny):
    """No alternative in the report diverges less than what was chosen: the plain one of equal bytes included."""
    found = plan(tiny.checkpoint, 6_000, data=tiny.train, val=tiny.val, **FAST)
    built = [other.score for other in found.alternatives if other.score is not None]
    assert built
    assert min(built) >= found.plan["divergence"]
    assert all(other.bytes <= 6_000 for other in found.alternatives)


def test_a_plan_with_codes_for_all_ids_is_tried_beside_the_mean_row(tiny, monkeypatch):
    """Where data can tell and it is not predicted to lose far more: within the budget, and the nearer one is taken."""
    name = candidates._NAMES["based"]

    monkeypatch.setattr(candidates, "LEAST_AT_MEAN", 1)

    def run(within: float, **choices) -> tuple[Plan, dict[str, float | None]]:
        monkeypatch.setattr(candidates, "BASES_WITHIN", within)
        found = plan(tiny.checkpoint, 6_000, **choices, **FAST)
        return found, {one.name: one.score for one in found.alternatives} | {
            str(found.plan["chosen"]): found.plan["divergence"]
        }

    logs = {"data": tiny.train, "val": tiny.val}
    alone, scores = run(0.0, **logs)
    assert name not in scores
    assert any("mean" in one.form for one in alone.tables)
    both, measured = run(100.0, **logs)
    assert measured[name] is not None
    assert both.plan["divergence"] == min(score for score in measured.values() if score is not None)
    assert {key: score for key, score in measured.items() if key != name} == scores
    assert name not in run(100.0)[1]
    monkeypatch.setattr(candidates, "LEAST_AT_MEAN", 2)
    assert name not in run(100.0, **logs)[1]


def test_a_share_counts_tables_dense_part_and_an_allowance(tiny):
    """A budget of 10x grants a tenth of the table bytes beside the dense part and 20 kB."""
    found = plan(tiny.bare, "10x", method="int8")
    dense = sum(
        t.numel() * 4
        for name, t in torch.load(tiny.bare, weights_only=True)["state_dict"].items()
        if not name.startswith("emb_l.")
    )
    assert found.budget_bytes == tiny.table_bytes // 10 + dense + SHARE_ALLOWANCE_BYTES


@pytest.mark.parametrize("method", ["auto", "memrec"])
def test_neither_threads_nor_repetition_change_a_byte(tiny, tmp_path, method):
    """The same conversion again gives the same file, by one thread or by two, fine-tuning included."""
    digests = set()
    for number, threads in enumerate((1, 2)):
        out = tmp_path / f"{number}.safetensors"
        choices = {"method": method, "threads": threads, "batch_size": 512}
        convert(tiny.checkpoint, 10_000, data=tiny.train, val=tiny.val, eval=tiny.test, out=out, **choices)
        digests.add(hashlib.sha256(out.read_bytes()).hexdigest())
    assert len(digests) == 1


def test_another_seed_gives_another_file(tiny, tmp_path):
    """The seed reaches the fit, so that equal bytes above are no accident."""
    files = []
    for seed in (0, 1):
        out = tmp_path / f"{seed}.safetensors"
        convert(tiny.checkpoint, 10_000, data=tiny.train, method="codes", seed=seed, out=out, **FAST)
        files.append(out.read_bytes())
    assert files[0] != files[1]
