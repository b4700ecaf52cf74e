"""Bags through the kernel, on every instruction set, have the bits of the torch reference: sums in the same order."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from native_tables import CODECS, DIMS, KINDS, draw_ids, make_bag, make_kept, same_bits, through_kernel
from random_tables import BASES
from torch import Tensor

from memrec_convert.lookup import CompressedEmbeddingBag
from memrec_convert.lookup.kernel_tables import KernelTables

pytestmark = pytest.mark.usefixtures("instruction_set")
PADDING = 3


def start_bags(sizes: list[int], *, with_end: bool = False) -> Tensor:
    """Offsets of bags of these sizes."""
    starts = [sum(sizes[:n]) for n in range(len(sizes))]
    return torch.tensor([*starts, sum(sizes)] if with_end else starts, dtype=torch.int64)


def check_bags(module: CompressedEmbeddingBag, ids: Tensor, starts: Tensor, weights: Tensor | None = None) -> None:
    """The module's bags have the reference's bits."""
    assert through_kernel(module)
    given_offsets = torch.cat([starts, torch.tensor([len(ids)])]) if module.include_last_offset else starts
    assert same_bits(module(ids, given_offsets, weights), module.lookup_bags(ids, starts, weights))


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("base", BASES)
def test_bags_of_every_form_and_width(base: str, mode: str) -> None:
    """Bags of 0 to 40 ids over every base, with and without padding."""
    draw = torch.Generator().manual_seed(1)
    for number, dim in enumerate(DIMS):
        module = make_bag(
            number,
            base=base,
            kinds=KINDS[number % len(KINDS)],
            dim=dim,
            mode=mode,
            padding_idx=PADDING if number % 2 else None,
            include_last_offset=number % 3 == 0,
        )
        sizes = torch.randint(0, 41, (20,), generator=draw).tolist()
        ids = draw_ids(module.spec.rows, sum(sizes), number)
        ids[torch.rand(len(ids), generator=draw) < 0.2] = PADDING
        check_bags(module, ids, start_bags(sizes))
        if mode == "sum":
            check_bags(module, ids, start_bags(sizes), torch.randn(len(ids), generator=draw))


@pytest.mark.parametrize("codec", CODECS)
def test_bags_over_kept_tables(codec: str) -> None:
    """Sums and means of kept rows."""
    sizes = [3, 0, 5, 1, 30, 2]
    for mode in ("sum", "mean"):
        module = make_kept(1, codec, 65, mode=mode)
        check_bags(module, draw_ids(300, sum(sizes)), start_bags(sizes))


@pytest.mark.parametrize(
    "sizes",
    [[], [0], [0, 0, 0], [1], [256], [257], [1000, 0, 0, 1], [0, 0, 700], [128] * 5, [0] * 300 + [3], [1] * 300],
    ids=lambda sizes: f"{len(sizes)}bags{sum(sizes)}ids",
)
def test_bags_at_the_edges_of_pieces(sizes: list[int]) -> None:
    """Bags that end where a piece of the work ends, that span several, and many empty ones."""
    for mode in ("sum", "mean"):
        module = make_bag(2, mode=mode, padding_idx=PADDING)
        ids = draw_ids(module.spec.rows, sum(sizes), 7)
        check_bags(module, ids, start_bags(sizes))
        assert module(ids, start_bags(sizes)).shape == (len(sizes), 32)


def test_only_padding_in_a_bag() -> None:
    """A bag of padding ids alone is zero, as an empty one is, and a mean does not count them."""
    module = make_bag(3, mode="mean", padding_idx=PADDING)
    found = module(torch.tensor([PADDING, PADDING, 5, PADDING, 7, PADDING]), torch.tensor([0, 2, 2]))
    assert bool(found[:2].eq(0).all())
    assert same_bits(found[2], (module.lookup(torch.tensor([5, 7])).sum(0) / 2))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_ids_of_two_dimensions_and_their_weights(dtype: torch.dtype) -> None:
    """Ids [b, length] with weights of the same shape, in any memory order."""
    module = make_bag(4, base="weighted")
    ids = draw_ids(module.spec.rows, 60).to(dtype).view(12, 5)
    weights = torch.randn(12, 5, generator=torch.Generator().manual_seed(2))
    expected = module.lookup_bags(ids.flatten(), torch.arange(12) * 5, weights.flatten())
    assert same_bits(module(ids, None, weights), expected)
    assert same_bits(module(ids.t().contiguous().t(), None, weights.t().contiguous().t()), expected)
    assert same_bits(module(ids, None, weights.to(torch.float64)), expected)
    single = module.lookup_bags(ids[:, 0], torch.arange(12), weights[:, 0])
    assert same_bits(module(ids[:, :1], None, weights[:, :1]), single)


def test_bags_of_several_tables_in_one_call() -> None:
    """Tables with bags, with weights, and with one id a bag, side by side in one output."""
    modules = [make_bag(n, base=BASES[n], dim=(16, 64, 9, 128, 33)[n], padding_idx=PADDING) for n in range(5)]
    tables = KernelTables(modules, range(5))
    for samples in (1, 130, 300):
        inputs, expected = [], []
        for number, module in enumerate(modules):
            sizes = torch.randint(0, 4, (samples,), generator=torch.Generator().manual_seed(number)).tolist()
            ids = draw_ids(module.spec.rows, samples if number == 2 else sum(sizes), number)
            starts = None if number == 2 else start_bags(sizes).to(torch.int32 if number % 2 else torch.int64)
            weights = torch.randn(len(ids)) if number == 4 else None
            inputs.append((ids.to(torch.int32) if number == 3 else ids, starts, weights))
            expected.append(module.lookup_bags(ids, torch.arange(samples) if starts is None else starts, weights))
        assert same_bits(tables.look_up_bags(inputs, samples), torch.cat(expected, dim=1))


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_bags_over_any_table(data: st.DataObject) -> None:
    """Whatever the table, the ids, their types and strides, the bags, the weights, and the rules for ids outside."""
    mode, oov = data.draw(st.sampled_from(["sum", "mean"])), data.draw(st.sampled_from(["clip", "hash", "zero"]))
    module = make_bag(
        data.draw(st.integers(0, 10**6)),
        base=data.draw(st.sampled_from(BASES)),
        kinds=data.draw(st.sampled_from(KINDS)),
        dim=data.draw(st.integers(1, 256)),
        mode=mode,
        oov=oov,
        padding_idx=data.draw(st.sampled_from([None, 0, PADDING])),
        include_last_offset=data.draw(st.booleans()),
    )
    rows = module.spec.rows
    sizes = data.draw(st.lists(st.integers(0, 9) | st.integers(0, 300), min_size=1, max_size=12))
    pick = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    spread = data.draw(st.sampled_from([0, 1, 10**9]))
    ids = torch.randint(-spread, rows + spread, (sum(sizes),), generator=pick)
    ids = ids.to(data.draw(st.sampled_from([torch.int64, torch.int32])))
    stride = data.draw(st.integers(1, 3))
    ids = ids.repeat_interleave(stride)[::stride]
    weighted = mode == "sum" and data.draw(st.booleans())
    check_bags(module, ids, start_bags(sizes), torch.randn(len(ids), generator=pick) if weighted else None)
    if len(ids):
        single = module.lookup_bags(ids, torch.arange(len(ids)))
        assert same_bits(module(ids.view(-1, 1)), single)
