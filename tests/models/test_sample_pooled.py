"""The sample-pooled model: one vector per sample, keys that keep features apart, and a start that is no saddle."""

import mmh3
import numpy as np
import pytest
import torch

from memrec_convert.errors import ModelError
from memrec_convert.models import build_model
from memrec_convert.models.sample_pooled import KEY_STRIDE, PooledSizes, SamplePooled, pooled_architecture

ORIGINAL = {"tables": [[1000, 4], [50, 4], [7, 4]], "bottom": [2, 8, 4], "top": [10, 6, 1], "dense_transform": "log1p"}


def make(**sizes):
    """A small model of these sizes."""
    torch.manual_seed(0)
    given = {"D": 64, "l": 5, "K": 2, "dw": 32, "kw": 3} | sizes
    return SamplePooled(pooled_architecture(ORIGINAL, PooledSizes(**given), input_names=["a", "b", "c"]))


def randomise(model):
    """Weights that differ, so that a wrong place shows."""
    with torch.no_grad():
        model.weights.normal_()
    return model


def test_the_pooled_vector_is_the_sum_over_features_and_hashes():
    """V and alpha as the definition has them, hashes by an independent implementation."""
    model = randomise(make())
    ids = [[999, 49, 6], [0, 0, 0]]
    expected = []
    for row in ids:
        total, alpha = np.zeros(5), 0.0
        for feature, one in enumerate(row):
            key = (feature * 430_000_000 + one).to_bytes(8, "little", signed=True)
            for seed in range(3):
                h1 = mmh3.hash64(key, seed, x64arch=True, signed=False)[0]
                if seed < 2:
                    total += model.tokens[((h1 >> 32) * 64) >> 32].detach().numpy()
                alpha += model.weights[((h1 & 0xFFFFFFFF) * 32) >> 32].item()
        expected.append(alpha * total)
    with torch.no_grad():
        np.testing.assert_allclose(model.pool(torch.tensor(ids)).numpy(), expected, rtol=1e-5, atol=1e-6)


def test_features_are_kept_apart():
    """The same id means another token in another feature: the key holds the feature's number."""
    model = make()
    tokens, weights = model.locate(torch.arange(500)[:, None] + KEY_STRIDE * torch.arange(3))
    same = (tokens[:, 0] == tokens[:, 1]).float().mean()
    assert same < 5 / 64  # by chance alone 1 in 64
    assert tokens.max() < 64
    assert weights.max() < 32


@pytest.mark.parametrize("sizes", [{}, {"kw": 0, "dw": 0}, {"K": 1, "kw": 1}])
def test_bags_of_one_id_give_what_single_ids_give(sizes):
    """A log that is multi-hot somewhere is read in bags: for bags of one, nothing changes."""
    model = randomise(make(**sizes))
    ids = torch.stack([torch.randint(high, (9,)) for high in (1000, 50, 7)], dim=1)
    bags = [(ids[:, n].contiguous(), torch.arange(9), None) for n in range(3)]
    with torch.no_grad():
        torch.testing.assert_close(model.pool(bags), model.pool(ids))


def test_empty_bags_add_nothing():
    """A sample without an id of a feature pools the others."""
    model = randomise(make(K=1))
    one, none = torch.tensor([5]), torch.zeros(0, dtype=torch.int64)
    start = torch.tensor([0])
    with torch.no_grad():
        alone = model.pool([(one, start), (none, start), (none, start)])
        tokens, weights = model.locate(one)
        expected = model.tokens[tokens[:, 0]] * model.weights[weights].sum()
        torch.testing.assert_close(alone, expected)


def test_the_released_scale_starts_at_a_saddle_and_the_balanced_one_does_not():
    """Released: z of about 1e-4 at D = 75,000, and gradients as small. Balanced: entries of z have unit variance."""
    ids = torch.stack([torch.randint(high, (512,)) for high in (1000, 50, 7)], dim=1)
    spreads, gradients = {}, {}
    for init in ("released", "balanced"):
        model = make(D=75_000, K=1, dw=75_000, kw=1)
        model.reset_tables(init)
        z = model.pool(ids)
        spreads[init] = float(z.detach().std())
        z.sum().backward()
        gradients[init] = float(model.tokens.grad.abs().max())
    assert spreads["released"] < 1e-4
    assert 0.7 < spreads["balanced"] < 1.3
    assert gradients["released"] < 0.01 * gradients["balanced"]


def test_an_architecture_makes_the_model_again():
    """The registry builds it by name, with tensors of the same names and shapes."""
    model = make()
    again = build_model(pooled_architecture(ORIGINAL, model.sizes, input_names=["a", "b", "c"]), [])
    shapes = [{name: tuple(t.shape) for name, t in one.state_dict().items()} for one in (model, again)]
    assert shapes[0] == shapes[1]
    assert shapes[0]["top.0.weight"] == (6, 4 + 5)


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"K": 0}, "K is 0"),
        ({"D": 0}, "D is 0"),
        ({"D": 1}, "D is 1, smaller than K = 2"),
        ({"dw": 2}, "dw is 2, smaller than kw = 3"),
        ({"kw": -1}, "kw is -1"),
        ({"l": 0}, "l is 0"),
    ],
)
def test_sizes_that_make_no_model_are_refused(sizes, words):
    """No token, no width, or fewer entries than an id sums."""
    with pytest.raises(ModelError, match=words):
        make(**sizes)


def test_what_does_not_fit_is_refused():
    """Tables of rows, another number of inputs, an unknown scale, and rows beyond the keys' distance."""
    model = make()
    architecture = pooled_architecture(ORIGINAL, model.sizes, input_names=["a", "b", "c"])
    with pytest.raises(ModelError, match="no tables of rows"):
        build_model(architecture, [torch.nn.Identity()])
    with pytest.raises(ModelError, match="ids for 2 inputs"):
        model(torch.zeros(1, 2), torch.zeros(1, 2, dtype=torch.int64))
    with pytest.raises(ModelError, match="'tiny' is not known"):
        model.reset_tables("tiny")
    with pytest.raises(ModelError, match="more than 430000000 rows"):
        SamplePooled(architecture | {"tables": [[430_000_001, 4], [50, 4], [7, 4]]})
    with pytest.raises(ModelError, match="D: expected a whole number"):
        SamplePooled({name: value for name, value in architecture.items() if name != "D"})
