"""A compressed weight in torch's own modules: everything that torch does with it gives what its rows would give."""

from __future__ import annotations

import copy
import io
import os
import pickle
import signal

import pytest
import torch
from random_tables import BASES, random_table
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel

from memrec_convert.errors import ModelError
from memrec_convert.lookup import (
    CompressedEmbedding,
    CompressedEmbeddingBag,
    CompressedWeight,
    find_tables,
    hasten,
    hold_table,
)
from memrec_convert.lookup.in_place import DirectEmbedding, DirectEmbeddingBag
from memrec_convert.parallel import single_threaded_torch

IDS, OFFSETS = torch.tensor([1, 5, 3, 0, 2, 7]), torch.tensor([0, 2, 2])


def make_weight(base: str = "codes", kind: type = CompressedEmbedding, dtype=torch.float32, **choices) -> nn.Parameter:
    """A parameter over a random table of dim 8."""
    table = random_table(1, base, ("codes", "int8"), 8)
    module = kind(table.spec, name="t", group=table.group, **choices)
    module.fill(table.tensors)
    return hold_table(module, dtype)


class Net(nn.Module):
    """Rows, a bag, an output layer that is tied to the rows, and a product with all of them."""

    def __init__(self, base: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        rows, bags = make_weight(base), make_weight(base, CompressedEmbeddingBag, mode="mean")
        self.rows, self.bags = nn.Embedding(len(rows), 8, padding_idx=3), nn.EmbeddingBag(len(bags), 8, padding_idx=2)
        self.rows.weight, self.bags.weight = rows, bags
        self.mix, self.out = nn.Linear(16, 8), nn.Linear(8, len(rows))
        self.out.weight = rows

    def forward(self, ids: Tensor, many: Tensor) -> Tensor:
        """Numbers [B] of ids [B] and [B, 3]."""
        hidden = self.mix(torch.cat([self.rows(ids), self.bags(many)], 1))
        hidden = hidden + (self.rows.weight * 2)[ids]
        return self.out(hidden).amax(1) + (hidden @ self.rows.weight.T).sum(1) + self.rows(input=many).sum((1, 2))


def make_inputs(samples: int) -> tuple[Tensor, Tensor]:
    """Random input of the net."""
    draw = torch.Generator().manual_seed(samples)
    return torch.randint(0, 20, (samples,), generator=draw), torch.randint(0, 20, (samples, 3), generator=draw)


def plain_twin(net: Net) -> Net:
    """The net with its decoded rows as ordinary parameters."""
    twin = Net.__new__(Net)
    twin.__dict__.update(copy.deepcopy(net).__dict__)
    rows = nn.Parameter(net.rows.weight.dense().clone())
    twin.rows.weight = twin.out.weight = rows
    twin.bags.weight = nn.Parameter(net.bags.weight.dense().clone())
    return twin


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("kind", [CompressedEmbedding, CompressedEmbeddingBag])
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_every_call_of_embedding_bag_pools_the_rows(base, kind, mode):
    """Offsets, their end, a padding id (also counted from the back), norms and ids of int32; bags of one size."""
    weight = make_weight(base, kind)
    rows = weight.dense()
    calls = [
        {"offsets": OFFSETS},
        {"offsets": torch.tensor([0, 2, 6]), "include_last_offset": True},
        {"offsets": OFFSETS, "padding_idx": 3},
        {"offsets": OFFSETS, "padding_idx": 7 - len(rows)},
        {"offsets": OFFSETS, "max_norm": 0.5},
    ]
    for choices in calls:
        found = functional.embedding_bag(IDS, weight, mode=mode, **choices)
        torch.testing.assert_close(found, functional.embedding_bag(IDS, rows.clone(), mode=mode, **choices))
    many, offsets = IDS.view(2, 3).int(), OFFSETS.int()
    found = functional.embedding_bag(many, weight, mode=mode)
    torch.testing.assert_close(found, functional.embedding_bag(many, rows, mode=mode))
    found = functional.embedding_bag(IDS.int(), weight, offsets, mode=mode)
    torch.testing.assert_close(found, functional.embedding_bag(IDS.int(), rows, offsets, mode=mode))


@pytest.mark.parametrize("base", BASES)
def test_weights_per_sample_get_their_gradient(base):
    """As with plain rows, of a sum."""
    weight, given = make_weight(base), torch.randn(6, requires_grad=True)
    rows, gradients = weight.dense(), []
    for one in (weight, rows):
        pooled = functional.embedding_bag(IDS, one, OFFSETS, mode="sum", per_sample_weights=given)
        gradients.append(torch.autograd.grad(pooled.square().sum(), given)[0])
    torch.testing.assert_close(*gradients)


OPERATIONS = {
    "turned": lambda weight, h: h @ weight.T,
    "linear": lambda weight, h: functional.linear(h, weight, torch.ones(len(weight))),
    "from the left": lambda weight, h: weight @ h.T,
    "over the rows": lambda weight, h: torch.ones(2, len(weight)) @ weight + h.sum(),
    "in batches": lambda weight, h: h.view(2, 2, 8) @ weight.mT,
    "indexed": lambda weight, h: weight[IDS] + weight[-1] + weight[2:4].sum(0),
    "masked": lambda weight, h: weight[torch.arange(len(weight)) % 2 == 0],
    "one column": lambda weight, h: weight[:, 3],
    "turned and indexed": lambda weight, h: weight.t()[2],
    "permuted": lambda weight, h: weight.permute(1, 0) * 2 + weight.transpose(-1, -2),
    "normalised": lambda weight, h: functional.normalize(weight),
    "all rows": lambda weight, h: weight.sum() + weight.norm(dim=1),
}


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_all_else_sees_the_decoded_rows(base, operation, monkeypatch):
    """Products with some rows at a time among it, with gradients of the other factor, and in inference mode."""
    monkeypatch.setattr("memrec_convert.lookup.weight_calls.ROWS_AT_ONCE", 50)
    monkeypatch.setattr("memrec_convert.lookup.weight.ROWS_AT_ONCE", 50)
    weight, h = make_weight(base), torch.randn(4, 8, requires_grad=True)
    rows, act = weight.dense(), OPERATIONS[operation]
    torch.testing.assert_close(act(weight, h), act(rows, h), atol=1e-4, rtol=1e-4)
    with torch.inference_mode():
        torch.testing.assert_close(act(weight, h), act(rows, h), atol=1e-4, rtol=1e-4)
    if act(rows, h).requires_grad:
        found, wanted = (torch.autograd.grad(act(one, h).square().sum(), h)[0] for one in (weight, rows))
        torch.testing.assert_close(found, wanted, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("base", BASES)
def test_a_net_is_copied_pickled_and_cast_with_its_ties(base):
    """deepcopy, pickle, torch.save, a state dict and other dtypes; tied weights stay one object of their kind."""
    net, inputs = Net(base).eval(), make_inputs(5)
    buffer = io.BytesIO()
    torch.save(net, buffer)
    buffer.seek(0)
    copies = [copy.deepcopy(net), pickle.loads(pickle.dumps(net)), torch.load(buffer, weights_only=False)]
    with torch.no_grad():
        wanted = net(*inputs)
        for other in copies:
            assert other.rows.weight is other.out.weight
            assert isinstance(other.rows.weight, nn.Parameter)
            assert torch.equal(other(*inputs), wanted)
        other = copies[0]
        for table in find_tables(other):
            for part in table.buffers():
                part.zero_()
        other.load_state_dict(net.state_dict())
        assert torch.equal(other(*inputs), wanted)
        for dtype in (torch.bfloat16, torch.float64, torch.float32):
            other.to(dtype)
            assert other.rows.weight is other.out.weight
            assert other.rows.weight.dtype == other.rows(inputs[0]).dtype == other.bags(inputs[1]).dtype == dtype
        assert torch.equal(other.rows(inputs[0]), net.rows(inputs[0]))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("base", BASES)
def test_a_net_is_compiled_exported_and_traced(base, tmp_path):
    """In one piece, for batches of any size, and through the files of torch.export and torch.jit."""
    torch.compiler.reset()
    net, samples = Net(base).eval(), torch.export.Dim("samples", min=2, max=1000)
    inputs = make_inputs(5)
    with torch.inference_mode():
        traced = torch.jit.trace(net, inputs)
    made = [torch.compile(net, fullgraph=True, backend=backend) for backend in ("eager", "aot_eager")]
    with torch.no_grad():
        for strict in (True, False):
            program = torch.export.export(net, inputs, dynamic_shapes=({0: samples}, {0: samples}), strict=strict)
            torch.export.save(program, tmp_path / "net.pt2")
            made += [program.module(), torch.export.load(tmp_path / "net.pt2").module()]
    torch.jit.save(torch.jit.freeze(traced), tmp_path / "net.pt")
    made += [traced, torch.jit.load(tmp_path / "net.pt")]
    with torch.no_grad():
        for count in (5, 9, 30):
            inputs = make_inputs(count)
            wanted = plain_twin(net)(*inputs)
            for one in (net, *made):
                torch.testing.assert_close(one(*inputs), wanted, atol=1e-3, rtol=1e-4)


def test_a_weight_takes_over_its_own_rows():
    """What DDP sends to every rank, and a running average of the model, are the rows as they are: nothing changes."""
    net = Net("codes").eval()
    wanted = net.rows.weight.dense()
    with torch.no_grad():
        assert net.rows.weight.copy_(wanted.clone()) is net.rows.weight
        net.rows.weight.copy_(wanted.double())
    average = AveragedModel(net)
    average.update_parameters(net)
    average.update_parameters(net)
    assert isinstance(average.module.rows.weight, CompressedWeight)
    assert torch.equal(average.module.rows.weight.dense(), wanted)


@pytest.mark.filterwarnings("ignore")
def test_what_would_be_wrong_is_refused(tmp_path):
    """Writing into the weight, a state of another form, and the exporter that would store numbers of one batch."""
    net = Net("codes").eval()
    with pytest.raises(ModelError, match="in place"):
        nn.init.normal_(net.rows.weight)
    with pytest.raises(ModelError, match="in place"), torch.no_grad():
        net.rows.weight[0] = 0
    with pytest.raises(ModelError, match="in place"), torch.no_grad():
        net.rows.weight.copy_(net.rows.weight.dense() + 1)
    with pytest.raises(ModelError, match="same compression"), torch.no_grad():
        net.rows.weight.copy_(make_weight("mean"))
    hasten(net)
    for module in (net, net.out):
        with pytest.raises(ModelError, match=r"torch\.jit\.script"):
            torch.jit.script(module)
    with pytest.raises(ModelError, match="ONNX"):
        torch.onnx.export(net, make_inputs(4), tmp_path / "net.onnx", dynamo=False)


def test_a_weight_tells_of_itself_as_its_rows_would():
    """Shape, dtype, device and length; it prints without its numbers."""
    weight = make_weight(dtype=torch.bfloat16)
    rows = weight.dense()
    assert (weight.shape, weight.dtype, weight.device, len(weight)) == (rows.shape, rows.dtype, rows.device, len(rows))
    assert isinstance(weight.data, CompressedWeight)
    assert "bits" in repr(weight)
    assert len(repr(weight)) < 200
    torch.testing.assert_close(torch.from_numpy(weight.float().numpy()), rows.float(), atol=0.05, rtol=0.01)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert functional.linear(torch.ones(2, 8), weight).dtype == torch.bfloat16


def test_torchs_own_modules_take_the_direct_way():
    """They become subclasses with the same answers; a subclass of somebody's own stays what it is."""

    class Own(nn.Embedding):
        pass

    weight, bags = make_weight(), make_weight(kind=CompressedEmbeddingBag, mode="sum")
    net = nn.ModuleList([nn.Embedding(1, 8), nn.EmbeddingBag(1, 8, mode="sum"), Own(1, 8), nn.Embedding(4, 8)])
    for module, held in zip(net, (weight, bags, weight), strict=False):
        module.weight = held
    hasten(net)
    assert [type(module) for module in net] == [DirectEmbedding, DirectEmbeddingBag, Own, nn.Embedding]
    assert torch.equal(net[0](IDS), net[2](input=IDS))
    assert torch.equal(net[1](IDS, offsets=OFFSETS), functional.embedding_bag(IDS, bags, OFFSETS, mode="sum"))
    net[0].weight = nn.Parameter(torch.zeros(8, 8))
    assert not net[0](IDS).any()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore")
def test_a_forked_process_looks_rows_up():
    """What a server forks answers as its parent."""
    net, inputs = Net("codes").eval(), make_inputs(5)
    with torch.no_grad(), single_threaded_torch():  # torch's own products hang in a child of OpenMP threads
        wanted = net(*inputs)
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            os._exit(0 if torch.equal(net(*inputs), wanted) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
