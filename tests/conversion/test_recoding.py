"""Coded rows move by themselves in fine-tuning, and are coded anew: same bytes, never a worse hold-out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from memrec_convert import compress, load, save
from memrec_convert.conversion.steps import recoding
from memrec_convert.distill import rows as rows_module
from memrec_convert.encoding import LevelSpec, TableSpec
from memrec_convert.encoding.index import choose_index
from memrec_convert.lookup import named_tables, spread_state

ROWS, DIM = 400, 8


class Model(nn.Module):
    """A sum of two rows to a logit."""

    def __init__(self, seed=0, items=3 * ROWS):
        super().__init__()
        torch.manual_seed(seed)
        self.user = nn.EmbeddingBag(ROWS, DIM, mode="sum")
        self.item = nn.EmbeddingBag(items, DIM, mode="sum")
        self.out = nn.Linear(DIM, 1)

    def forward(self, user, item):
        """Logits of two columns of ids."""
        starts = torch.arange(len(user))
        return self.out(self.user(user, starts) * self.item(item, starts)).squeeze(1)


def make_problem(items=3 * ROWS, skew=3):
    """An original, and batches whose labels come from another model: there is something to learn beyond it."""
    truth, generator = Model(1, items), torch.Generator().manual_seed(2)

    def draw(count):
        found = []
        for _ in range(count):
            user = (torch.rand(512, generator=generator) ** 2 * ROWS).long()
            item = (torch.rand(512, generator=generator) ** skew * items).long()
            with torch.no_grad():
                chance = torch.sigmoid(4 * truth(user, item))
            found.append((user, item, torch.bernoulli(chance, generator=generator)))
        return found

    return Model(0, items), draw(60), draw(12)


@pytest.fixture(scope="module")
def problem():
    """The same for all."""
    return make_problem()


def shrink(problem, budget, **choices):
    """The compressed copy, trained on labels, and its report."""
    model, batches, val = problem
    return compress(
        model,
        budget,
        batches=batches,
        val=val,
        forward=lambda m, batch: m(*batch[:2]),
        labels=lambda batch: batch[2],
        threshold="1kB",
        targets="labels",
        method="codes",
        **choices,
    )


def test_coded_rows_learn_more_than_codebooks(problem, monkeypatch):
    """The same plan, bytes and steps give a better hold-out than codes that can only move together."""
    small, report = shrink(problem, 10_000)
    told = report.fine_tune
    assert told["recoded"] > told["history"][0]["score"]
    assert told["gain"] == pytest.approx(told["recoded"] - told["history"][0]["score"])
    monkeypatch.setattr(recoding, "MOST_TRAINED", 0)
    stiff, other = shrink(problem, 10_000)
    assert "recoded" not in other.fine_tune
    assert told["gain"] > 1.3 * other.fine_tune["gain"] > 0
    assert [table.form for table in report.tables] == [table.form for table in other.tables]
    assert {n: t.shape for n, t in small.state_dict().items()} == {n: t.shape for n, t in stiff.state_dict().items()}


def test_what_is_saved_is_what_was_scored(problem, tmp_path):
    """The file keeps its budget, loads alone and answers as the model that came back."""
    model, _, val = problem
    small, report = shrink(problem, 10_000)
    save(small, tmp_path / "a.safetensors")
    assert (tmp_path / "a.safetensors").stat().st_size <= 10_000
    again = load(tmp_path / "a.safetensors", into=Model(3))
    user, item, _ = val[0]
    assert torch.equal(again(user, item), small(user, item))
    assert report.fine_tune["gain"] > 0
    assert {name for name, _ in named_tables(small)} == {"user", "item"}
    before = model.user.weight.clone()
    assert torch.equal(before, Model(0).user.weight)  # the original was not trained


@pytest.mark.parametrize("levels", [False, True])
def test_codes_that_undo_the_training_are_not_taken(problem, monkeypatch, levels):
    """Where coding leaves nothing of the gain, the model is as it was converted, mean rows under levels included."""
    problem = make_problem(40 * ROWS, skew=9) if levels else problem
    real = recoding.code_anew

    def spoil(*arguments, **choices):
        module = real(*arguments, **choices)
        module.get_buffer("codebook").zero_()
        return module

    plain, _ = shrink(problem, 10_000, epochs=0)
    monkeypatch.setattr(recoding, "code_anew", spoil)
    small, report = shrink(problem, 10_000)
    assert report.fine_tune["gain"] == 0
    assert report.fine_tune["best_step"] == 0
    for name, tensor in small.state_dict().items():
        assert torch.equal(tensor, plain.state_dict()[name]), name


def test_a_large_table_keeps_its_codes_while_others_move(problem, monkeypatch):
    """What cannot be held as rows trains its codebooks alone; the small table beside it is still coded anew."""
    monkeypatch.setattr(rows_module, "LARGE_ELEMENTS", 2 * ROWS * DIM)
    plain, _ = shrink(problem, 10_000, epochs=0)
    small, report = shrink(problem, 10_000)
    assert report.fine_tune["recoded"] > report.fine_tune["history"][0]["score"]
    before, after = spread_state(plain)[0], spread_state(small)[0]
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    codes = {name for name in after if name.endswith(("base", "codes"))}
    assert any(name.startswith("user") for name in changed & codes)
    assert not any(name.startswith("item") for name in changed & codes)
    assert any(name.startswith("item") for name in changed)


def test_rows_coded_to_different_depths_have_no_map_in_common(monkeypatch):
    """A table is set apart where its ids differ in depth, and its rows have a map in common where they do not."""
    seen, real = [], recoding.teach

    def watch(subject, student, options, *, gaits, **choices):
        seen.append([name for name, table in named_tables(student) if table in gaits])
        gait = gaits[dict(named_tables(student))["item"]]
        coarse, fine = gait.paces.unique().sort(descending=True).values[:2]
        assert coarse > fine
        assert not gait.mapped.any()
        return real(subject, student, options, gaits=gaits, **choices)

    monkeypatch.setattr(recoding, "teach", watch)
    _, report = shrink(make_problem(40 * ROWS, skew=9), 10_000)
    user, item = (table.form for table in report.tables)
    assert user.endswith("codes")
    assert "ids at" in item
    assert seen == [["item"]]


@pytest.mark.parametrize("base_depth", [0, 1])
@pytest.mark.parametrize(("deep", "stored", "mapped"), [(51, 0, True), (50, 0, False), (51, 9, False)])
def test_the_deepest_rows_have_a_map_where_they_are_most(base_depth, deep, stored, mapped):
    """More than half of a hundred rows, with none stored beside them; those above never have one."""
    kinds = [("codes", deep, {"depth": 3}), ("rows", stored, {"codec": "int8"})][: 1 + bool(stored)]
    levels = tuple(LevelSpec(kind, choose_index(100, count), **held) for kind, count, held in kinds)
    spec = TableSpec(100, DIM, "replaced", stages=(4,) * 3, shifts=(0,) * 3, base_depth=base_depth, levels=levels)
    numbers = np.full(100, -1, dtype=np.int8)
    numbers[10 : 10 + deep], numbers[100 - stored :] = 0, 1
    gait = recoding._find_gait(spec, numbers)
    wanted = ((numbers == 0) & mapped).tolist() if base_depth else [mapped, False][: len(levels)]
    assert gait.mapped.tolist() == wanted
    assert len(gait.paces) == (100 if base_depth else len(levels))


def test_ids_change_levels_once_their_rows_are_trained(tmp_path):
    """Which ids are coded finely is decided by the rows that are coded, within the budget, and the file says it."""
    problem = make_problem(40 * ROWS, skew=9)
    plain, small = (shrink(problem, 10_000, epochs=epochs)[0] for epochs in (0, 1))
    before, after = (dict(named_tables(model))["item"].forms_of_rows() for model in (plain, small))
    assert 0 < int((before != after).sum()) < 4 * ROWS
    save(small, tmp_path / "a.safetensors")
    assert 9_900 < (tmp_path / "a.safetensors").stat().st_size <= 10_000
    user, item, _ = problem[2][0]
    again = load(tmp_path / "a.safetensors", into=Model(3, 40 * ROWS))
    assert torch.equal(again(user, item), small(user, item))


def test_the_same_inputs_give_the_same_codes(problem):
    """Twice the same conversion, twice the same numbers."""
    first, second = (shrink(problem, 10_000)[0].state_dict() for _ in range(2))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
