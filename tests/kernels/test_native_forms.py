"""Every form of table through the kernel, on every instruction set, has the bits of the torch reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from native_tables import CODECS, DIMS, KINDS, draw_ids, make_bag, make_embedding, make_kept, same_bits, through_kernel
from random_tables import BASES, random_group
from torch import Tensor

from memrec_convert.encoding import HashSpec, LevelSpec, TableSpec
from memrec_convert.encoding.build import build_replaced
from memrec_convert.encoding.index import IndexSpec, unmix_ids
from memrec_convert.lookup import CompressedEmbeddingBag, kernel_tables
from memrec_convert.lookup.kernel_tables import KernelTables

pytestmark = pytest.mark.usefixtures("instruction_set")
PADDING = 3


def check_all_rows(module: CompressedEmbeddingBag) -> None:
    """All rows at once, a few, and one by itself have the reference's bits."""
    assert through_kernel(module)
    ids = torch.arange(module.spec.rows)
    expected = module.lookup(ids)
    assert same_bits(module(ids.view(-1, 1)), expected)
    for count in (1, 2, 15, 16, 17):
        some = draw_ids(module.spec.rows, count, count)
        assert same_bits(module(some.view(-1, 1)), expected[some])


@pytest.mark.parametrize("base", BASES)
def test_all_bases_levels_and_widths(base: str) -> None:
    """Codes, mean rows and hashed tokens, with levels of codes and of rows in every codec, at every width."""
    for number, dim in enumerate(DIMS):
        check_all_rows(make_bag(number + 1000, base=base, kinds=KINDS[number % len(KINDS)], dim=dim))


@pytest.mark.parametrize("kinds", KINDS, ids=str)
@pytest.mark.parametrize("base", BASES)
def test_every_base_with_every_pair_of_levels(base: str, kinds: tuple[str, ...]) -> None:
    """No combination of a base and levels is left out, whichever index layouts hold the levels."""
    for seed, dim in ((1, 128), (2, 16), (3, 37)):
        check_all_rows(make_bag(seed, base=base, kinds=kinds, dim=dim))


@pytest.mark.parametrize("codec", CODECS)
def test_kept_tables(codec: str) -> None:
    """Kept rows of every codec at every width."""
    for number, dim in enumerate(DIMS):
        check_all_rows(make_kept(number, codec, dim))


@pytest.mark.parametrize(("codec", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_every_half_is_read_as_torch_reads_it(codec: str, dtype: torch.dtype) -> None:
    """All 65,536 patterns, subnormal, infinite and NaN ones too; of a NaN only that it is one."""
    halves = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    for dim in (64, 1):
        module = CompressedEmbeddingBag(TableSpec(2**16 // dim, dim, "kept", codec=codec))
        module.fill({"rows": halves.view(-1, dim)})
        found, expected = module(torch.arange(2**16 // dim).view(-1, 1)).flatten(), halves.to(torch.float32)
        assert torch.equal(found.isnan(), expected.isnan())
        number = ~expected.isnan()
        assert same_bits(found[number], expected[number])


def test_every_finite_scale_of_int8_rows() -> None:
    """A row's fp16 scale may be any finite number."""
    scales = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(torch.float16)
    scales = scales[scales.isfinite()]
    rows = (torch.arange(len(scales) * 3) % 255 - 127).to(torch.int8).view(-1, 3)
    module = CompressedEmbeddingBag(TableSpec(len(scales), 3, "kept", codec="int8"))
    module.fill({"rows": rows, "scale": scales})
    assert same_bits(module(torch.arange(len(scales)).view(-1, 1)), rows.float() * scales.float().unsqueeze(1))


@pytest.mark.parametrize("shape", [(), (1,), (0,), (7, 5), (2, 0, 3), (4, 3, 2)], ids=str)
def test_embeddings_of_any_shape(shape: tuple[int, ...]) -> None:
    """Ids of any shape give rows of that shape; the padding row is zero."""
    for padding in (None, PADDING):
        module = make_embedding(4, base="hashed", padding_idx=padding)
        ids = draw_ids(module.spec.rows, int(torch.tensor(shape).prod()), 5)
        ids[::3] = PADDING
        expected = module.lookup(ids)
        if padding is not None:
            expected[ids == PADDING] = 0.0
        found = module(ids.view(shape))
        assert through_kernel(module)
        assert found.shape == (*shape, 32)
        assert same_bits(found.view(-1, 32), expected)


@pytest.mark.parametrize("oov", ["clip", "hash", "zero"])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_ids_outside_the_table(oov: str, dtype: torch.dtype) -> None:
    """Outside ids go where the table's rule says, up to the ends of their type."""
    limits = torch.iinfo(dtype)
    for base in BASES:
        module = make_bag(5, base=base, oov=oov, padding_idx=PADDING)
        rows = module.spec.rows
        outside = [-1, rows, -rows, limits.min, limits.max, 2 * rows + PADDING]
        ids = torch.tensor([0, PADDING, rows - 1, *outside], dtype=dtype)
        expected = module.lookup(ids)
        expected[ids == PADDING] = 0.0
        assert same_bits(module(ids.view(-1, 1)), expected)
        offsets = torch.tensor([0, 0, 4, 9])
        assert same_bits(module(ids, offsets), module.lookup_bags(ids, offsets))


def make_crowded(mixed: Tensor, *, rows: int = 4096) -> CompressedEmbeddingBag:
    """A table whose level has the ids that the index mixes to these numbers."""
    spec = TableSpec(
        rows, 8, "replaced", levels=(LevelSpec("rows", IndexSpec("keys", rows, len(mixed), 8), codec="fp32"),)
    )
    levels = np.full(rows, -1, dtype=np.int8)
    levels[unmix_ids(mixed, 12).numpy()] = 0
    tensors = build_replaced(
        spec,
        centre=torch.zeros(8),
        scale=0.01,
        codebook=None,
        codes=np.zeros((rows, 0)),
        levels=levels,
        read_rows=lambda ids: torch.as_tensor(ids, dtype=torch.float32).view(-1, 1).expand(-1, 8) + 1,
    )
    module = CompressedEmbeddingBag(spec)
    module.fill(tensors)
    return module


@pytest.mark.parametrize("crowd", [29, 30, 31, 60, 100])
def test_more_keys_than_a_line_has_room_for(crowd: int) -> None:
    """Ids that crowd into one bucket of the key lines are all found, and their neighbours are not."""
    module = make_crowded(torch.cat([torch.arange(crowd), torch.arange(2000, 2040)]))
    check_all_rows(module)
    found = module(torch.arange(4096).view(-1, 1))[:, 0]
    assert int((found > 0).sum()) == crowd + 40


@pytest.mark.parametrize("kinds", [("codes",), ("int8", "fp32"), ("codes", "codes")], ids=str)
def test_packed_keys_where_there_are_no_lines(kinds: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without room for key lines the kernel reads the index itself."""
    monkeypatch.setattr(kernel_tables, "choose_lines", lambda specs: [[0] * len(spec.levels) for spec in specs])
    for seed in range(12):
        check_all_rows(make_bag(seed, base=BASES[seed % len(BASES)], kinds=kinds, dim=24))


def test_the_most_stages_and_tokens() -> None:
    """Codes of 32 stages, and hashed ids of 64 tokens and 16 weights; more stages than that are left to torch."""
    draw = torch.Generator().manual_seed(1)
    index = IndexSpec("bitmap", 50, 20)
    for stages, dim in ((32, 48), (32, 128), (33, 48)):
        spec = TableSpec(
            50,
            dim,
            "replaced",
            stages=(256,) * stages,
            shifts=(0,) * stages,
            base_depth=20,
            levels=(LevelSpec("codes", index, depth=stages),),
        )
        tensors = build_replaced(
            spec,
            centre=torch.randn(dim, generator=draw),
            scale=0.01,
            codebook=torch.randint(-127, 128, (256 * stages, dim), generator=draw).to(torch.int8),
            codes=torch.randint(0, 256, (50, stages), generator=draw).to(torch.uint8).numpy(),
            levels=np.where(np.arange(50) % 5 < 2, 0, -1).astype(np.int8),
            read_rows=lambda ids: torch.zeros(len(ids), 1),
        )
        module = CompressedEmbeddingBag(spec)
        module.fill(tensors)
        assert through_kernel(module) == (stages <= 32)
        ids = torch.arange(50)
        assert same_bits(module(ids.view(-1, 1)), module.lookup(ids))
    for codec in ("int8", "fp32"):
        hashing = HashSpec("g", 48, 999, 64, blocks=7, k_weights=16, token_codec=codec)
        group = random_group(np.random.default_rng(2), hashing)
        module = CompressedEmbeddingBag(TableSpec(10**6, 48, "replaced", hashing=hashing, hash_seed=3), group=group)
        ids = draw_ids(10**6, 300)
        assert through_kernel(module)
        assert same_bits(module(ids.view(-1, 1)), module.lookup(ids))


def make_mixed() -> KernelTables:
    """Nine tables of different forms and widths; two are fed by one column of the ids."""
    tables = [make_bag(n, base=BASES[n % 5], kinds=KINDS[n], dim=(16, 64, 1, 33, 128, 7, 256, 16)[n]) for n in range(8)]
    tables.append(make_kept(8, "int8", 50))
    return KernelTables(tables, [0, 1, 2, 3, 4, 5, 6, 7, 0])


def look_up_separately(tables: KernelTables, ids: Tensor) -> Tensor:
    """The reference of each table, side by side."""
    columns = [ids[:, number] for number in tables.inputs]
    return torch.cat([table.lookup(column) for table, column in zip(tables.tables, columns, strict=True)], dim=1)


@pytest.mark.parametrize("samples", [0, 1, 2, 31, 127, 128, 129, 255, 256, 257, 700])
def test_tables_of_mixed_widths_side_by_side(samples: int) -> None:
    """However a batch is cut into pieces, each table's vectors land in its own columns."""
    tables = make_mixed()
    ids = draw_ids(20, samples * 8, samples).view(samples, 8)
    expected = look_up_separately(tables, ids)
    for grid in (ids, ids.t().contiguous().t(), ids.to(torch.int32), torch.stack([ids, ids], dim=2)[:, :, 1]):
        assert same_bits(tables.look_up_grid(grid), expected)
    parts = expected.split([table.spec.dim for table in tables.tables], dim=1)
    for pieces in (tables.look_up_tables(ids), tables.look_up_samples(ids)):
        assert all(same_bits(piece, part) for piece, part in zip(pieces, parts, strict=True))
    clock = torch.zeros(4, dtype=torch.int64)
    assert same_bits(tables.look_up_grid(ids, clock=clock), expected)
    assert bool((clock > 0).any()) == (samples > 0)


def test_tables_of_one_width_side_by_side() -> None:
    """Tables of equal width come as one tensor, or as views of one memory, each in its own piece."""
    tables = KernelTables([make_bag(n, base=BASES[n % 5], kinds=KINDS[n], dim=16) for n in range(5)], range(5))
    for samples in (0, 1, 129, 5000):
        ids = draw_ids(20, samples * 5, samples).view(samples, 5)
        expected = look_up_separately(tables, ids).split(16, dim=1)
        assert same_bits(tables.look_up_samples(ids), torch.stack(expected, dim=1))
        for piece, part in zip(tables.look_up_tables(ids), expected, strict=True):
            assert piece.is_contiguous()
            assert same_bits(piece, part)


def test_a_large_output_comes_table_by_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the size on where rows of all tables would lie on too many pages."""
    monkeypatch.setattr(kernel_tables, "LEAST_BYTES_BY_TABLE", 700 * 4 * 48)
    for dims in ((16, 16, 16), (16, 8, 24)):
        tables = KernelTables([make_bag(n, kinds=KINDS[n], dim=dim) for n, dim in enumerate(dims)], range(3))
        for samples in (699, 700):
            ids = draw_ids(20, samples * 3).view(samples, 3)
            pieces = tables.look_up_samples(ids)
            assert isinstance(pieces, Tensor) == (samples < 700 and tables.dim is not None)
            found = pieces.unbind(1) if isinstance(pieces, Tensor) else pieces
            for piece, part in zip(found, look_up_separately(tables, ids).split(list(dims), dim=1), strict=True):
                assert piece.is_contiguous() == (samples == 700)
                assert same_bits(piece, part)


def test_out_is_filled_and_nothing_beside_it() -> None:
    """A given `out` may lie anywhere with any row pitch: what is around it keeps its numbers."""
    tables = make_mixed()
    ids = draw_ids(20, 300 * 8, 1).view(300, 8)
    expected = look_up_separately(tables, ids)
    for before, after in ((0, 0), (1, 0), (3, 5), (16, 16)):
        whole = torch.full((302, before + tables.width + after), 7.0)
        out = whole[1:-1, before : before + tables.width]
        assert tables.look_up_grid(ids, out) is out
        assert same_bits(out, expected)
        out.fill_(7.0)
        assert bool((whole == 7.0).all())


def test_streamed_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs written past the caches have the same bits; rows off the 64-byte boundaries are not written so."""
    streamed = []
    tables = KernelTables(
        [make_bag(n, base=BASES[n % 5], kinds=KINDS[n], dim=(16, 128, 256, 64, 48, 32, 16, 96)[n]) for n in range(8)],
        range(8),
    )
    original = tables.look_up

    def look_up(*arguments: object) -> object:
        """The kernel's own, and notes whether it is to stream."""
        streamed.append(arguments[8])
        return original(*arguments)

    tables.look_up = look_up
    monkeypatch.setattr(kernel_tables, "STREAM_BYTES", 0)
    raw = torch.empty(500 * tables.width + 32)
    start = -raw.data_ptr() % 64 // 4
    for samples in (1, 20, 500):
        ids = draw_ids(20, samples * 8, samples).view(samples, 8)
        expected = look_up_separately(tables, ids)
        for shift in (0, 1):
            out = raw[start + shift :][: samples * tables.width].view(samples, tables.width)
            assert same_bits(tables.look_up_grid(ids, out), expected)
    assert streamed == [True, False] * 3
