"""Input that is wrong, oddly placed or damaged: a plain error or the right answer, and never a read out of place."""

from __future__ import annotations

import pytest
import torch
from native_tables import draw_ids, make_bag, make_embedding, make_kept, move_off_alignment, same_bits, through_kernel
from random_tables import BASES

from memrec_convert.lookup import CompressedEmbeddingBag
from memrec_convert.lookup.kernel_tables import KernelTables, kernel_can_read

pytestmark = pytest.mark.usefixtures("instruction_set")
FILLED = 7.0


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("bad", [-1, "rows", 2**31 - 1, -(2**31)], ids=str)
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_ids_outside_are_an_index_error(base: str, bad: int | str, dtype: torch.dtype) -> None:
    """One such id, wherever it is, is refused with the table's name, its rows and the id."""
    module = make_bag(1, base=base)
    number = module.spec.rows if bad == "rows" else int(bad)
    message = rf"table t1 has {module.spec.rows} rows: 1 ids are outside, the first is {number}$"
    for position in (0, 130, 299):
        ids = draw_ids(module.spec.rows, 300).to(dtype)
        ids[position] = number
        for arguments in ((ids.view(-1, 1),), (ids.view(-1, 3),), (ids, ids.new_zeros(1))):
            with pytest.raises(IndexError, match=message):
                module(*arguments)
    with pytest.raises(IndexError, match="table t2"):
        make_embedding(2, base=base)(torch.tensor([0, 2**62]))
    assert module(draw_ids(module.spec.rows, 3).view(-1, 1)).shape == (3, 32)


def test_nothing_is_written_beside_an_error() -> None:
    """`out` keeps its numbers when the last id of the last table is outside."""
    tables = KernelTables([make_bag(n) for n in range(3)], range(3))
    ids = draw_ids(20, 900).view(300, 3)
    ids[-1, -1] = 10**6
    out = torch.full((300, tables.width), FILLED)
    with pytest.raises(IndexError, match="table t2"):
        tables.look_up_grid(ids, out)
    assert bool((out == FILLED).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.uint8, torch.int16, torch.complex64])
def test_ids_of_other_types_are_a_type_error(dtype: torch.dtype) -> None:
    """int64 and int32 alone are ids."""
    ids = torch.zeros(2, 1, dtype=dtype)
    for module in (make_bag(1), make_embedding(1)):
        with pytest.raises(TypeError, match=r"table t1: ids are torch\.\w+, expected int64 or int32"):
            module(ids)
    with pytest.raises(TypeError, match="expected int64 or int32"):
        KernelTables([make_bag(1)], [0]).look_up_grid(ids)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
@pytest.mark.parametrize(
    ("offsets", "bag"),
    [([1, 2], 0), ([0, 3, 2], 2), ([0, 6], 1), ([0, -1], 1), ([-1], 0), ([0, 2**31 - 1], 1)],
    ids=str,
)
def test_bad_offsets_are_a_value_error(offsets: list[int], bag: int, dtype: torch.dtype) -> None:
    """Offsets that do not begin at 0, fall, or leave the ids are refused, naming the bag."""
    module, place = make_bag(1), torch.tensor(offsets, dtype=dtype)
    with pytest.raises(ValueError, match=rf"table t1: offsets must rise from 0 .* 5 ids; the one of bag {bag} does"):
        module(torch.zeros(5, dtype=torch.int64), place)


def test_nan_weights_are_a_value_error() -> None:
    """A weight that is no number is refused; infinite and huge ones are numbers."""
    module, ids = make_bag(1), torch.zeros(5, dtype=torch.int64)
    with pytest.raises(ValueError, match="table t1: the per-sample weight of id number 3 is NaN"):
        module(ids, torch.tensor([0]), torch.tensor([1.0, 2.0, torch.inf, torch.nan, 1.0]))
    wide = torch.tensor([1e300] * 5, dtype=torch.float64)
    assert bool(module(ids, torch.tensor([0]), wide).isinf().any())
    with pytest.raises(ValueError, match="each id needs its own, a floating-point number"):
        module(ids, torch.tensor([0]), ids)


def test_bad_places_for_the_output_are_a_value_error() -> None:
    """`out` must be float32 of the right shape, without gaps in a row; ids must have all columns."""
    tables, ids = KernelTables([make_bag(1), make_bag(2)], [0, 1]), torch.zeros(4, 2, dtype=torch.int64)
    for out in (
        torch.empty(4, 64, dtype=torch.float64),
        torch.empty(4, 63),
        torch.empty(3, 64),
        torch.empty(64, 4).t(),
        torch.empty(4, 64, device="meta"),
    ):
        with pytest.raises(ValueError, match=r"out is .* expected float32 \[4, 64\] without gaps"):
            tables.look_up_grid(ids, out)
    with pytest.raises(ValueError, match="ids have 1 columns, the tables take 2"):
        tables.look_up_grid(ids[:, :1])


def test_tensors_elsewhere_are_not_read() -> None:
    """Offsets or weights that are not in this memory are refused before their addresses are used."""
    tables, ids = KernelTables([make_bag(1)], [0]), torch.zeros(4, dtype=torch.int64)
    elsewhere = torch.zeros(4, dtype=torch.int64, device="meta")
    for one in ((ids, elsewhere, None), (ids, ids, torch.zeros(4, device="meta")), (elsewhere, ids, None)):
        with pytest.raises(ValueError, match="must all be on the CPU"):
            tables.look_up_bags([one], 4)
    with pytest.raises(ValueError, match="one id per sample"):
        tables.look_up_bags([(ids, None, None)], 5)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
@pytest.mark.parametrize("by", [1, 2, 4])
def test_misaligned_tensors(dtype: torch.dtype, by: int) -> None:
    """Ids, offsets, weights, the output and the tables' own tensors may begin at any byte."""
    for base in BASES:
        module = make_bag(3, base=base, kinds=("int8", "fp16"), dim=37)
        ids = draw_ids(module.spec.rows, 90).to(dtype)
        offsets, weights = torch.arange(0, 90, 3, dtype=dtype), torch.randn(90)
        pooled, rows = module.lookup_bags(ids, offsets, weights), module.lookup(ids)
        for part in (module, module.group):
            for name, buffer in [] if part is None else list(part.named_buffers(recurse=False)):
                setattr(part, name, move_off_alignment(buffer, by))
        assert through_kernel(module)
        moved = move_off_alignment(ids, by)
        assert same_bits(module(moved, move_off_alignment(offsets, by), move_off_alignment(weights, by)), pooled)
        out = move_off_alignment(torch.empty(90, 37), by)
        KernelTables([module], [0]).look_up_grid(moved.view(-1, 1), out)
        assert same_bits(out.clone(), rows)


def test_views_with_gaps() -> None:
    """Expanded, strided and transposed ids are read where they are."""
    module = make_bag(4)
    wide = draw_ids(module.spec.rows, 60).view(6, 10)
    for ids in (wide[:, ::3], wide[::2].t(), wide[0].expand(4, 10), wide[:, 3:4], wide[:1, :1].expand(5, 1)):
        assert same_bits(module(ids), module(ids.clone().contiguous()))


def damage(buffer: torch.Tensor, seed: int) -> None:
    """Overwrites all bytes of a buffer."""
    buffer.copy_(torch.randint(0, 256, buffer.shape, generator=torch.Generator().manual_seed(seed)).to(torch.uint8))


@pytest.mark.parametrize("seed", range(12))
def test_a_damaged_index_gives_rows_of_its_own_table(seed: int) -> None:
    """An index full of noise leads to the base's row or to one that the level holds, nowhere else."""
    module = make_bag(seed, base="mean", kinds=("fp32",), dim=5)
    held = {tuple(row) for row in module.get_buffer("level0_rows").tolist()}
    held.add(tuple(module.get_buffer("frame")[1:].tolist()))
    module(torch.tensor([[0]]))
    for noise in range(10):
        if noise >= 5:  # one that the kernel has not seen whole
            module.level0_index = module.level0_index.clone()
        damage(module.get_buffer("level0_index"), noise)
        found = module(torch.arange(module.spec.rows).view(-1, 1))
        assert {tuple(row) for row in found.tolist()} <= held


def test_damaged_codes_are_codes() -> None:
    """Any bytes are codes of some tokens, the same ones in the kernel and in torch."""
    for seed in range(6):
        module = make_bag(seed, kinds=("codes",))
        damage(module.get_buffer("base"), seed)
        damage(module.get_buffer("level0_codes"), seed)
        ids = torch.arange(module.spec.rows)
        assert same_bits(module(ids.view(-1, 1)), module.lookup(ids))


def test_tables_that_the_kernel_cannot_read_take_the_reference() -> None:
    """Buffers of another dtype or shape, with gaps, or missing are never handed to the kernel."""
    spoilt: list[CompressedEmbeddingBag] = [make_bag(5).half(), make_bag(5).to("meta")]
    gaps, other, missing = make_bag(5), make_bag(5), make_bag(5, base="weighted")
    gaps.frame = torch.stack([gaps.frame, gaps.frame], dim=1)[:, 0]
    other.frame = other.frame[:-1].clone()
    missing.group.weights = None
    assert kernel_can_read(make_bag(5))
    for module in (*spoilt, gaps, other, missing):
        assert not kernel_can_read(module)
        assert module.kernel() is None
    ids = torch.arange(20)
    assert same_bits(gaps(ids.view(-1, 1)), make_bag(5).lookup(ids))
    assert same_bits(spoilt[0](ids.view(-1, 1)), spoilt[0].lookup(ids))


def test_a_kept_table_of_one_row_and_ids_of_none() -> None:
    """The smallest table, and no ids at all."""
    module = make_kept(1, "int8", 3, rows=1)
    assert same_bits(module(torch.zeros(5, 1, dtype=torch.int64)), module.lookup(torch.zeros(5, dtype=torch.int64)))
    assert module(torch.zeros(0, 1, dtype=torch.int64)).shape == (0, 3)
    assert make_embedding(1)(torch.zeros(0, dtype=torch.int32)).shape == (0, 32)
