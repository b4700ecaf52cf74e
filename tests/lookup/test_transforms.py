"""Compressed tables under torch.func's transforms, decomposed by torch.export, and in a traced model's file."""

from __future__ import annotations

import io

import pytest
import torch
from test_operator import make_module
from test_weight import Net, make_inputs, plain_twin
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, jvp, vmap
from torch.nn import functional

from memrec_convert.lookup import CompressedEmbedding, CompressedEmbeddingBag, hasten

IDS = torch.tensor([[1, 5, 3, 0], [2, 7, 4, 4], [0, 0, 6, 1]])
OFFSETS = torch.tensor([0, 1, 1])
WEIGHTS = torch.linspace(0, 1, 12).view(3, 4)
CALLS = {
    "rows": lambda net, ids, _: net.rows(ids),
    "rows by index": lambda net, ids, _: net.rows.weight[ids],
    "rows by function": lambda net, ids, _: functional.embedding(ids, net.rows.weight),
    "bags of one size": lambda net, ids, _: net.bags(ids.view(2, 2)),
    "bags": lambda net, ids, _: net.bags(ids, OFFSETS),
    "weighted bags": lambda net, ids, weights: functional.embedding_bag(
        ids, net.bags.weight, OFFSETS, mode="sum", per_sample_weights=weights
    ),
    "scores": lambda net, ids, _: net.out(net.rows(ids)),
    "nested": lambda net, ids, _: vmap(net.rows)(ids),
}


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_vmap_gives_what_the_rows_would_give(call):
    """Ids of every call at once, whatever reads the rows."""
    net = Net("codes").eval()
    twin = plain_twin(net)
    hasten(net)
    found, wanted = [vmap(lambda *one, net=net: call(net, *one))(IDS, WEIGHTS) for net in (net, twin)]
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("axis", [0, 1])
def test_vmap_over_modules_that_are_tables(axis):
    """Each call of a bag has its own offsets and weights; rows come for all calls at once."""
    rows = make_module(CompressedEmbedding, 1, "hashed", padding_idx=3)
    bag = make_module(CompressedEmbeddingBag, 2, "codes")

    def call(ids: Tensor, weights: Tensor) -> Tensor:
        return torch.cat([rows(ids), bag(ids, OFFSETS, weights)])

    found = vmap(call, in_dims=axis)(IDS.movedim(0, axis), WEIGHTS.movedim(0, axis))
    assert torch.equal(found, torch.stack([call(*one) for one in zip(IDS, WEIGHTS, strict=True)]))


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_derivatives_pass_by_the_table():
    """jacrev, grad and jvp of what comes after a lookup, or of a product with all rows."""
    net = Net("codes").eval()
    twin = plain_twin(net)
    hasten(net)
    hidden = torch.linspace(-1, 1, 8)

    def derive(net: Net) -> list[Tensor]:
        def mix(weight: Tensor) -> Tensor:
            return functional_call(net.mix, {"weight": weight}, torch.cat([net.rows(IDS), net.rows(IDS)], -1))

        def score(hidden: Tensor) -> Tensor:
            return (hidden @ net.rows.weight.T).logsumexp(0)

        return [jacrev(mix)(net.mix.weight.detach()), grad(score)(hidden), jvp(score, (hidden,), (hidden,))[1]]

    for found, wanted in zip(derive(net), derive(twin), strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("base", ["codes", "hashed"])
def test_an_exported_program_is_decomposed(base):
    """run_decompositions takes the weight apart; its tensors are what the operator reads."""
    net, inputs = Net(base).eval(), make_inputs(5)
    with torch.no_grad():
        program = torch.export.export(net, inputs).run_decompositions()
        torch.testing.assert_close(program.module()(*inputs), plain_twin(net)(*inputs), atol=1e-3, rtol=1e-4)


class Ranker(nn.Module):
    """One table under a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.out = Net("codes").rows, nn.Linear(8, 1)

    def forward(self, ids: Tensor) -> Tensor:
        """Numbers [B, 1] of ids [B]."""
        return self.out(self.rows(ids))


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_a_traced_model_says_what_its_file_needs_and_is_small(tmp_path):
    """Frozen, it goes into a file or a buffer without the rows that a compressed weight does not have."""
    net = Ranker().eval()
    hasten(net)
    with pytest.warns(UserWarning, match=r"torch\.jit\.freeze"):
        traced = torch.jit.trace(net, IDS[0])
    frozen, buffer = torch.jit.freeze(traced), io.BytesIO()
    torch.jit.save(frozen, buffer)
    torch.jit.save(frozen, tmp_path / "net.pt")
    buffer.seek(0)
    for again in (torch.jit.load(buffer), torch.jit.load(tmp_path / "net.pt")):
        assert torch.equal(again(IDS[1]), net(IDS[1]))
        assert not list(again.parameters())
