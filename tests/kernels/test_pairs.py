"""Products of pairs where they are learnt from: the kernel against torch's own batched product."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx

from memrec_convert.models.pairs import multiply_pairs, pair_index

ORDERS = [*itertools.product((True, False), repeat=2)]


def run(stacked: torch.Tensor, pulls: torch.Tensor, *, lower: bool, itself: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """The products and the gradient of the vectors, where `pulls` is that of the products."""
    stacked = stacked.clone().requires_grad_(True)
    index = pair_index(stacked.shape[1], lower=lower, itself=itself)
    products = multiply_pairs(stacked, index, lower=lower, itself=itself)
    return products.detach(), torch.autograd.grad(products, stacked, pulls)[0]


@pytest.mark.parametrize(("lower", "itself"), ORDERS)
@pytest.mark.parametrize("vectors", [2, 4, 5, 12])
@pytest.mark.parametrize("dim", [16, 48, 24])
def test_products_and_gradients_are_those_of_torch(vectors, dim, lower, itself):
    """Also where the kernel does not take the width, for an empty batch, and for strided vectors."""
    order, draw = {"lower": lower, "itself": itself}, torch.Generator().manual_seed(vectors)
    index = pair_index(vectors, **order)
    for samples in (0, 1, 33):
        stacked = torch.randn(samples, dim, vectors, generator=draw).transpose(1, 2)
        pulls = torch.randn(samples, len(index), generator=draw)
        found = run(stacked, pulls, **order)
        wanted = run(stacked.double(), pulls.double(), **order)
        for mine, theirs in zip(found, wanted, strict=True):
            assert torch.allclose(mine, theirs.to(torch.float32), rtol=1e-4, atol=1e-4)


def test_bits_are_those_of_every_instruction_set(native):
    """The kernel's sums have one order."""
    draw, found, before = torch.Generator().manual_seed(1), {}, native.active()
    stacked, pulls = torch.randn(50, 7, 32, generator=draw), torch.randn(50, 21, generator=draw)
    for name in native.instruction_sets():
        assert native.choose(name)
        found[name] = run(stacked, pulls, lower=True, itself=False)
    native.choose(before)
    for one in found.values():
        assert all(torch.equal(mine, plain) for mine, plain in zip(one, found["scalar"], strict=True))


@pytest.mark.parametrize("itself", [True, False])
def test_gradients_of_gradients_and_transforms_stay_possible(itself):
    """A penalty on gradients, `jacrev`, and a trace give what torch's own product gives."""
    index, draw = pair_index(4, lower=True, itself=itself), torch.Generator().manual_seed(3)
    stacked = torch.randn(3, 4, 16, generator=draw)

    def penalty(vectors: torch.Tensor) -> torch.Tensor:
        given = vectors.clone().requires_grad_(True)
        products = multiply_pairs(given, index, lower=True, itself=itself)
        (first,) = torch.autograd.grad(products.square().sum(), given, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), given)
        return second

    assert torch.allclose(penalty(stacked), penalty(stacked.double()).float(), rtol=1e-3, atol=1e-2)
    jacobian = torch.func.jacrev(lambda one: multiply_pairs(one, index, lower=True, itself=itself))(stacked)
    assert jacobian.shape == (3, len(index), 3, 4, 16)


def test_a_recorded_graph_has_torch_s_own_product():
    """What is exported knows nothing of the kernel."""

    class Interaction(torch.nn.Module):
        def forward(self, stacked: torch.Tensor) -> torch.Tensor:
            return multiply_pairs(stacked, pair_index(4, lower=True, itself=False), lower=True, itself=False)

    stacked = torch.randn(3, 4, 16, generator=torch.Generator().manual_seed(3)).requires_grad_()
    program = torch.export.export(Interaction(), (stacked,))
    assert any("bmm" in str(node.target) for node in program.graph.nodes)
    assert torch.allclose(program.module()(stacked), Interaction()(stacked), atol=1e-5)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_other_devices_modes_and_kinds_of_gradients_have_torch_s_own_product():
    """A default device without memory, forward gradients, gradients in batches, and graphs of operators."""
    stacked = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(5)).requires_grad_()
    index = pair_index(5, lower=True, itself=False)

    def products(vectors: torch.Tensor) -> torch.Tensor:
        return multiply_pairs(vectors, index, lower=True, itself=False)

    with torch.device("meta"):
        found = torch.autograd.grad(products(stacked).square().sum(), stacked)[0]
    plain = torch.autograd.grad(products(stacked.double()).square().sum(), stacked)[0]
    assert torch.allclose(found, plain, rtol=1e-4, atol=1e-3)
    batched = torch.autograd.functional.jacobian(products, stacked, vectorize=True)
    assert torch.allclose(batched, torch.autograd.functional.jacobian(products, stacked), atol=1e-5)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(stacked, torch.ones_like(stacked))
        assert forward_ad.unpack_dual(products(dual)).tangent is not None
    graph = make_fx(products)(stacked)
    assert torch.allclose(graph(stacked + 1), products(stacked + 1), atol=1e-4)
