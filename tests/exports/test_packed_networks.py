"""Known networks and models of users over packed tables: they give what the artifact gives, and export whole."""

from __future__ import annotations

import pytest
import torch
from test_golden_samples import KINDS, takes
from tiny_networks import NETWORKS, make_table, save_network
from torch import Tensor, nn

from memrec_convert.errors import ModelError
from memrec_convert.exports.export import read_subject
from memrec_convert.exports.packed_model import pack_model
from memrec_convert.exports.packed_network import build_network
from memrec_convert.exports.pt2 import export_program
from memrec_convert.lookup import CompressedEmbedding, hold_table

pytestmark = pytest.mark.usefixtures("operators")


@pytest.mark.parametrize("inputs", KINDS)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_gives_its_golden_samples(name, inputs, tmp_path):
    """Eager and exported, and exported for batches and bags of other sizes too."""
    path = save_network(name, tmp_path)
    if not takes(name, inputs):
        pytest.skip("the network takes no such inputs")
    subject = read_subject(path, inputs)
    network, feeds = build_network(subject), subject.golden.feeds
    tensors = tuple(map(torch.from_numpy, feeds.values()))
    names = ["logit"] if subject.golden.logits is not None else list(subject.golden.digests)
    with torch.no_grad():
        program = export_program(network, tensors, list(feeds)).module()
        for run in (network, program):
            found = run(*tensors)
            outputs = [found] if isinstance(found, Tensor) else found
            assert subject.golden.compare({n: one.numpy() for n, one in zip(names, outputs, strict=True)}, name) < 1e-6
        fewer = tuple(cut_batch(feeds, 5))
        expected, found = network(*fewer), program(*fewer)
        for one, other in zip(*([out] if isinstance(out, Tensor) else out for out in (expected, found)), strict=True):
            assert torch.equal(one, other)


def cut_batch(feeds, samples):
    """The first samples of each feed."""
    for name, feed in feeds.items():
        kind, _, number = name.partition("_")
        offsets = feeds.get(f"offsets_{number}")
        bagged = kind in ("ids", "weights") and offsets is not None
        yield torch.from_numpy(feed[: offsets[samples]] if bagged else feed[:samples])


class Own(nn.Module):
    """A model of a user's class: a word table, and bags of one table in two ways."""

    def __init__(self) -> None:
        super().__init__()
        tables = [make_table(number, 8, bag=number > 0, mode="sum") for number in range(3)]
        self.words = nn.Embedding(tables[0].spec.rows, 8)
        self.sums = nn.EmbeddingBag(tables[1].spec.rows, 8, mode="sum", include_last_offset=True)
        self.means = nn.EmbeddingBag(tables[2].spec.rows, 8, mode="mean", padding_idx=3)
        for module, table in zip((self.words, self.sums, self.means), tables, strict=True):
            table.oov = "clip"
            module.weight = hold_table(table, torch.float32)
        self.last = nn.Linear(8, 1)

    def forward(self, words: Tensor, ids: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
        """Numbers [B] of words [B, 4], and bags of ids [n]."""
        sums = self.sums(ids, offsets, per_sample_weights=weights)
        return self.last(self.words(words).sum(1) + sums + self.means(words)).flatten()


def make_inputs(samples: int) -> tuple[Tensor, ...]:
    """Random input of `Own`."""
    draw = torch.Generator().manual_seed(samples)
    words = torch.randint(-3, 60, (samples, 4), generator=draw)
    offsets = torch.arange(samples + 1) * 2
    return words, torch.randint(0, 60, (2 * samples,), generator=draw), offsets, torch.rand(2 * samples, generator=draw)


def test_a_model_of_ones_own_class():
    """Its copy looks up in packed tables, gives the same numbers, and exports without a Python operator."""
    model = Own().eval()
    packed = pack_model(model)
    assert isinstance(model.words, nn.Embedding)
    assert packed.words.tables.packed.data_ptr() == packed.means.tables.packed.data_ptr()
    batch = torch.export.Dim("batch", min=2)
    shapes = ({0: batch}, {0: 2 * batch}, {0: batch + 1}, {0: 2 * batch})
    with torch.no_grad():
        program = torch.export.export(packed, make_inputs(4), dynamic_shapes=shapes)
        called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
        assert {name for name in called if name.startswith("memrec")} == {
            "memrec.look_up_ids.default",
            "memrec.look_up_bags.default",
        }
        for samples in (4, 9):
            inputs = make_inputs(samples)
            assert torch.equal(packed(*inputs), model(*inputs))
            assert torch.equal(program.module()(*inputs), model(*inputs))


def test_bags_without_an_end_and_in_rows():
    """Offsets without the end, rows of ids, and halves, as the module that was there took them."""
    model = nn.Sequential(nn.EmbeddingBag(31, 8, mode="sum"))
    table = make_table(1, 8, bag=True, mode="sum")
    model[0].weight = hold_table(table, torch.bfloat16)
    packed, ids = pack_model(model), torch.arange(12) % 31
    for arguments in ((ids, torch.tensor([0, 5, 5])), (ids.view(4, 3),)):
        found = packed[0](*arguments)
        assert found.dtype == torch.bfloat16
        assert torch.equal(found, model[0](*arguments))
    with pytest.raises(ValueError, match="need offsets"):
        packed[0](ids)


def test_what_has_no_operator_is_named():
    """A module with a hook, a weight that is used elsewhere, and a model without tables."""
    model = Own()
    model.words.register_forward_hook(lambda *_: None)
    with pytest.raises(ModelError, match="words is a Embedding that does more"):
        pack_model(model)
    tied = Own()
    tied.again = nn.Linear(8, tied.words.num_embeddings, bias=False)
    tied.again.weight = tied.words.weight
    with pytest.raises(ModelError, match=r"again\.weight is a compressed weight with another use"):
        pack_model(tied)
    with pytest.raises(ModelError, match="no compressed table"):
        pack_model(nn.Linear(2, 2))
    module = CompressedEmbedding(make_table(0, 8, bag=False, mode="sum").spec)
    assert pack_model(nn.Sequential(module))[0].tables.width == 8
