"""`compress` of models whose outputs are no clicks: numbers, rankings, and losses and metrics of the caller's own."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import nn

from memrec_convert import compress
from memrec_convert.errors import LogError, ModelError, OptionError, QualityError
from memrec_convert.report import Report, render_card, render_summary, render_terminal
from memrec_convert.report.html import render_html

USERS, ITEMS, DIM = 1200, 300, 8
BUDGET = 13_000


class Rating(nn.Module):
    """A product of a user and an item, in the unit of the ratings."""

    def __init__(self, unit: float = 1.0) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(USERS, DIM), nn.Embedding(ITEMS, DIM)
        self.register_buffer("unit", torch.tensor(unit))

    def forward(self, users, items):
        """Ratings [B]."""
        return self.unit * (3 + (self.user(users) * self.item(items)).sum(1))


class Scorer(Rating):
    """The same product as scores of a list of candidates."""

    def forward(self, users, items):
        """Scores [B, k] of users [B] and candidates [B, k]."""
        return (self.user(users)[:, None] * self.item(items)).sum(2)


@pytest.fixture(scope="module")
def world():
    """True rows of users and items, which the models have with some noise."""
    generator = torch.Generator().manual_seed(0)
    return [0.6 * torch.randn(rows, DIM, generator=generator) for rows in (USERS, ITEMS)]


def make(kind, world, unit=1.0):
    """A model that knows the world's rows, with the errors of a training."""
    torch.manual_seed(1)
    model = kind(unit)
    with torch.no_grad():
        for table, rows in zip((model.user, model.item), world, strict=True):
            table.weight.copy_(rows + 0.05 * torch.randn_like(rows))
    return model.eval()


def draw(world, count, seed, *, candidates=0, unit=1.0):
    """Batches (users, items, answer): ratings with noise, or which of the candidates was taken."""
    generator = torch.Generator().manual_seed(seed)

    def pick(rows, *shape):
        return (rows * torch.rand(shape, generator=generator) ** 3).long()

    batches = []
    for _ in range(count):
        users = pick(USERS, 256)
        items = pick(ITEMS, 256, candidates) if candidates else pick(ITEMS, 256)
        true = (world[0][users].unsqueeze(1) * world[1][items.reshape(256, -1)]).sum(2)
        if candidates:
            answer = torch.multinomial(true.softmax(1), 1, generator=generator).squeeze(1)
        else:
            answer = unit * (3 + true.squeeze(1) + 0.3 * torch.randn(256, generator=generator))
        batches.append((users, items, answer))
    return batches


NOTHING = tuple(torch.zeros(0, dtype=torch.long) for _ in range(3))
CALL = {"forward": lambda model, batch: model(*batch[:2]), "labels": lambda batch: batch[2]}


def run(kind, world, budget=BUDGET, *, candidates=0, unit=1.0, train=12, **choices):
    """compress with training data, a hold-out and test data of the model's own world."""
    data = {
        name: draw(world, count, seed, candidates=candidates, unit=unit)
        for name, count, seed in (("batches", train, 1), ("val", 8, 2), ("eval", 8, 3))
    }
    return compress(make(kind, world, unit), budget, **(data | CALL | choices))


def test_a_rating_model_is_judged_by_its_rmse(world):
    """The report has the RMSE of both models with an interval, in every form, and fine-tuning went by it."""
    small, report = run(Rating, world, objective="regression")
    found = report.metric
    assert (found.name, found.higher_is_better, found.resampled, found.units) == ("rmse", False, "samples", 2048)
    test = draw(world, 8, 3)
    for model, value in ((make(Rating, world), found.before), (small, found.after)):
        errors = torch.cat([model(*batch[:2]) - batch[2] for batch in test]).detach()
        assert value == pytest.approx(float(errors.square().mean().sqrt()), rel=1e-5)
    assert found.ci95[0] <= found.delta <= found.ci95[1]
    assert report.auc is None
    assert report.fine_tune["metric"] == "-rmse"
    assert report.provenance.options["objective"] == "regression"
    assert Report.from_json(report.to_json()) == report
    for text in (render_summary(report), render_terminal(report), render_card(report), render_html(report)):
        assert f"RMSE {found.before:.4f}" in text
        assert "AUC not measured" not in text


def test_fine_tuning_by_squared_error_teaches_a_rating_model(world):
    """Where the original knows its rows badly, labels bring the RMSE down on data that nothing was chosen by."""
    rows = [one + 0.4 * torch.randn(one.shape, generator=torch.Generator().manual_seed(7)) for one in world]
    data = {name: draw(world, count, seed) for name, count, seed in (("batches", 60, 4), ("val", 8, 2), ("eval", 8, 3))}
    _, rough = run(Rating, rows, 7_000, objective="regression", targets="labels", epochs=0, **data)
    _, taught = run(Rating, rows, 7_000, objective="regression", targets="labels", **data)
    assert taught.metric.after < rough.metric.after - 0.05
    assert taught.fine_tune["best_step"] > 0


def test_the_unit_of_the_outputs_does_not_matter(world):
    """Ratings in thousandths lead to the same tables: the RMSE is a thousand times that of whole stars."""
    _, stars = run(Rating, world, objective="regression")
    _, milli = run(Rating, world, objective="regression", unit=1000.0)
    assert milli.metric.after == pytest.approx(1000 * stars.metric.after, rel=5e-3)
    assert milli.metric.verdict == stars.metric.verdict


def test_without_test_data_the_hold_out_tells_the_metric(world):
    """The report then says that these rows chose the plan; without labels nothing is measured."""
    _, report = run(Rating, world, objective="regression", metric="mae", eval=None)
    assert report.metric.name == "mae"
    assert "chose the plan" in report.evaluation["log"]
    _, report = run(Rating, world, objective="regression", eval=None, labels=None)
    assert report.metric is None
    assert report.fine_tune["metric"] == "-divergence"


def test_gates_hold_the_metric(world):
    """A bound on the RMSE's rise finds a small copy, and refuses a budget that breaks it."""
    _, report = run(Rating, world, None, objective="regression", max_drop=0.1, epochs=0)
    gate = report.plan["gate"]
    assert gate["metric"] == "RMSE rise"
    assert 0 < gate["drop"] <= 0.1
    assert gate["says"].startswith("RMSE rise on val ")
    _, tighter = run(Rating, world, None, objective="regression", max_drop=0.05, epochs=0)
    assert tighter.artifact.bytes > report.artifact.bytes
    with pytest.raises(QualityError, match="the RMSE rises by"):
        run(Rating, world, 7_000, objective="regression", fail_if_worse_than=0.02, epochs=0)
    _, kept = run(Rating, world, BUDGET, objective="regression", fail_if_worse_than=0.3, epochs=0)
    assert kept.plan["gate"]["supported"]


def test_clicks_have_gates_and_test_data_too(world):
    """Without an objective, `eval` gives the AUC figures of a conversion and `groups` their bootstrap."""
    data = {
        name: [(u, i, (y > 3).float()) for u, i, y in draw(world, 8, seed)] for name, seed in (("val", 2), ("eval", 3))
    }
    logits = lambda model, batch: model(*batch[:2]) - 3  # noqa: E731
    _, report = run(Rating, world, forward=logits, batches=None, **data, groups=lambda batch: batch[0], max_drop=0.05)
    assert report.metric is None
    assert "metric" not in report.to_json()
    assert report.groups.column == "groups"
    assert report.auc.before > 0.8
    assert "metric" not in report.plan["gate"]
    assert report.plan["gate"]["says"].startswith("AUC drop on val ")


def test_clicks_can_be_judged_by_gauc_and_by_rankings(world):
    """With groups, a click model's states are chosen by the metric that is asked for."""
    data = {
        name: [(u, i, (y > 3).float()) for u, i, y in draw(world, count, seed)]
        for name, count, seed in (("batches", 12, 1), ("val", 8, 2), ("eval", 8, 3))
    }
    logits = lambda model, batch: model(*batch[:2]) - 3  # noqa: E731
    for metric in ("gauc", "ndcg@5"):
        _, report = run(Rating, world, forward=logits, **data, groups=lambda b: b[0] % 200, metric=metric)
        assert report.metric.name == metric
        assert report.fine_tune["metric"] == metric
        assert 0.5 < report.metric.after <= 1


def test_a_ranking_model_is_judged_by_its_ndcg(world):
    """Scores of a list of candidates, the taken one as label: the figure is that of a loop over requests."""
    small, report = run(Scorer, world, objective="ranking", metric="ndcg@3", candidates=10)
    gains = []
    for users, items, taken in draw(world, 8, 3, candidates=10):
        for scores, one in zip(small(users, items).detach(), taken, strict=True):
            rank = int((scores >= scores[one]).sum())
            gains.append(1 / np.log2(1 + rank) if rank <= 3 else 0.0)
    assert report.metric.after == pytest.approx(float(np.mean(gains)), abs=1e-6)
    assert (report.metric.resampled, report.metric.units) == ("requests", 2048)
    assert report.metric.verdict != "worse"


def test_scores_of_single_candidates_rank_within_groups(world):
    """A model of one score per sample gives, with groups, the tables and figures of one that scores whole lists."""

    def spread(batch):
        users, items, taken = batch
        return users.repeat_interleave(10), items.reshape(-1), nn.functional.one_hot(taken, 10).reshape(-1).float()

    lists = {name: draw(world, 6, seed, candidates=10) for name, seed in (("batches", 1), ("val", 2), ("eval", 3))}
    _, first = run(Scorer, world, objective="ranking", epochs=0, **lists)
    singles = {
        name: [
            (*spread(batch), torch.arange(256).repeat_interleave(10) + 256 * place) for place, batch in enumerate(one)
        ]
        for name, one in lists.items()
    }
    _, second = run(Rating, world, objective="ranking", epochs=0, **singles, groups=lambda batch: batch[3])
    assert second.metric.before == pytest.approx(first.metric.before, abs=1e-6)
    assert second.metric.after == pytest.approx(first.metric.after, abs=0.01)
    with pytest.raises(LogError, match="pass groups="):
        run(Rating, world, objective="ranking", **singles)


def test_a_loss_of_the_callers_own_decides_what_is_kept(world):
    """Of two outputs the loss minds one far more: the table behind the other gets fewer bytes."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Embedding(USERS, DIM), nn.Embedding(USERS, DIM)

        def forward(self, users):
            return torch.stack([self.first(users).sum(1), self.second(users).sum(1)], dim=1)

    torch.manual_seed(0)
    model = Two()
    batches = [(users, model(users).detach() + 0.1) for users, _, _ in draw(world, 12, 5)]
    minded = torch.tensor([1.0, 400.0])
    for reduce in (lambda errors: errors, torch.mean):
        _, report = compress(
            model,
            14_000,
            batches=batches,
            val=batches[:4],
            forward=lambda model, batch: model(batch[0]),
            labels=lambda batch: batch[1],
            objective=lambda model, batch, reduce=reduce: reduce((model(batch[0]) - batch[1]).square() @ minded),
            metric=lambda labels, outputs: float(np.abs(outputs[:, 1] - labels[:, 1]).mean()),
            higher_is_better=False,
            method="codes",
        )
        first, second = (table.bytes_after for table in report.tables)
        assert first < second / 2
        assert (report.metric.name, report.metric.resamples) == ("lambda", 200)
        assert report.provenance.options["objective"] == "function"


def test_a_loss_without_labels_teaches_what_it_can(world):
    """A caller's own loss needs no labels=; the metric does, so the divergence of the outputs decides on states."""
    _, report = run(
        Rating,
        world,
        objective=lambda model, batch: (model(*batch[:2]) - batch[2]).abs(),
        metric="rmse",
        labels=None,
        eval=None,
    )
    assert report.fine_tune["metric"] == "-divergence"
    assert report.fine_tune["steps"] == 12
    assert report.metric is None
    loss = {"objective": lambda model, batch: (model(*batch[:2]) - batch[2]).abs(), "metric": "rmse"}
    _, taught = run(Rating, world, **loss, labels=None, eval=None, targets="labels")
    assert taught.fine_tune["history"] != report.fine_tune["history"]


def test_labels_are_found_as_the_last_part_of_a_batch(world):
    """Batches (users, items, rating) need neither forward= nor labels=."""
    _, report = run(Rating, world, objective="regression", forward=None, labels=None)
    assert report.metric.name == "rmse"


def test_equal_calls_give_equal_models(world):
    """Signs are drawn by a batch's number, so a second run has the same bits."""
    first, second = (run(Scorer, world, objective="ranking", candidates=5)[0].state_dict() for _ in range(2))
    assert all(
        torch.equal(first[name].as_subclass(torch.Tensor), second[name].as_subclass(torch.Tensor))
        for name in first
        if "unit" in name
    )
    one, two = (run(Scorer, world, objective="ranking", candidates=5)[0] for _ in range(2))
    batch = draw(world, 1, 9, candidates=5)[0]
    assert torch.equal(one(*batch[:2]), two(*batch[:2]))


@pytest.mark.parametrize(
    ("choices", "error", "says"),
    [
        ({"objective": "rating"}, OptionError, "expected binary, regression, ranking"),
        ({"objective": "regression", "max_drop": 0.0}, OptionError, "the bound on the RMSE rise is 0.0"),
        ({"objective": "regression", "max_drop": "0.01"}, OptionError, "the bound on the RMSE rise is '0.01'"),
        ({"metric": "auc", "max_drop": [1]}, OptionError, "expected a number above 0"),
        ({"metric": "auc", "max_drop": 0.7}, OptionError, "the bound on the AUC drop is 0.7"),
        ({"objective": "regression", "labels": lambda batch: batch[0][:5]}, LogError, "one label per output"),
        ({"objective": "regression", "groups": 5}, OptionError, "groups is a int"),
        ({"objective": "regression", "groups": lambda batch: batch[2]}, LogError, "one whole number per sample"),
        ({"objective": "regression", "labels": None, "forward": CALL["forward"]}, LogError, "eval has no labels"),
        ({"objective": lambda model, batch: 1.0, "metric": "rmse"}, ModelError, "objective= returned a float"),
        ({"objective": lambda model, batch: batch.x, "metric": "rmse"}, ModelError, "objective= failed on a batch"),
        ({"objective": lambda model, batch: batch[2][:7], "metric": "rmse"}, ModelError, "[7] for a batch of 256"),
        ({"objective": lambda model, batch: batch[2].mean()[None], "metric": "rmse"}, ModelError, "without dimensions"),
        ({"objective": lambda m, batch: batch[2].to_sparse(), "metric": "rmse"}, ModelError, "a sparse_coo tensor"),
        ({"objective": lambda m, batch: batch[2].to("meta"), "metric": "rmse"}, ModelError, "a meta tensor"),
        ({"objective": "regression", "labels": lambda batch: batch[2].sum()}, LogError, "one label per output"),
        (
            {"objective": "regression", "labels": lambda batch: batch[2].to_sparse()},
            LogError,
            "labels= returned a spars",
        ),
        ({"objective": "regression", "labels": lambda batch: batch[2].to("meta")}, LogError, "returned a meta tensor"),
        ({"objective": "regression", "labels": lambda batch: batch[2] * 1j}, LogError, "returned a complex tensor"),
        (
            {"objective": "regression", "groups": lambda batch: batch[0].to_sparse()},
            LogError,
            "groups= returned a spars",
        ),
        ({"objective": "regression", "eval": []}, LogError, "eval is empty"),
        ({"objective": "regression", "val": [NOTHING]}, LogError, "val is empty"),
    ],
)
def test_wrong_choices_are_refused(world, choices, error, says):
    """One sentence says what was wrong."""
    with pytest.raises(error, match=re.escape(says)):
        run(Rating, world, **choices)


@pytest.mark.parametrize(("part", "says"), [(slice(0, 0), "for each"), (slice(0, 128), "128 outputs for 256 samples")])
def test_outputs_for_some_of_the_samples_are_refused(world, part, says):
    """Without labels too, nothing is compared with what the model left out."""
    halve = lambda model, batch: model(*batch[:2])[part]  # noqa: E731
    with pytest.raises(ModelError, match=says):
        run(Rating, world, objective="regression", forward=halve, labels=None, eval=None)


def test_lists_without_candidates_are_refused(world):
    """Scores [B, 0] rank nothing."""
    none = lambda model, batch: model(*batch[:2])[:, :0]  # noqa: E731
    with pytest.raises(ModelError, match="expected numbers for each"):
        run(Scorer, world, objective="ranking", candidates=5, forward=none, labels=None, eval=None)


def test_batches_without_samples_change_nothing(world):
    """A filter may leave some batches empty: the tables and the figures are those without them."""
    for kind, choices, candidates in (
        (Rating, {"objective": "regression"}, 0),
        (Scorer, {"objective": "ranking"}, 5),
        (Rating, {"objective": lambda m, b: (m(*b[:2]) - b[2]).square(), "metric": "rmse"}, 0),
    ):
        full, holed = {}, {}
        for name, seed in (("batches", 1), ("val", 2), ("eval", 3)):
            full[name] = draw(world, 3, seed, candidates=candidates)
            empty = tuple(part[:0] for part in full[name][0])
            holed[name] = [empty, *full[name], empty]
        one, two = (run(kind, world, candidates=candidates, epochs=0, **choices, **data)[1] for data in (full, holed))
        assert one.metric == two.metric
        assert [table.bytes_after for table in one.tables] == [table.bytes_after for table in two.tables]
    _, report = run(Rating, world, objective="regression", **{**holed, "eval": None})
    assert report.fine_tune["steps"] <= 5


def test_labels_of_changing_width_are_refused(world):
    """One batch of single labels among batches of several is no data of one model."""
    val = draw(world, 3, 2)
    wide = lambda batch: torch.stack([batch[2]] * (2 if batch[2] is val[1][2] else 1), dim=1)  # noqa: E731
    with pytest.raises(LogError, match="the labels of eval have the shapes"):
        run(Rating, world, objective="regression", eval=val, labels=wide, epochs=0)
    train = draw(world, 3, 1)
    wide = lambda batch: torch.stack([batch[2]] * (2 if batch[2] is train[1][2] else 1), dim=1)  # noqa: E731
    with pytest.raises(LogError, match="expected one label per output"):
        run(Rating, world, objective="regression", batches=train, labels=wide)


def test_a_budget_or_a_bound_is_needed(world):
    """Without either there is nothing to aim at."""
    with pytest.raises(OptionError, match="no budget was given"):
        run(Rating, world, None, objective="regression")
