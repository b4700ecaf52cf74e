"""Products whose sums have one order: the same bits on every instruction set, and what torch gives but for rounding."""

from __future__ import annotations

import copy
import itertools
import pickle
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional

from memrec_convert.errors import ModelError
from memrec_convert.kernels.encoder import square_norms
from memrec_convert.kernels.ordered import OrderedLayers, compose, find_spectrum, multiply, sum_moment, take_root

SHAPES = [(0, 3, 5), (1, 1, 1), (7, 5, 1), (33, 98, 128), (64, 130, 17), (5, 16, 64)]


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Normal float32 numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def run_layer(shape: tuple[int, int, int], *, relu: bool, biased: bool, wide: bool = False) -> list[Tensor]:
    """A layer's answer and all its gradients: of the kernel, or of torch in double."""
    count, inputs, outputs = shape
    given = [draw(count, inputs), draw(outputs, inputs, seed=1), *([draw(outputs, seed=2)] if biased else [])]
    given = [(one.double() if wide else one).requires_grad_() for one in given]
    if wide:
        out = functional.linear(*given)
        out = out.relu() if relu else out
    else:
        out = OrderedLayers(learn=True).apply(*given, relu=relu)
    pulls = draw(*out.shape, seed=3).to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, given, pulls)]


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_layers_and_their_gradients_are_those_of_torch(shape, relu, biased):
    """For empty batches too."""
    found, wanted = (run_layer(shape, relu=relu, biased=biased, wide=wide) for wide in (False, True))
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine.shape == theirs.shape
        assert torch.allclose(mine, theirs.float(), rtol=1e-4, atol=1e-4)


def test_bits_are_those_of_every_instruction_set(native):
    """Layers, moments, spectra and what is composed of them."""
    found, before = {}, native.active()
    for name in native.instruction_sets():
        assert native.choose(name)
        bits = [one for shape in SHAPES for one in run_layer(shape, relu=True, biased=True)]
        for dim in (1, 3, 16, 20, 129):
            gradients, shares = draw(150, dim), draw(150, seed=1).double()
            moment, squares = sum_moment(gradients), square_norms(gradients)
            values, vectors = find_spectrum(moment)
            bits += [moment, squares, sum_moment(gradients, shares), values, vectors, compose(vectors, values)]
        found[name] = [one.flatten().numpy().tobytes() for one in bits]
    native.choose(before)
    for one in found.values():
        assert one == found["scalar"]


def test_products_are_rounded_once(native):
    """Each step of a sum is the float nearest to the exact one, subnormal or not, on all instruction sets."""
    wild = 2.0 ** torch.randint(-70, 50, (64, 2), generator=torch.Generator().manual_seed(2))
    rows, weight = draw(64, 2) * wild, draw(16, 2, seed=1) * 2.0 ** torch.arange(-80, 48, 8).unsqueeze(1)
    # what a sum leaves is as small as what its rounding to a wider type may lose
    rows[0], weight[0] = torch.tensor([1 + 2.0**-12, 2.0**-60]), torch.tensor([1 + 2.0**-12, -1.0])
    found, before = {}, native.active()
    for name in native.instruction_sets():
        assert native.choose(name)
        found[name] = run_bare(rows, weight, torch.zeros(16)).numpy()
    native.choose(before)
    for one in found.values():
        assert one.tobytes() == found["scalar"].tobytes()
    first = rows[:, :1].numpy() * weight[:, 0].numpy()  # one product is rounded once in any case
    with np.errstate(over="ignore"):
        for n, k in itertools.product(range(64), range(16)):
            exact = Fraction(float(rows[n, 1])) * Fraction(float(weight[k, 1])) + Fraction(float(first[n, k]))
            own, missed = found["scalar"][n, k], abs(Fraction(float(found["scalar"][n, k])) - exact)
            for beside in (np.nextafter(own, np.float32(-np.inf)), np.nextafter(own, np.float32(np.inf))):
                assert missed <= abs(Fraction(float(beside)) - exact)
    rows[:3] = torch.tensor([float("inf"), float("nan"), 3e38]).unsqueeze(1)
    for name in native.instruction_sets():
        assert native.choose(name)
        found[name] = run_bare(rows, weight, torch.zeros(16)).numpy()
    native.choose(before)
    for one in found.values():
        assert np.array_equal(one, found["scalar"], equal_nan=True)
    assert np.isinf(found["scalar"]).any()
    assert np.isnan(found["scalar"][1]).all()


@pytest.mark.parametrize("dim", [1, 7, 8, 33])
@pytest.mark.parametrize("count", [0, 1, 63, 200])
def test_moments_are_those_of_torch_in_double(count, dim):
    """With and without shares, and for rows that lie apart."""
    rows, shares = draw(count, 2 * dim)[:, :dim], draw(count, seed=1).double()
    wide = rows.double()
    for given in (None, shares):
        moment, squares = sum_moment(rows, given), square_norms(rows)
        weighed = wide if given is None else wide * given.unsqueeze(1)
        assert torch.allclose(moment, weighed.T @ wide, rtol=1e-12, atol=1e-12)
        assert torch.equal(moment, moment.T)
        assert torch.allclose(squares, wide.square().sum(dim=1))


def spectra() -> dict[str, Tensor]:
    """Symmetric matrices, some with many equal eigenvalues or of very different sizes."""
    half = draw(40, 40).double()
    low, few = draw(30, 2).double(), draw(500, 3).double() @ draw(3, 64).double()
    steep = torch.diag(10.0 ** torch.arange(-30, 30, 3, dtype=torch.float64))
    turn, _ = torch.linalg.qr(draw(20, 20).double())
    return {
        "one": torch.tensor([[3.0]], dtype=torch.float64),
        "two": torch.tensor([[1.0, 2.0], [2.0, -5.0]], dtype=torch.float64),
        "nothing": torch.zeros(5, 5, dtype=torch.float64),
        "identity": torch.eye(9, dtype=torch.float64),
        "diagonal": torch.diag(torch.tensor([3.0, -1.0, 3.0, 0.0, 7.0], dtype=torch.float64)),
        "full": half @ half.T,
        "indefinite": half + half.T,
        "two directions": low @ low.T,
        "blocks": torch.block_diag(half[:3, :3] @ half[:3, :3].T, torch.zeros(4, 4), half[:5, :5] @ half[:5, :5].T),
        "tiny": 1e-280 * (half @ half.T),
        "huge": 1e280 * (half @ half.T),
        "of few directions": few.T @ few,
        "graded": torch.outer(*[torch.tensor([1, 1e-160, 1e-161, 1e-162], dtype=torch.float64)] * 2),
        "steep": turn @ steep @ turn.T / 2 + (turn @ steep @ turn.T).T / 2,
        "chain": torch.diag(torch.ones(29).double(), 1) + torch.diag(torch.ones(29).double(), -1),
    }


@pytest.mark.parametrize("name", spectra())
def test_spectra_are_orthogonal_rise_and_compose_the_matrix(name):
    """And the values are those of LAPACK."""
    matrix = spectra()[name]
    values, vectors = find_spectrum(matrix)
    scale = float(matrix.abs().max()) or 1.0
    assert torch.allclose(vectors @ vectors.T, torch.eye(len(matrix), dtype=torch.float64), atol=1e-13)
    assert torch.allclose(compose(vectors, values) / scale, matrix / scale, atol=1e-13)
    assert torch.equal(values, values.sort().values)
    assert torch.allclose(values / scale, torch.linalg.eigvalsh(matrix / scale), atol=1e-13)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_have_no_spectrum(value):
    """A clear error, and no endless search."""
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[2, 1] = matrix[1, 2] = value
    with pytest.raises(ModelError, match="leaves the range of numbers"):
        find_spectrum(matrix)


def test_layers_follow_their_weights():
    """A weight that was written to is packed again; memory that another takes over is not mistaken for it."""
    layers, rows = OrderedLayers(), draw(9, 6)
    weight, bias = draw(4, 6, seed=1), draw(4, seed=2)
    for _ in range(3):
        assert torch.allclose(layers.apply(rows, weight, bias), functional.linear(rows, weight, bias), atol=1e-5)
        weight.mul_(-2)
        bias.add_(1)
    for seed in range(20):  # each new one may lie where the one before lay
        other = draw(4, 6, seed=100 + seed)
        assert torch.allclose(layers.apply(rows, other), functional.linear(rows, other), atol=1e-5)
    assert torch.allclose(layers.apply(rows, weight[:2]), functional.linear(rows, weight[:2]), atol=1e-5)


def test_weights_learn_where_asked_alone():
    """Rows have their gradients either way."""
    rows, weight, bias = draw(9, 6).requires_grad_(), draw(4, 6, seed=1).requires_grad_(), draw(4).requires_grad_()
    for learn in (True, False):
        out = OrderedLayers(learn=learn).apply(rows, weight, bias)
        found = torch.autograd.grad(out.sum(), [rows, weight, bias], allow_unused=True)
        assert [one is not None for one in found] == [True, learn, learn]
    assert not OrderedLayers().apply(rows.detach(), weight, bias).requires_grad


def test_matrices_multiply_with_gradients_for_both():
    """As torch's own."""
    rows, matrix = draw(50, 6).requires_grad_(), draw(6, 4).requires_grad_()
    for one in (rows, matrix):
        found = torch.autograd.grad(multiply(rows, matrix).square().sum(), one)[0]
        assert torch.allclose(found, torch.autograd.grad((rows @ matrix).square().sum(), one)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_gradients_of_gradients_and_other_tensors_go_through_torch():
    """A penalty on gradients, `jacrev`, forward gradients, batches of gradients, doubles and tensors without memory."""
    weight, bias = draw(4, 6, seed=1), draw(4, seed=2)

    def layer(rows: Tensor) -> Tensor:
        return OrderedLayers().apply(rows, weight.to(rows), bias.to(rows), relu=True)

    def penalty(rows: Tensor) -> Tensor:
        given = rows.clone().requires_grad_(True)
        (first,) = torch.autograd.grad(layer(given).square().sum(), given, create_graph=True)
        return torch.autograd.grad(first.square().sum(), given)[0]

    rows = draw(9, 6)
    assert torch.allclose(penalty(rows), penalty(rows.double()).float(), rtol=1e-3, atol=1e-3)
    assert torch.func.jacrev(layer)(rows).shape == (9, 4, 9, 6)
    batched = torch.autograd.functional.jacobian(layer, rows, vectorize=True)
    assert torch.allclose(batched, torch.autograd.functional.jacobian(layer, rows), atol=1e-5)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(rows, torch.ones_like(rows))
        assert forward_ad.unpack_dual(layer(dual)).tangent is not None
    assert layer(rows.to("meta")).shape == (9, 4)
    assert layer(rows.double()).dtype == torch.float64


@pytest.mark.parametrize("dim", [64, 128])
@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e-12])
def test_moments_of_few_directions_have_a_spectrum(dim, scale):
    """Gradients through a narrow layer leave nothing but rounding in most directions."""
    for seed in range(12):
        narrow = draw(200, 1 + seed % 5, seed=seed) @ draw(1 + seed % 5, dim, seed=seed) * scale
        graded = draw(100, dim, seed=seed) * torch.logspace(-12, 0, dim)
        for gradients in (narrow, graded):
            moment = sum_moment(gradients)
            values, vectors = find_spectrum(moment)
            assert float((values - torch.linalg.eigvalsh(moment)).abs().max()) <= 1e-13 * float(values[-1])
            assert torch.allclose(vectors @ vectors.T, torch.eye(dim, dtype=torch.float64), atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_the_default_dtype_and_device_do_not_matter(dtype):
    """What the kernel writes to has the size that it writes."""
    rows, weight, bias = draw(33, 6), draw(40, 6, seed=1), draw(40)
    moment, squares = sum_moment(rows), square_norms(rows)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"):
            assert run_bare(rows, weight, bias).dtype == torch.float32
            found = sum_moment(rows), square_norms(rows)
            assert find_spectrum(found[0])[0].dtype == torch.float64
        assert torch.allclose(run_bare(rows, weight, bias), functional.linear(rows, weight, bias), atol=1e-5)
    finally:
        torch.set_default_dtype(before)
    assert torch.equal(found[0], moment)
    assert torch.equal(found[1], squares)


def run_bare(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A layer without gradients."""
    return OrderedLayers().apply(rows, weight, bias)


def test_what_does_not_fit_is_refused_by_torch():
    """Rows of another width, a bias of another length, tensors of inference; a bias of one is spread."""
    layers = OrderedLayers()
    for rows, weight, bias in ((draw(3, 4), draw(5, 6), None), (draw(3, 6), draw(5, 6), draw(4))):
        with pytest.raises(RuntimeError):
            layers.apply(rows, weight, bias)
    wide = layers.apply(draw(3, 6), draw(5, 6), draw(1))
    assert torch.allclose(wide, functional.linear(draw(3, 6), draw(5, 6), draw(1)), atol=1e-5)
    with torch.inference_mode():
        assert layers.apply(draw(3, 6), draw(5, 6)).shape == (3, 5)


def test_copies_and_many_weights_keep_no_memory():
    """The kernel's copies are not copied, and those of weights that come and go are forgotten."""
    layers = OrderedLayers(learn=True)
    for seed in range(1500):
        layers.apply(draw(2, 3), draw(1, 3, seed=seed))
    assert len(layers._packed) <= 1024
    twin = copy.deepcopy(layers)
    assert twin.learn
    assert not twin._packed
    assert not pickle.loads(pickle.dumps(layers))._packed


def test_roots_are_rounded_correctly():
    """As numpy's."""
    values = draw(1000).double().abs()
    assert np.array_equal(take_root(values).numpy(), np.sqrt(values.numpy()))
    assert take_root(values[:0]).shape == (0,)
