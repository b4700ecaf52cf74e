"""Small batches, which the kernel takes from torch and gives back to it in one step."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from native_tables import KINDS, draw_ids, make_bag, make_kept, same_bits
from random_tables import BASES
from torch import Tensor

from memrec_convert.lookup.kernel_tables import KernelTables, count_idle_bytes
from memrec_convert.lookup.together import TogetherCache, embed_together

pytestmark = [
    pytest.mark.usefixtures("native"),
    pytest.mark.skipif(not hasattr(Tensor, "__dlpack_c_exchange_api__"), reason="this torch is too old for the step"),
]

ROWS = 20
"""That each of the random tables has at least."""


def make_tables(dim: int = 16, count: int = 5) -> KernelTables:
    """Tables of one width and different forms."""
    tables = [make_bag(n, base=BASES[n % 5], kinds=KINDS[n % 8], dim=dim) for n in range(count)]
    return KernelTables(tables, range(count))


def look_up_separately(tables: KernelTables, ids: Tensor) -> list[Tensor]:
    """The reference of each table."""
    columns = [ids[:, number] for number in tables.inputs]
    return [table.lookup(column) for table, column in zip(tables.tables, columns, strict=True)]


def take(tables: KernelTables, ids: Tensor) -> Tensor:
    """One tensor of the vectors, which the step must not leave to others."""
    vectors = tables.look_up_few(ids)
    assert isinstance(vectors, Tensor)
    return vectors


@pytest.mark.parametrize("samples", [0, 1, 2, 19, 20, 63, 64, 65, 300, 3000])
def test_vectors_are_the_reference_s(samples: int, instruction_set: str) -> None:
    """Ids of either width, however they lie in memory, on every instruction set."""
    tables = make_tables()
    ids = draw_ids(ROWS, samples * 5, samples).view(samples, 5)
    expected = torch.stack(look_up_separately(tables, ids), dim=1)
    spread = torch.stack([ids, ids + 1], dim=2)[:, :, 0]
    for given in (ids, ids.to(torch.int32), ids.t().contiguous().t(), spread, torch.cat([ids, ids], dim=1)):
        vectors = take(tables, given)
        assert vectors.is_contiguous()
        assert not vectors.requires_grad
        assert same_bits(vectors, expected)


def test_tables_of_different_widths_come_one_by_one() -> None:
    """Each as its own [B, dim]."""
    tables = [make_bag(n, base=BASES[n], kinds=KINDS[n], dim=(16, 64, 7, 128, 33)[n]) for n in range(5)]
    view = KernelTables([*tables, make_kept(8, "int8", 50)], [0, 1, 2, 3, 4, 0])
    ids = draw_ids(ROWS, 40 * 5).view(40, 5)
    found = view.look_up_few(ids)
    assert found is not None
    for piece, part in zip(found, look_up_separately(view, ids), strict=True):
        assert same_bits(piece, part)


class Strange(Tensor):
    """A tensor that may mean something else by its numbers."""


@pytest.mark.parametrize(
    "change",
    [
        lambda ids: ids.float(),
        lambda ids: ids.to(torch.int16),
        lambda ids: ids.bool(),
        lambda ids: ids.flatten(),
        lambda ids: ids.unsqueeze(0),
        lambda ids: ids[:, :4],
        lambda ids: ids.to("meta"),
        lambda ids: ids.to_sparse(),
        lambda ids: ids.as_subclass(Strange),
        lambda ids: ids.numpy(),
        lambda ids: ids.tolist(),
        lambda _ids: None,
        lambda ids: ids.to(torch.complex64),
        lambda ids: ids + 10**9,
        lambda ids: ids - 10**9,
        lambda ids: torch.nn.Parameter(ids, requires_grad=False),
    ],
)
def test_anything_else_is_left_to_others(change: Callable[[Tensor], Tensor]) -> None:
    """Whatever is not a small matrix of ids inside the tables gives None and leaves no error behind."""
    tables = make_tables()
    assert tables.look_up_few(change(draw_ids(ROWS, 30).view(6, 5))) is None


def test_a_large_output_is_left_to_others() -> None:
    """From 1 MB on, which comes from a pool of large pages."""
    tables = make_tables(dim=256)
    rows = (1 << 20) // (4 * 5 * 256)
    assert tables.look_up_few(draw_ids(ROWS, 5 * rows).view(rows, 5)) is not None
    assert tables.look_up_few(draw_ids(ROWS, 5 * (rows + 1)).view(rows + 1, 5)) is None


def test_ids_outside_have_the_same_error_as_anywhere() -> None:
    """With the table's name."""
    tables = make_tables()
    ids = draw_ids(ROWS, 30).view(6, 5)
    ids[3, 2] = -7
    cache = TogetherCache()
    with pytest.raises(IndexError, match=r"table t2 .* outside, the first is -7"):
        embed_together(tables.tables, tables.inputs, ids, cache)
    with pytest.raises(TypeError, match=r"ids are torch\.float32, expected int64 or int32"):
        embed_together(tables.tables, tables.inputs, ids.float(), cache)
    with pytest.raises(ValueError, match="ids have 4 columns, the tables take 5"):
        embed_together(tables.tables, tables.inputs, ids[:, :4], cache)


def test_threads_are_as_many_as_torch_says(native: ModuleType) -> None:
    """Asked for where a batch is worth more than one; what torch raises then is raised."""
    tables = make_tables(count=8)
    ids = draw_ids(ROWS, 1000 * 8).view(1000, 8)
    expected = torch.stack(look_up_separately(tables, ids), dim=1)
    asked: list[int] = []

    def say() -> int:
        asked.append(2)
        if len(asked) == 3:
            raise ZeroDivisionError
        return 2

    try:
        assert native.connect(torch.Tensor, say)
        take(tables, ids[:10])
        assert not asked
        for _ in range(2):
            assert same_bits(take(tables, ids), expected)
        with pytest.raises(ZeroDivisionError):
            tables.look_up_few(ids)
        assert len(asked) == 3
    finally:
        assert native.connect(torch.Tensor, torch.get_num_threads)


def test_memory_is_used_again_once_it_is_let_go() -> None:
    """Batches of one size take no new memory, except while something on the last one's is still in use."""
    tables = make_tables()
    ids = draw_ids(ROWS, 64 * 5).view(64, 5)
    first = take(tables, ids)
    kept, expected, address = first[:, 1], first.clone(), first.data_ptr()
    assert address % 64 == 0
    del first
    assert take(tables, draw_ids(ROWS, 64 * 5, 3).view(64, 5)).data_ptr() != address
    assert same_bits(kept, expected[:, 1])
    again = {take(tables, ids).data_ptr() for _ in range(5)}
    assert len(again) == 1
    held = count_idle_bytes()
    assert held >= 4 * expected.numel()
    vectors = take(tables, ids)
    assert count_idle_bytes() <= held - 4 * vectors.numel()
    as_array = vectors.numpy()
    del vectors
    take(tables, draw_ids(ROWS, 64 * 5, 4).view(64, 5))
    assert np.array_equal(as_array, expected.numpy())
    large = take(tables, draw_ids(ROWS, 640 * 5).view(640, 5))
    assert large.shape == (640, 5, 16)


def test_outputs_in_use_are_nobody_elses() -> None:
    """From several threads at a time, each output kept for a while and read again."""
    tables = make_tables()
    batches = [draw_ids(ROWS, 30 * 5, seed).view(30, 5) for seed in range(6)]
    expected = [torch.stack(look_up_separately(tables, ids), dim=1) for ids in batches]
    wrong: list[int] = []

    def work(own: int) -> None:
        held: list[tuple[int, Tensor]] = []
        for step in range(400):
            number = (own + step) % 6
            held.append((number, take(tables, batches[number])))
            if step % (own + 2) == 0:
                wrong.extend(n for n, vectors in held if not same_bits(vectors, expected[n]))
                held.clear()

    workers = [threading.Thread(target=work, args=(own,)) for own in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_an_output_can_be_learned_through_and_written_to() -> None:
    """It is a tensor as any other, and one of inference where it was made there."""
    tables = make_tables()
    ids = draw_ids(ROWS, 30).view(6, 5)
    factor = torch.ones(16, requires_grad=True)
    vectors = take(tables, ids)
    (vectors * factor).sum().backward()
    assert factor.grad is not None
    assert torch.allclose(factor.grad, vectors.sum(dim=(0, 1)))
    vectors.zero_()
    assert not take(tables, ids).is_inference()
    with torch.inference_mode():
        assert take(tables, ids).is_inference()


def test_without_the_step_lookups_are_the_same() -> None:
    """As with a torch that is too old for it."""
    tables = make_tables()
    ids = draw_ids(ROWS, 200).view(40, 5)
    cache = TogetherCache()
    with_it = embed_together(tables.tables, tables.inputs, ids, cache)
    assert cache.kernel is not None
    cache.kernel.native = SimpleNamespace(look_up_few=lambda *_: None)
    without = embed_together(tables.tables, tables.inputs, ids, cache)
    assert isinstance(with_it, Tensor)
    assert isinstance(without, Tensor)
    assert same_bits(with_it, without)


def test_what_does_not_say_how_tensors_lie_is_not_taken(native: ModuleType) -> None:
    """No such attribute, one that is no capsule, a capsule of something else: False, and all stays as it was."""
    tables = make_tables()
    ids = draw_ids(ROWS, 30).view(6, 5)
    for kind in (
        object,
        SimpleNamespace(__dlpack_c_exchange_api__=3),
        SimpleNamespace(__dlpack_c_exchange_api__=torch.utils.dlpack.to_dlpack(torch.zeros(2))),
    ):
        assert native.connect(kind, torch.get_num_threads) is False
    assert tables.look_up_few(ids) is not None
    with pytest.raises(TypeError, match="connect: wrong number of arguments"):
        native.connect(torch.Tensor)
    with pytest.raises(TypeError, match="look_up_few: wrong number of arguments"):
        native.look_up_few(tables.handle, ids, 5)
    with pytest.raises(ValueError, match="PyCapsule"):
        native.look_up_few(3, ids)
