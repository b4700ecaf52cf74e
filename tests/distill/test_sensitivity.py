"""What the logit feels of a table: second moments of its gradient, their roots, and each row's own share."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from memrec_convert.clicklog import Sensitivity
from memrec_convert.distill.sensitivity import (
    EIGENVALUE_FLOOR,
    MANY,
    PRIOR_LOOKUPS,
    WHOLE_BATCHES,
    WatchedTable,
    mean_moment,
    measure_sensitivities,
    root_of,
    weigh_rows,
)
from memrec_convert.errors import ModelError


class TwoTables(nn.Module):
    """A tanh network over two bags, in float64 so that finite differences are sharp."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = nn.EmbeddingBag(6, 3, mode="sum"), nn.EmbeddingBag(5, 2, mode="sum")
        self.hidden, self.last = nn.Linear(5, 4), nn.Linear(4, 1)
        self.double()

    def forward(self, ids):
        """Logits [n] of ids int64 [n, 2]."""
        both = torch.cat([self.one(ids[:, :1]), self.two(ids[:, 1:])], dim=1)
        return self.last(torch.tanh(self.hidden(both))).squeeze(1)


class Product(nn.Module):
    """logit = <one, two>."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.one, self.two = nn.Embedding(9, 3), nn.Embedding(9, 3)

    def forward(self, ids):
        """Logits [n] of ids int64 [n, 2]."""
        return (self.one(ids[:, 0]) * self.two(ids[:, 1])).sum(dim=1)


def call(model, batch):
    """The plain forward pass."""
    return model(batch)


def measure(model, tables, batches, forward=call, **choices):
    """The sensitivities of tables of the model."""
    watched = [WatchedTable(one, one.num_embeddings, getattr(one, "mode", ""), one.padding_idx) for one in tables]
    return measure_sensitivities(model, watched, batches, forward, **choices)


def moments(*arguments, **choices):
    """G of each table."""
    return [mean_moment(one) for one in measure(*arguments, **choices)]


def fisher(logits):
    """The Fisher weight of each sample, float64 [n, 1]."""
    chance = torch.sigmoid(logits.detach().double())
    return (4 * chance * (1 - chance)).unsqueeze(1)


def test_a_linear_model_has_the_outer_product_of_its_weights():
    """logit = e w: the gradient is w for every lookup, and the samples' Fisher weights average."""
    model = nn.Sequential(nn.EmbeddingBag(10, 3), nn.Linear(3, 1))
    ids = torch.randint(0, 10, (8, 1))
    (found,) = moments(model, [model[0]], [ids])
    weight = model[1].weight.detach().double()
    assert torch.allclose(found, weight.T @ weight * fisher(model(ids).squeeze(1)).mean())


def test_a_product_has_the_second_moment_of_the_other_table():
    """logit = <a, b>: the sensitivity of a is the mean of f b b^T over all batches, of unequal size too."""
    model = Product()
    ids = torch.randint(0, 9, (40, 2), generator=torch.Generator().manual_seed(2))
    found = moments(model, [model.one, model.two], [ids[:7], ids[7:]])
    for one, other in ((found[0], model.two.weight[ids[:, 1]]), (found[1], model.one.weight[ids[:, 0]])):
        wide = other.detach().double()
        assert torch.allclose(one, (wide * fisher(model(ids))).T @ wide / 40)


def test_each_row_has_what_its_own_lookups_felt():
    """logit = <a, b>: squares and lookups of a row of a are those of the samples that ask for it, over all batches."""
    model = Product()
    ids = torch.randint(0, 9, (40, 2), generator=torch.Generator().manual_seed(3))
    ids[ids == 4] = 5
    (found, _) = measure(model, [model.one, model.two], [ids[:7], ids[7:]])
    felt = (fisher(model(ids)) * model.two.weight.detach().double()[ids[:, 1]].square()).sum(dim=1)
    for row in range(9):
        own = ids[:, 0] == row
        assert found.seen[row] == int(own.sum())
        assert found.squares[row] == pytest.approx(float(felt[own].sum()), rel=1e-5)
    mean = float(felt.mean())
    expected = (found.squares / mean + PRIOR_LOOKUPS) / (found.seen + PRIOR_LOOKUPS)
    assert np.allclose(weigh_rows(found), expected, rtol=1e-5)
    assert weigh_rows(found)[4] == 1  # never looked up: as sensitive as the table


@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_rows_of_a_bag_share_its_gradient(mode):
    """A row of a mean of two has half the bag's gradient, a padding id none; weights of lookups multiply it."""
    model = nn.ModuleDict({"bag": nn.EmbeddingBag(6, 2, mode=mode, padding_idx=5), "last": nn.Linear(2, 1)})
    ids, offsets = torch.tensor([0, 1, 2, 5, 3]), torch.tensor([0, 2, 4])  # bags of 0 1, of 2 and padding, of 3
    weights = torch.tensor([2.0, 1.0, 3.0, 7.0, 1.0]) if mode == "sum" else None

    def forward(model, batch):
        return model["last"](model["bag"](ids, offsets, weights)).squeeze(1)

    (found,) = measure(model, [model["bag"]], [None], forward)
    felt = fisher(forward(model, None)).squeeze(1) * float(model["last"].weight.detach().double().square().sum())
    shares = [4, 1, 9, 1, 0, 0] if mode == "sum" else [0.25, 0.25, 1, 1, 0, 0]
    bags = [0, 0, 1, 2, 0, 0]
    assert np.allclose(found.squares, [share * float(felt[bag]) for share, bag in zip(shares, bags, strict=True)])
    assert float(found.moment.trace()) == pytest.approx(float(found.squares.sum()), rel=1e-5)
    assert found.lookups == 5


def test_bags_of_one_length_need_no_offsets_and_what_follows_the_last_is_not_read():
    """Ids [n, k] are bags of k; with a closing offset, ids beyond it count for nothing."""
    model = nn.ModuleDict({"bag": nn.EmbeddingBag(6, 2, mode="sum"), "last": nn.Linear(2, 1)})
    (square,) = measure(model, [model["bag"]], [torch.tensor([[0, 1], [2, 2]])], lambda m, b: m["last"](m["bag"](b)))
    assert square.seen.tolist() == [1, 1, 2, 0, 0, 0]
    closed = nn.ModuleDict(
        {"bag": nn.EmbeddingBag(6, 2, mode="sum", include_last_offset=True), "last": nn.Linear(2, 1)}
    )
    batch = (torch.tensor([0, 1, 2, 4, 4]), torch.tensor([0, 2, 3]))
    (cut,) = measure(closed, [closed["bag"]], [batch], lambda m, b: m["last"](m["bag"](*b)))
    assert cut.seen.tolist() == [1, 1, 1, 0, 0, 0]
    assert cut.squares[4] == 0 < cut.squares[2]


def test_the_number_of_threads_changes_no_bit():
    """Sums are added in the order of the batches, whoever makes them."""
    model = Product()
    batches = torch.randint(0, 9, (2000, 2), generator=torch.Generator().manual_seed(4)).split(100)
    alone, together = (measure(model, [model.one, model.two], batches, workers=workers) for workers in (1, 3))
    for one, other in zip(alone, together, strict=True):
        assert np.array_equal(one.moment, other.moment)
        assert np.array_equal(one.squares, other.squares)
        assert np.array_equal(one.seen, other.seen)


@pytest.mark.parametrize("mode", ["", "sum"])
def test_of_later_batches_a_part_stands_for_the_moment(mode):
    """Where batches are many and large, moments come from a quarter of each, and rows' own sensitivities from all."""
    one, last = (nn.EmbeddingBag(50, 3, mode="sum") if mode else nn.Embedding(50, 3)), nn.Linear(3, 1)
    model = nn.ModuleDict({"one": one, "last": last})

    def forward(model, ids):
        rows = model["one"](ids if mode else ids[:, 0])
        return (model["last"](rows.tanh()) + rows.square().sum(dim=1, keepdim=True)).squeeze(1)

    draw = torch.Generator().manual_seed(5)
    batches = torch.randint(0, 50, (40 * MANY, 2), generator=draw).split(MANY)
    (found,) = measure(model, [one], batches, forward)
    (whole,) = measure(model, [one], torch.cat(batches).split(MANY - 1), forward)
    assert found.lookups == whole.lookups == 40 * MANY * (2 if mode else 1)
    assert np.array_equal(found.seen, whole.seen)
    assert np.allclose(found.squares, whole.squares, rtol=1e-4)
    assert np.allclose(found.moment, whole.moment, rtol=0.1, atol=0.02 * whole.moment.max())
    assert not np.allclose(found.moment, whole.moment, rtol=1e-6)
    heads = [
        measure(model, [one], some, forward)[0] for some in (batches[:WHOLE_BATCHES], batches[: WHOLE_BATCHES + 1])
    ]
    of_first = measure(model, [one], batches[:WHOLE_BATCHES], forward, workers=2)[0]
    assert np.array_equal(heads[0].moment, of_first.moment)
    (last_one,) = measure(model, [one], batches[WHOLE_BATCHES : WHOLE_BATCHES + 1], forward)
    assert not np.allclose(heads[1].moment - heads[0].moment, last_one.moment, rtol=1e-6)


@pytest.mark.parametrize("fields", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("in_turns", [False, True])
def test_a_part_is_of_all_that_one_call_asks_for(fields, in_turns):
    """Whether fields of one table follow each other or come in turns, each has its share of the moment."""
    model, weight = nn.Embedding(50, fields), torch.eye(fields) * torch.arange(1, fields + 1)

    def forward(model, ids):
        rows = model(ids.flatten() if in_turns else ids.t().flatten())
        split = rows.view(-1, fields, fields) if in_turns else rows.view(fields, -1, fields).transpose(0, 1)
        return (split * weight).sum(dim=(1, 2)) * 0.01

    batches = torch.randint(0, 50, (40 * MANY, fields), generator=torch.Generator().manual_seed(6)).split(MANY)
    (found,) = measure(model, [model], batches, forward)
    (whole,) = measure(model, [model], torch.cat(batches).split(MANY // fields - 1), forward)
    assert np.allclose(np.diag(found.moment), np.diag(whole.moment), rtol=0.03)
    assert float(found.moment.trace()) == pytest.approx(float(found.squares.sum()), rel=0.03)


def test_a_table_that_nothing_feels_weighs_its_rows_alike():
    """Without a gradient there is no mean to be a multiple of."""
    assert weigh_rows(Sensitivity(np.zeros(3, np.float32), np.zeros(3, np.int32), np.zeros((1, 1)))).tolist() == [
        1,
        1,
        1,
    ]


def test_sensitivities_equal_finite_differences():
    """Moving one row of a table by a little: the logits move as the second moment says, for both tables."""
    model = TwoTables()
    ids = torch.tensor([[0, 4], [3, 1], [5, 0], [1, 2]])  # no id twice, so a row is a sample
    found = moments(model, [model.one, model.two], [ids])
    weight = fisher(model(ids))
    for column, table in enumerate((model.one, model.two)):
        dim, step = table.embedding_dim, 1e-5
        moment = torch.zeros(dim, dim, dtype=torch.float64)
        for sample, key in enumerate(ids[:, column].tolist()):
            gradient = torch.zeros(dim, dtype=torch.float64)
            for d in range(dim):
                answers = []
                for sign in (1, -1):
                    with torch.no_grad():
                        table.weight[key, d] += sign * step
                        answers.append(float(model(ids)[sample]))
                        table.weight[key, d] -= sign * step
                gradient[d] = (answers[0] - answers[1]) / (2 * step)
            moment += weight[sample] * torch.outer(gradient, gradient) / len(ids)
        assert torch.allclose(found[column], moment, rtol=1e-5, atol=1e-10)


def test_each_call_of_a_shared_table_counts():
    """A module that is called twice a sample has the mean over both calls."""

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(4, 2)

        def forward(self, ids):
            return self.table(ids[:, 0]) @ torch.tensor([1.0, 0.0]) + self.table(ids[:, 1]) @ torch.tensor([0.0, 3.0])

    model = Twice()
    ids = torch.zeros(5, 2, dtype=torch.int64)
    (found,) = moments(model, [model.table], [ids])
    expected = torch.tensor([[0.5, 0.0], [0.0, 4.5]], dtype=torch.float64) * fisher(model(ids)).mean()
    assert torch.allclose(found, expected)


def test_the_model_is_left_as_it_was():
    """Frozen parameters are no obstacle; no hook, gradient or flag stays behind, even after a failure."""
    model = TwoTables().requires_grad_(False)
    ids = torch.tensor([[0, 4], [3, 1]])
    before = model(ids)
    (found,) = moments(model, [model.one], [ids])
    assert float(found.diagonal().min()) > 0

    def fail(_model, _batch):
        raise KeyError("no such batch")

    with pytest.raises(KeyError):
        measure(model, [model.one], [ids], fail)
    assert not model.one._forward_hooks
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(model(ids), before)


def test_a_table_that_the_logit_ignores_has_none():
    """Looked up but unused: zeros, whose root is the identity."""

    class Ignores(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.used = nn.Embedding(4, 3), nn.Embedding(4, 1)

        def forward(self, ids):
            self.table(ids)
            return self.used(ids).squeeze(1)

    model = Ignores()
    found, _ = moments(model, [model.table, model.used], [torch.zeros(2, dtype=torch.int64)])
    assert found.tolist() == [[0.0] * 3] * 3
    assert torch.equal(root_of(found), torch.eye(3))


def test_a_table_that_is_never_called_is_no_failure():
    """No lookup of any table in the batches: nothing is known, and nothing raises."""
    model = nn.ModuleDict({"table": nn.Embedding(4, 3), "last": nn.Linear(2, 1)})
    (found,) = measure(model, [model["table"]], [torch.zeros(5, 2)], lambda m, b: m["last"](b).squeeze(1))
    assert torch.equal(root_of(mean_moment(found)), torch.eye(1))
    assert not found.seen.any()


def test_logits_without_a_gradient_are_refused():
    """A forward under no_grad is named, with what to do."""
    model = Product()

    @torch.no_grad()
    def blind(model, batch):
        return model(batch)

    with pytest.raises(ModelError, match="no_grad"):
        measure(model, [model.one], [torch.zeros(2, 2, dtype=torch.int64)], blind)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 8), st.integers(1, 12))
def test_roots_multiply_to_their_sensitivity(seed, dim, samples):
    """A A^T is G, but for directions of less than the floor, which are lifted to it."""
    gradients = torch.randn(samples, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    sensitivity = gradients.T @ gradients / samples
    root = root_of(sensitivity)
    assert root.dtype == torch.float32
    mean = float(sensitivity.diagonal().mean())
    error = (root.double() @ root.double().T - sensitivity).abs().max()
    assert float(error) <= (EIGENVALUE_FLOOR + 1e-5 * dim) * mean
    least = float(torch.linalg.eigvalsh(root.double() @ root.double().T).min())
    assert least >= EIGENVALUE_FLOOR * mean * 0.5


def test_the_root_of_nothing_is_the_identity():
    """A sensitivity of zeros says nothing about directions."""
    assert torch.equal(root_of(torch.zeros(3, 3, dtype=torch.float64)), torch.eye(3))
