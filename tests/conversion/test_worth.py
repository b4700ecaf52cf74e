"""Tables that the hold-out does not miss are left at their mean row, where their rows would be trained on labels."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from memrec_convert import compress
from memrec_convert.conversion.measuring import worth
from memrec_convert.conversion.steps import recoding
from memrec_convert.conversion.steps.fitting import IdleTable
from memrec_convert.errors import LogError

ROWS, DIM, BUDGET = 3000, 8, 60_000


class Model(nn.Module):
    """Two tables that the clicks follow, and one that the original has learnt by heart."""

    def __init__(self, *, noise=0.15):
        super().__init__()
        torch.manual_seed(0)
        self.user = nn.EmbeddingBag(ROWS, DIM, mode="sum")
        self.item = nn.EmbeddingBag(ROWS, DIM, mode="sum")
        self.pair = nn.EmbeddingBag(4 * ROWS, DIM, mode="sum")
        with torch.no_grad():
            self.pair.weight *= noise

    def forward(self, user, item, pair):
        """Logits of three columns of ids."""
        starts = torch.arange(len(user))
        found = self.user(user, starts) * self.item(item, starts) + self.pair(pair, starts)
        return found.mean(dim=1)


def make_truth(noise=0.0):
    """What clicks follow: something is left to learn from them, of all items alike."""
    truth = Model(noise=noise)
    with torch.no_grad():
        truth.item.weight += 2.0
    return truth


def draw(count, seed, truth=None):
    """Batches of a thousand samples whose clicks follow the first two tables, or another truth."""
    truth, generator = truth or make_truth(), torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        user, item = (torch.randint(0, ROWS, (1000,), generator=generator) for _ in range(2))
        pair = torch.randint(0, 4 * ROWS, (1000,), generator=generator)
        with torch.no_grad():
            chance = torch.sigmoid(truth(user, item, pair))
        found.append((user, item, pair, torch.bernoulli(chance, generator=generator)))
    return found


def forms(model, val, budget=BUDGET, **choices):
    """The form of every table once converted, and the report."""
    _, report = compress(
        model,
        budget,
        batches=draw(40, 1),
        val=val,
        forward=lambda m, batch: m(*batch[:3]),
        labels=lambda batch: batch[3],
        threshold="1kB",
        **choices,
    )
    return {table.name: table.form for table in report.tables}, report


@pytest.fixture(scope="module")
def val():
    """A hold-out that is large enough to tell."""
    return draw(90, 2)


def test_a_table_that_is_not_missed_is_left_at_its_mean_row(val):
    """Its bytes go to the others, and the report names it and says what was measured."""
    kept, before = forms(Model(), val, epochs=0)
    found, report = forms(Model(), val)
    assert kept["pair"] != "mean row" == found["pair"]
    assert "mean row" not in (found["user"], found["item"])
    (said,) = [warning for warning in report.warnings if "is left at its mean row" in warning]
    assert said.startswith("pair is left at its mean row: without its 12,000 rows")
    assert not any("is left at its mean row" in warning for warning in before.warnings)


@pytest.mark.parametrize("choices", [{"targets": "soft"}, {"method": "codes"}, {"budget": 2_000_000}, {"epochs": 0}])
def test_it_stays_where_nothing_is_trained_on_labels_or_nothing_has_to_go(val, choices):
    """The original is to be imitated then, with all that it has learnt."""
    found, report = forms(Model(), val, **choices)
    assert found["pair"] != "mean row"
    assert not any("is left at its mean row" in warning for warning in report.warnings)


def test_a_table_that_tells_something_stays(val):
    """The same rows, where the clicks do follow them: the hold-out misses them."""
    found, _ = forms(Model(), draw(90, 2, make_truth(0.15)))
    assert found["pair"] != "mean row"


def test_a_small_hold_out_leaves_nothing_out(val):
    """A few thousand samples do not tell so little from nothing."""
    found, _ = forms(Model(), val[:4])
    assert found["pair"] != "mean row"


def test_a_hold_out_that_does_not_ask_for_a_table_cannot_spare_it(val):
    """Always the same row, or none that says something: all answers change alike, which tells nothing of the others."""
    same = [(user, item, torch.full_like(pair, 7), label) for user, item, pair, label in val]
    found, _ = forms(Model(), same)
    assert found["pair"] != "mean row"


def test_a_table_comes_back_where_training_gains_nothing(val, monkeypatch):
    """The plan is then that of no training, with the table in it."""
    plain, _ = forms(Model(), val, epochs=0)
    monkeypatch.setattr(recoding.Taught, "has_gained", lambda taught: False)
    found, report = forms(Model(), val)
    assert found == plain
    assert not any("is left at its mean row" in warning for warning in report.warnings)


@pytest.mark.parametrize("bound", ["max_drop", "fail_if_worse_than"])
def test_a_bound_on_the_metric_keeps_all_tables(val, bound):
    """What a table left out might cost is not spent where somebody else has set what may be lost."""
    _, report = forms(Model(), val, **{bound: 0.05})
    assert not any("is left at its mean row" in warning for warning in report.warnings)


def test_several_tables_are_told_with_their_joint_figure():
    """What was measured last was measured without all of them."""
    sites = [SimpleNamespace(name="first", rows=2000), SimpleNamespace(name="second", rows=300)]
    idle = [IdleTable(0, -0.0001, 0.00005), IdleTable(1, -0.0003, 0.0001)]
    (said,) = worth.describe_idle(SimpleNamespace(sites=sites), idle)
    assert said.startswith("first and second are left at their mean rows: without their 2,300 rows")
    assert "changes by -0.00030 (-0.00050 to -0.00010)" in said
    assert worth.describe_idle(SimpleNamespace(sites=sites), []) == []


def test_labels_that_are_no_clicks_leave_nothing_out(val):
    """They are refused where an AUC is measured, and nothing is computed from them before."""
    shares = [(*ids, label * 0.9 + 0.05) for *ids, label in val[:4]]
    with pytest.raises(LogError, match="expected 0 or 1"):
        forms(Model(), shares)


def test_each_table_is_tried_beside_those_that_are_left_out(val, monkeypatch):
    """Of two that say the same either could be spared: the largest is tried first, and others together with it."""
    tried, real = [], worth._without

    def watch(subject, fitted, numbers):
        tried.append([subject.sites[number].name for number in numbers])
        return real(subject, fitted, numbers)

    monkeypatch.setattr(worth, "_without", watch)
    forms(Model(), val)
    assert tried[0] == ["pair"]
    assert sorted(map(tuple, tried[1:])) == [("pair", "item"), ("pair", "user")]
