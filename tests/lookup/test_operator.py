"""The lookup as a torch operator: models compile and export through it, and give what they give without."""

from __future__ import annotations

import pytest
import torch
from random_tables import BASES, random_table
from torch import Tensor, nn

from memrec_convert.lookup import CompressedEmbedding, CompressedEmbeddingBag
from memrec_convert.lookup.tracing import embed

PADDING = 3


def make_module(kind: type, seed: int, base: str, **choices: object) -> CompressedEmbedding | CompressedEmbeddingBag:
    """A filled module over a random table of dim 8."""
    table = random_table(seed, base, ("codes", "int8"), 8)
    module = kind(table.spec, name=f"t{seed}", group=table.group, **choices)
    module.fill(table.tensors)
    return module


class SmallModel(nn.Module):
    """A bag over every base form and an embedding, under one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.bags = nn.ModuleList(make_module(CompressedEmbeddingBag, n, base) for n, base in enumerate(BASES))
        self.means = make_module(CompressedEmbeddingBag, 7, "codes", mode="mean", padding_idx=PADDING)
        self.words = make_module(CompressedEmbedding, 8, "hashed", padding_idx=PADDING)
        self.last = nn.Linear(8 * 7, 1)

    def forward(self, ids: Tensor, many: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
        """Numbers [B] of ids [B, 5], and bags of ids [n] with their offsets [B] and weights [n]."""
        vectors = [bag(ids[:, n : n + 1]) for n, bag in enumerate(self.bags)]
        vectors[1] = vectors[1] + self.bags[1](many, offsets, weights)
        vectors += [self.means(many, offsets), self.words(ids).sum(1)]
        return self.last(torch.cat(vectors, dim=1)).squeeze(1)


def make_inputs(samples: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random input of the small model."""
    draw = torch.Generator().manual_seed(seed)
    many = torch.randint(0, 20, (3 * samples,), generator=draw)
    ids = torch.randint(0, 20, (samples, 5), generator=draw)
    return ids, many, torch.arange(samples) * 3, torch.randn(3 * samples, generator=draw)


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    """No test sees what another compiled."""
    torch.compiler.reset()


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_model_compiles_in_one_piece(backend: str) -> None:
    """No graph breaks, the same output, also for batches of another size."""
    model = SmallModel().eval()
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    for samples in (4, 9, 1, 30):
        with torch.no_grad():
            inputs = make_inputs(samples, samples)
            assert torch.equal(compiled(*inputs), model(*inputs))


def test_a_compiled_model_sees_changes() -> None:
    """Numbers changed in place and buffers replaced after compilation count."""
    module = make_module(CompressedEmbeddingBag, 1, "codes")
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    ids = torch.arange(20).view(-1, 1)
    before = compiled(ids).clone()
    module.frame.mul_(2)
    assert torch.equal(compiled(ids), module.lookup(ids.flatten()))
    module.frame = module.frame * 2
    assert torch.equal(compiled(ids), module.lookup(ids.flatten()))
    assert not torch.equal(compiled(ids), before)


def test_rules_changed_before_compilation_count() -> None:
    """The operator's description is that of the module as it is."""
    module = make_module(CompressedEmbeddingBag, 1, "codes")
    module.oov, module.mode, module.padding_idx = "zero", "mean", 0
    ids = torch.tensor([[1, 2], [0, 5], [10**6, 4]])
    assert torch.equal(torch.compile(module, fullgraph=True, backend="eager")(ids), module(ids))


@pytest.mark.parametrize("strict", [True, False])
def test_a_model_exports(strict: bool) -> None:
    """An exported program holds the operator, runs batches of any size, and gives the model's output."""
    model = SmallModel().eval()
    samples = torch.export.Dim("samples", min=2, max=1000)
    shapes = ({0: samples}, {0: 3 * samples}, {0: samples}, {0: 3 * samples})
    program = torch.export.export(model, make_inputs(4), dynamic_shapes=shapes, strict=strict)
    called = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert called.count("memrec.embed.default") == 8
    exported = program.module()
    for count in (4, 9, 30):
        inputs = make_inputs(count, count)
        with torch.no_grad():
            assert torch.equal(exported(*inputs), model(*inputs))


def collect_arguments(module: CompressedEmbedding | CompressedEmbeddingBag, *inputs: Tensor | None) -> tuple:
    """What `embed` hands to the operator."""
    tensors = [module.get_buffer(name) for name in sorted(module.spec.tensors())]
    if module.group is not None:
        tensors += [module.group.get_buffer(name) for name in sorted(module.group.spec.tensors())]
    return (*inputs, tensors, module.description)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_the_operator_keeps_torchs_rules(base: str, dtype: torch.dtype) -> None:
    """torch.library.opcheck: its schema, its shapes without data, and tracing with dynamic shapes."""
    ids, offsets = torch.tensor([1, 5, PADDING, 0, 2], dtype=dtype), torch.tensor([0, 2, 2], dtype=dtype)
    bag = make_module(CompressedEmbeddingBag, 1, base, padding_idx=PADDING)
    ended = make_module(CompressedEmbeddingBag, 1, base, include_last_offset=True)
    words = make_module(CompressedEmbedding, 2, base)
    for module, inputs in (
        (bag, (ids, offsets, None)),
        (bag, (ids, offsets, torch.randn(5))),
        (bag, (ids.view(5, 1), None, None)),
        (ended, (ids, torch.tensor([0, 2, 5], dtype=dtype), None)),
        (words, (ids.view(1, 5), None, None)),
    ):
        checks = torch.library.opcheck(torch.ops.memrec.embed.default, collect_arguments(module, *inputs))
        assert set(checks.values()) == {"SUCCESS"}


def test_errors_come_through_the_operator() -> None:
    """Ids outside are the same IndexError in a compiled model."""
    module = make_module(CompressedEmbeddingBag, 1, "codes")
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    with pytest.raises(IndexError, match="table t1 has"):
        compiled(torch.tensor([[10**6]]))


def test_modules_of_equal_description_are_told_apart() -> None:
    """Two tables that differ in their numbers alone do not stand in for each other."""
    one, other = make_module(CompressedEmbeddingBag, 1, "codes"), make_module(CompressedEmbeddingBag, 1, "codes")
    other.frame = other.frame * 2
    ids = torch.arange(20).view(-1, 1)
    assert one.description == other.description
    for module in (one, other, one):
        assert torch.equal(embed(module, ids, None, None), module.lookup(ids.flatten()))


def test_shapes_without_data() -> None:
    """Fake ids give fake rows of the right shape and dtype."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    module = make_module(CompressedEmbedding, 1, "hashed")
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        rows = module(mode.from_tensor(torch.zeros(4, 6, dtype=torch.int64)))
    assert rows.shape == (4, 6, 8)
    assert rows.dtype == torch.float32
