"""Token and weight tables fitted to rows: least squares, solved as far as its steps go, then rounded."""

import itertools

import mmh3
import numpy as np
import pytest
import torch

from memrec_convert.distill import hashed
from memrec_convert.distill import rows as rows_module
from memrec_convert.distill.hashed import HashedTable, fit_hashed
from memrec_convert.distill.rows import TensorRows
from memrec_convert.encoding import HashSpec
from memrec_convert.lookup import HashGroup

DIM, TOKENS = 3, 40


def make_table(seed, n=400, *, hash_seed=5, centre=None):
    """A table of random rows whose weights span three orders of magnitude."""
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randn(n, DIM, generator=draw) + 0.3
    weights = (1.5 * torch.randn(n, generator=draw)).exp().numpy()
    return HashedTable(TensorRows(rows), hash_seed, torch.zeros(DIM) if centre is None else centre, weights)


def make_spec(k, *, k_weights=0, codec="fp32"):
    """A group of TOKENS tokens, and three blocks of weights where there are any."""
    return HashSpec("g", DIM, TOKENS, k, blocks=3 if k_weights else 0, k_weights=k_weights, token_codec=codec)


def tokens_of(n, seed, k):
    """The tokens of ids 0..n-1 after mmh3, int64 [n, k]."""
    found = np.empty((n, k), dtype=np.int64)
    for key in range(n):
        h1, h2 = mmh3.hash64(key.to_bytes(8, "little", signed=True), seed, x64arch=True, signed=False)
        found[key] = [((((h1 + j * h2) % 2**64) >> 32) * TOKENS) >> 32 for j in range(k)]
    return found


def design_of(table, k):
    """The matrix [n, TOKENS] that maps tokens to rows."""
    n = len(table.weights)
    design = np.zeros((n, TOKENS))
    for column in tokens_of(n, table.seed, k).T:
        np.add.at(design, (np.arange(n), column), 1.0)
    return design


def loss_of(table, distances):
    """Summed weight * squared distance."""
    return float((table.weights.astype(np.float64) * distances).sum())


def test_one_token_is_the_weighted_mean_of_its_bucket(monkeypatch):
    """k = 1 and no weights: M holds the bucket means in closed form; a bucket that nobody hits stays zero."""
    monkeypatch.setattr(hashed, "TOKEN_STEPS", 60)
    table = make_table(0, n=90)
    found = fit_hashed(make_spec(1), [table]).tensors["tokens"].numpy()
    buckets = tokens_of(90, table.seed, 1)[:, 0]
    rows = table.reader.tensor.numpy()
    assert len(set(range(TOKENS)) - set(buckets)) > 0
    for bucket in range(TOKENS):
        own = buckets == bucket
        want = np.average(rows[own], axis=0, weights=table.weights[own]) if own.any() else np.zeros(DIM)
        assert found[bucket] == pytest.approx(want, abs=1e-3)


def test_few_steps_come_near_the_optimum():
    """With the steps that conversion takes, one and two tokens lose at most a thousandth more than least squares."""
    for k in (1, 2):
        table = make_table(1)
        weights = np.sqrt(table.weights.astype(np.float64))[:, None]
        design, rows = weights * design_of(table, k), weights * table.reader.tensor.numpy()
        best = float(((design @ np.linalg.lstsq(design, rows, rcond=None)[0] - rows) ** 2).sum())
        assert best * 0.9999 < loss_of(table, fit_hashed(make_spec(k), [table]).distances[0]) < best * 1.001


def test_the_solution_satisfies_the_normal_equations(monkeypatch):
    """After enough steps X^T P (X M - T) vanishes."""
    monkeypatch.setattr(hashed, "TOKEN_STEPS", 150)
    table = make_table(2)
    found = fit_hashed(make_spec(3), [table]).tensors["tokens"].numpy().astype(np.float64)
    design, rows = design_of(table, 3), table.reader.tensor.numpy()
    gradient = design.T @ (table.weights[:, None] * (design @ found - rows))
    at_zero = design.T @ (table.weights[:, None] * rows)
    assert np.abs(gradient).max() < 1e-4 * np.abs(at_zero).max()


def test_more_steps_are_never_worse(monkeypatch):
    """Each step of conjugate gradients lowers the loss, or leaves it."""
    table, losses = make_table(3), []
    for steps in (0, 1, 2, 3, 5, 8, 12, 20):
        monkeypatch.setattr(hashed, "TOKEN_STEPS", steps)
        losses.append(loss_of(table, fit_hashed(make_spec(2), [table]).distances[0]))
    assert all(later <= earlier * (1 + 1e-6) for earlier, later in itertools.pairwise(losses))
    assert losses[-1] < 0.99 * losses[0]


def test_more_rounds_with_weights_are_never_worse(monkeypatch):
    """M and W in turn: each round lowers the loss, below that of tokens alone."""
    table, losses = make_table(4), []
    for rounds in (1, 2, 3, 5):
        monkeypatch.setattr(hashed, "ROUNDS", rounds)
        losses.append(loss_of(table, fit_hashed(make_spec(2, k_weights=4), [table]).distances[0]))
    assert all(later <= earlier * (1 + 1e-4) for earlier, later in itertools.pairwise(losses))
    assert losses[-1] < loss_of(table, fit_hashed(make_spec(2), [table]).distances[0])


@pytest.mark.parametrize("k_weights", [0, 4])
@pytest.mark.parametrize("codec", ["int8", "fp32"])
def test_distances_are_those_of_the_reference(monkeypatch, k_weights, codec):
    """What the fit says each row loses is what decoding its tensors gives, centre included, chunk by chunk."""
    monkeypatch.setattr(rows_module, "BYTES_PER_CHUNK", 1000)
    spec = make_spec(2, k_weights=k_weights, codec=codec)
    tables = [make_table(5, hash_seed=7), make_table(6, n=90, hash_seed=8, centre=torch.tensor([1.0, -2.0, 0.5]))]
    fit = fit_hashed(spec, tables)
    group = HashGroup(spec)
    assert {name: (t.dtype, tuple(t.shape)) for name, t in fit.tensors.items()} == spec.tensors()
    for name, tensor in fit.tensors.items():
        setattr(group, name, tensor)
    for table, distances in zip(tables, fit.distances, strict=True):
        rows = group.encode(torch.arange(len(table.weights)), table.seed) + table.centre
        want = (rows - table.reader.tensor).square().sum(dim=1).numpy()
        assert distances == pytest.approx(want, rel=1e-3, abs=1e-4)


def test_rounding_to_int8_costs_little():
    """Entries within 127, the largest one near it, and a loss within one percent of fp32 tokens."""
    table = make_table(7)
    wide = fit_hashed(make_spec(2, k_weights=4), [table])
    fit = fit_hashed(make_spec(2, k_weights=4, codec="int8"), [table])
    largest = int(fit.tensors["tokens"].abs().max())
    assert 120 <= largest <= 127
    assert float(fit.tensors["scale"]) > 0
    assert loss_of(table, fit.distances[0]) < 1.01 * loss_of(table, wide.distances[0])


def test_one_outlier_does_not_coarsen_the_others():
    """An entry a thousand times the others is cut at 127; the rest keep their steps."""
    rows = torch.randn(20_000, DIM, generator=torch.Generator().manual_seed(8))
    rows[77] = 3000.0
    spec = HashSpec("g", DIM, 10_000, 1)
    fit = fit_hashed(spec, [HashedTable(TensorRows(rows), 1, torch.zeros(DIM), np.ones(20_000, dtype=np.float32))])
    assert float(fit.tensors["scale"]) < 0.1
    assert int((fit.tensors["tokens"] == 127).sum()) < 20


def test_rows_of_no_weight_have_no_say():
    """Whatever they hold, M is fitted as if they were not there."""
    table = make_table(9)
    table.weights[::3] = 0
    calm = fit_hashed(make_spec(2, k_weights=4), [table]).tensors
    table.reader.tensor[::3] = 1e4
    assert all(
        torch.equal(tensor, calm[name])
        for name, tensor in fit_hashed(make_spec(2, k_weights=4), [table]).tensors.items()
    )


def test_tables_share_one_group():
    """Two tables fitted together lose no less than each alone, and the seed keeps their ids apart."""
    one, two = make_table(10, hash_seed=1), make_table(11, hash_seed=2)
    together = fit_hashed(make_spec(1), [one, two])
    for table, distances in zip((one, two), together.distances, strict=True):
        assert loss_of(table, distances) > loss_of(table, fit_hashed(make_spec(1), [table]).distances[0])
    twin = make_table(10, hash_seed=2)
    assert not np.array_equal(together.distances[0], fit_hashed(make_spec(1), [twin, two]).distances[0])


def test_the_fit_is_deterministic():
    """The same tables give the same bits."""
    spec = make_spec(2, k_weights=4, codec="int8")
    one, two = (fit_hashed(spec, [make_table(12)]).tensors for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in spec.tensors())


def test_a_table_of_zeros_is_fitted_with_zeros():
    """No division by zero: finite tensors, and no loss."""
    table = HashedTable(TensorRows(torch.zeros(50, DIM)), 1, torch.zeros(DIM), np.ones(50, dtype=np.float32))
    fit = fit_hashed(make_spec(2, k_weights=2, codec="int8"), [table])
    assert all(bool(torch.isfinite(tensor.float()).all()) for tensor in fit.tensors.values())
    assert fit.distances[0].max() == 0


def test_a_table_without_cold_ids_has_no_say():
    """All ids of a table may have codes of their own: nothing of it is fitted, and the others' fit is as without it."""
    empty = HashedTable(TensorRows(torch.zeros(0, DIM)), 6, torch.zeros(DIM), np.zeros(0, dtype=np.float32))
    for k_weights in (0, 4):
        spec = make_spec(2, k_weights=k_weights)
        alone, beside = fit_hashed(spec, [make_table(1)]), fit_hashed(spec, [make_table(1), empty])
        assert beside.distances[1].shape == (0,)
        assert np.array_equal(alone.distances[0], beside.distances[0])
        assert all(torch.equal(tensor, beside.tensors[name]) for name, tensor in alone.tensors.items())
        assert not fit_hashed(spec, [empty]).tensors["tokens"].any()
