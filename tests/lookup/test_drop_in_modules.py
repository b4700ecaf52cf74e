"""The modules answer as torch's own do over the decoded table."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_tables import BASES, random_kept, random_table
from torch import Tensor, nn

from memrec_convert.lookup import CompressedEmbedding, CompressedEmbeddingBag

PADDING = 3
SIZES = st.lists(st.integers(0, 4), min_size=1, max_size=7)


def make_bag(seed: int = 0, *, base: str = "codes", **choices: object) -> CompressedEmbeddingBag:
    """A filled bag over a random table with two levels."""
    table = random_table(seed, base, ("codes", "int8"))
    module = CompressedEmbeddingBag(table.spec, name="t", group=table.group, **choices)
    module.fill(table.tensors)
    return module


def decode(module: CompressedEmbedding | CompressedEmbeddingBag) -> Tensor:
    """All rows."""
    return module.lookup(torch.arange(module.spec.rows))


def torch_bag(module: CompressedEmbeddingBag) -> nn.EmbeddingBag:
    """torch's own bag over the same rows."""
    return nn.EmbeddingBag.from_pretrained(
        decode(module), mode=module.mode, include_last_offset=module.include_last_offset, padding_idx=module.padding_idx
    )


def draw_ids(module: CompressedEmbeddingBag, count: int, seed: int) -> Tensor:
    """Random ids, the padding one often among them."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, module.spec.rows, (count,), generator=draw)
    return torch.where(torch.rand(count, generator=draw) < 0.2, torch.tensor(PADDING), ids)


@settings(deadline=None, max_examples=30)
@given(
    SIZES,
    st.sampled_from(["sum", "mean"]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.sampled_from([torch.int64, torch.int32]),
    st.integers(0, 99),
)
def test_bags_equal_torch(
    sizes: list[int], mode: str, with_end: bool, padded: bool, weighted: bool, dtype: torch.dtype, seed: int
) -> None:
    """Any bags, empty ones anywhere, pool as nn.EmbeddingBag does: sums, means, weights, padding, closing offsets."""
    module = make_bag(
        seed, base=BASES[seed % 5], mode=mode, include_last_offset=with_end, padding_idx=PADDING if padded else None
    )
    ids = draw_ids(module, sum(sizes), seed).to(dtype)
    offsets = torch.tensor([sum(sizes[:n]) for n in range(len(sizes) + with_end)], dtype=dtype)
    weights = torch.randn(sum(sizes), generator=torch.Generator().manual_seed(seed)) if weighted else None
    if mode == "mean":
        weights = None
    expected = torch_bag(module)(ids, offsets, weights)
    torch.testing.assert_close(module(ids, offsets, weights), expected)


@pytest.mark.parametrize("sizes", [[0, 2, 3], [2, 0, 3], [2, 3, 0], [0, 0], [0], [1, 1, 1], [3]], ids=str)
@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_empty_bags_are_zero(sizes: list[int], mode: str) -> None:
    """A bag without ids is a zero vector, be it the first, the last, or the only one."""
    module = make_bag(1, mode=mode)
    offsets = torch.tensor([sum(sizes[:n]) for n in range(len(sizes))])
    ids = draw_ids(module, sum(sizes), 2)
    found = module(ids, offsets)
    assert found.shape == (len(sizes), module.spec.dim)
    torch.testing.assert_close(found, torch_bag(module)(ids, offsets))
    assert found[torch.tensor(sizes) == 0].eq(0).all()


@pytest.mark.parametrize(("shape", "mode"), [((4, 3), "sum"), ((4, 3), "mean"), ((4, 1), "sum"), ((1, 5), "mean")])
@pytest.mark.parametrize("padding", [None, PADDING])
def test_ids_of_two_dimensions(shape: tuple[int, int], mode: str, padding: int | None) -> None:
    """Ids [b, length] are b bags, also where they lie in memory by columns."""
    module = make_bag(2, mode=mode, padding_idx=padding)
    ids = draw_ids(module, shape[0] * shape[1], 3).reshape(shape)
    ids[0, 0] = PADDING
    expected = torch_bag(module)(ids)
    torch.testing.assert_close(module(ids), expected)
    torch.testing.assert_close(module(ids.t().contiguous().t()), expected)
    if mode == "sum":
        weights = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        expected = torch_bag(module)(ids, per_sample_weights=weights)
        torch.testing.assert_close(module(ids, None, weights), expected)
        torch.testing.assert_close(module(ids, per_sample_weights=weights.t().contiguous().t()), expected)


def test_no_bags_and_bags_of_length_zero() -> None:
    """No bags give no rows; bags of length zero give zeros."""
    module, none = make_bag(3), torch.empty(0, dtype=torch.int64)
    assert module(none, none).shape == (0, module.spec.dim)
    assert module(none.reshape(0, 4)).shape == (0, module.spec.dim)
    assert torch.equal(module(none.reshape(3, 0)), torch.zeros(3, module.spec.dim))
    ended = make_bag(3, include_last_offset=True)
    assert ended(none, torch.tensor([0])).shape == (0, module.spec.dim)


def test_non_contiguous_ids() -> None:
    """Ids and offsets that are views with gaps give what their copies give."""
    module = make_bag(4)
    wide = draw_ids(module, 12, 5)
    offsets = torch.tensor([0, 99, 2, 99, 4, 99])[::2]
    assert torch.equal(module(wide[::2], offsets), module(wide[::2].clone(), offsets.clone()))


def test_single_ids_are_their_rows() -> None:
    """One id a bag, as a DLRM asks, gives exactly the rows, and the padding row is zero there too."""
    module, padded = make_bag(5), make_bag(5, padding_idx=PADDING)
    ids = torch.tensor([7, PADDING, 0])
    rows = decode(module)[ids]
    assert torch.equal(module(ids, torch.arange(3)), rows)
    assert torch.equal(padded(ids, torch.arange(3)), rows * torch.tensor([[1.0], [0.0], [1.0]]))


@pytest.mark.parametrize(
    ("ids", "offsets", "weights", "message"),
    [
        ([1, 2], None, None, "need offsets"),
        ([[1, 2]], [0], None, "too much"),
        ([[[1, 2]]], None, None, "3 dimensions"),
        ([1, 2], [1], None, "rise from 0"),
        ([1, 2], [0, 2, 1], None, "rise from 0"),
        ([1, 2], [0, 3], None, "within the 2 ids"),
        ([1, 2], [0, -1], None, "rise from 0"),
        ([1, 2], [], None, "no bag to hold"),
        ([1, 2], [[0, 1]], None, "expected int64 or int32"),
        ([1, 2], [0.0, 1.5], None, "expected int64 or int32"),
        ([1, 2], [0, 1], [1.0], "each id needs its own"),
        ([[1, 2]], None, [1.0, 2.0], "each id needs its own"),
    ],
)
def test_bad_bags_are_refused(ids: list, offsets: list | None, weights: list | None, message: str) -> None:
    """Bags that contradict themselves are refused with the table's name and what is wrong with them."""
    place = None if offsets is None else torch.tensor(offsets, dtype=None if offsets else torch.int64)
    with pytest.raises(ValueError, match=rf"table t.*{message}"):
        make_bag(6)(torch.tensor(ids), place, None if weights is None else torch.tensor(weights))


def test_bad_ends_and_weighted_means_are_refused() -> None:
    """A closing offset lies within the ids; per-sample weights go with sums alone."""
    ended = make_bag(6, include_last_offset=True)
    for offsets in ([0, -1], [0, 3], []):
        with pytest.raises(ValueError, match="last offset must be the number of ids, 2"):
            ended(torch.tensor([1, 2]), torch.tensor(offsets, dtype=torch.int64))
    with pytest.raises(ValueError, match="go with sums"):
        make_bag(6, mode="mean")(torch.tensor([1]), torch.tensor([0]), torch.tensor([1.0]))


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("padding", [None, PADDING])
def test_embeddings_equal_torch(base: str, padding: int | None) -> None:
    """Ids of any shape give rows of that shape, as nn.Embedding does; the padding row is zero."""
    table = random_table(7, base, ("int8",))
    module = CompressedEmbedding(table.spec, padding_idx=padding, group=table.group)
    module.fill(table.tensors)
    rows = decode(module)
    if padding is not None:
        rows[padding] = 0
    expected = nn.Embedding.from_pretrained(rows, padding_idx=padding)
    ids = torch.tensor([[PADDING, 0, 1], [9, PADDING, 4]])
    for shaped in (ids, ids.t(), ids[0], ids[0, 0], ids[:, :0], ids.to(torch.int32), ids.reshape(1, 2, 3)):
        assert torch.equal(module(shaped), expected(shaped))


def test_kept_tables_drop_in_too() -> None:
    """A table kept at fp32 pools exactly as torch does over the original rows."""
    spec, tensors, rows = random_kept(1, "fp32")
    module = CompressedEmbeddingBag(spec, mode="sum")
    module.fill(tensors)
    ids, offsets = torch.tensor([1, 5, 5, 29]), torch.tensor([0, 1, 4])
    torch.testing.assert_close(module(ids, offsets), nn.EmbeddingBag.from_pretrained(rows, mode="sum")(ids, offsets))
