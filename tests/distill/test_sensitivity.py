"""The metric of a table: second moments of the logit's gradient, and their roots."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from memrec_convert.distill.sensitivity import EIGENVALUE_FLOOR, measure_sensitivities, root_of
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


def test_a_linear_model_has_the_outer_product_of_its_weights():
    """logit = e w: the gradient is w for every lookup."""
    model = nn.Sequential(nn.EmbeddingBag(10, 3), nn.Linear(3, 1))
    (found,) = measure_sensitivities(model, [model[0]], [torch.randint(0, 10, (8, 1))], call)
    weight = model[1].weight.detach().double()
    assert torch.allclose(found, weight.T @ weight)


def test_a_product_has_the_second_moment_of_the_other_table():
    """logit = <a, b>: the sensitivity of a is the mean of b b^T over all batches, of unequal size too."""
    model = Product()
    ids = torch.randint(0, 9, (40, 2), generator=torch.Generator().manual_seed(2))
    found = measure_sensitivities(model, [model.one, model.two], [ids[:7], ids[7:]], call)
    for one, other in ((found[0], model.two.weight[ids[:, 1]]), (found[1], model.one.weight[ids[:, 0]])):
        wide = other.detach().double()
        assert torch.allclose(one, wide.T @ wide / 40)


def test_sensitivities_equal_finite_differences():
    """Moving one row of a table by a little: the logits move as the second moment says, for both tables."""
    model = TwoTables()
    ids = torch.tensor([[0, 4], [3, 1], [5, 0], [1, 2]])  # no id twice, so a row is a sample
    found = measure_sensitivities(model, [model.one, model.two], [ids], call)
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
            moment += torch.outer(gradient, gradient) / len(ids)
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
    (found,) = measure_sensitivities(model, [model.table], [torch.zeros(5, 2, dtype=torch.int64)], call)
    assert found.tolist() == [[0.5, 0.0], [0.0, 4.5]]


def test_the_model_is_left_as_it_was():
    """Frozen parameters are no obstacle; no hook, gradient or flag stays behind, even after a failure."""
    model = TwoTables().requires_grad_(False)
    ids = torch.tensor([[0, 4], [3, 1]])
    before = model(ids)
    (found,) = measure_sensitivities(model, [model.one], [ids], call)
    assert float(found.diagonal().min()) > 0

    def fail(_model, _batch):
        raise KeyError("no such batch")

    with pytest.raises(KeyError):
        measure_sensitivities(model, [model.one], [ids], fail)
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
    found, _ = measure_sensitivities(model, [model.table, model.used], [torch.zeros(2, dtype=torch.int64)], call)
    assert found.tolist() == [[0.0] * 3] * 3
    assert torch.equal(root_of(found), torch.eye(3))


def test_a_table_that_is_never_called_is_no_failure():
    """No lookup of any table in the batches: nothing is known, and nothing raises."""
    model = nn.ModuleDict({"table": nn.Embedding(4, 3), "last": nn.Linear(2, 1)})
    found = measure_sensitivities(model, [model["table"]], [torch.zeros(5, 2)], lambda m, b: m["last"](b).squeeze(1))
    assert torch.equal(found[0], torch.eye(len(found[0]), dtype=torch.float64))


def test_logits_without_a_gradient_are_refused():
    """A forward under no_grad is named, with what to do."""
    model = Product()

    @torch.no_grad()
    def blind(model, batch):
        return model(batch)

    with pytest.raises(ModelError, match="no_grad"):
        measure_sensitivities(model, [model.one], [torch.zeros(2, 2, dtype=torch.int64)], blind)


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
