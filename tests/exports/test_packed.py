"""The operators in C++: rows and sums to the bit, whatever the form; hostile and outdated bytes; torch's tracers."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from native_build import TESTS, find_compiler
from random_tables import BASES, random_table
from tiny_networks import FORMS, MIXED, make_table
from torch import Tensor

from memrec_convert.errors import ModelError
from memrec_convert.exports.packed import PackedTables, load_operators, pack_bytes, pack_tables
from memrec_convert.lookup import CompressedEmbedding, CompressedEmbeddingBag

OPERATORS = TESTS.parent / "memrec_convert" / "kernels" / "operator"
FAR = 1 << 40
pytestmark = pytest.mark.usefixtures("operators")


def make_tables(mode: str = "sum", dim: int | None = None) -> list[CompressedEmbeddingBag]:
    """A table of every form, with every way to treat an id outside but an error."""
    return [make_table(number, dim or MIXED[number], bag=True, mode=mode) for number in range(len(FORMS))]


def draw_bags(inputs: int, samples: int, *, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Ids [n] of all inputs, foreign ones among them, offsets with the end, and a weight per id."""
    draw = torch.Generator().manual_seed(seed)
    sizes = torch.randint(0, 4, (inputs * samples,), generator=draw)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
    ids = torch.randint(-5, 60, (int(offsets[-1]),), generator=draw)
    ids[::7] = torch.tensor([FAR, -FAR]).repeat(len(ids))[: len(ids[::7])]
    return ids, offsets, torch.randn(len(ids), generator=draw)


def cut(ids: Tensor, offsets: Tensor, weights: Tensor | None, number: int, samples: int) -> tuple[Tensor, ...]:
    """One input's ids, offsets from 0, and weights."""
    starts = offsets[number * samples : (number + 1) * samples + 1]
    own = slice(int(starts[0]), int(starts[-1]))
    return ids[own], starts[:-1] - starts[0], None if weights is None else weights[own]


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
@pytest.mark.parametrize("samples", [0, 1, 2, 70])
def test_ids_of_all_tables_in_one_call(samples: int, dtype: torch.dtype) -> None:
    """Each table's vectors, side by side, of ids in any memory layout; inputs feed several tables."""
    tables, inputs = make_tables(), [0, 2, 1, 1, 3, 0, 4]
    packed = pack_tables(tables, inputs)
    ids = torch.randint(-5, 60, (samples, 5), generator=torch.Generator().manual_seed(samples)).to(dtype)
    expected = torch.cat([table(ids[:, i : i + 1]) for table, i in zip(tables, inputs, strict=True)], dim=1)
    wide = torch.cat([ids, ids], dim=1)
    for laid_out in (ids, ids.t().contiguous().t(), wide[:, :5], wide[:, 5:]):
        assert torch.equal(packed(laid_out), expected)
    if samples:
        assert torch.equal(packed(ids[:1].expand(4, 5)), expected[:1].expand(4, -1))


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("samples", [1, 5, 700])
def test_bags_of_all_tables_in_one_call(samples: int, mode: str) -> None:
    """Pooled vectors to the bit, weighted where tables sum, on one thread and on several."""
    tables = make_tables(mode)
    packed = pack_tables(tables)
    ids, offsets, weights = draw_bags(len(tables), samples)
    for scales in (None, weights) if mode == "sum" else (None,):
        parts = [table(*cut(ids, offsets, scales, n, samples)) for n, table in enumerate(tables)]
        assert torch.equal(packed.pool(ids, offsets, scales), torch.cat(parts, dim=1))
        assert torch.equal(
            packed.pool(ids.clamp(-9, 99).int(), offsets.int(), scales), packed.pool(ids.clamp(-9, 99), offsets, scales)
        )


def test_a_row_per_id() -> None:
    """Rows of ids of several inputs, each with a table of its own, in the order of the ids."""
    tables = make_tables(dim=4)
    order = [3, 0, 6, 1, 2, 5, 4]
    packed = PackedTables(pack_bytes(tables), [(table, place) for place, table in enumerate(order)], [4] * 7)
    ids, offsets, _ = draw_bags(7, 9)
    expected = [tables[table].lookup(cut(ids, offsets, None, place, 9)[0]) for place, table in enumerate(order)]
    assert torch.equal(packed.look_up_rows(ids, offsets), torch.cat(expected))
    none = torch.zeros(0, dtype=torch.int64)
    assert packed.look_up_rows(none, torch.zeros(8, dtype=torch.int64)).shape == (0, 4)


@pytest.mark.parametrize("base", BASES)
def test_ids_outside_are_an_exception_where_the_table_says_so(base: str) -> None:
    """The sentence names the table and the place of the id; nothing else happens to the process."""
    table = random_table(3, base, ("codes",), 8)
    module = CompressedEmbedding(table.spec, name="t", group=table.group)
    module.fill(table.tensors)
    packed = pack_tables([module])
    assert torch.equal(packed(torch.tensor([[0], [1]])), module(torch.tensor([0, 1])))
    for foreign in (-1, table.spec.rows, FAR):
        with pytest.raises(RuntimeError, match=r"tables\.0: id number 1 is outside"):
            packed(torch.tensor([[0], [foreign]]))


def test_what_does_not_fit_is_refused() -> None:
    """Dtypes, shapes, plans, offsets and weights that go wrong each have their sentence."""
    packed = pack_tables(make_tables())
    operators, tables, plan, width = load_operators(), packed.packed, packed.plan, packed.width
    ids, offsets, weights = draw_bags(7, 3)
    none, grid = torch.empty(0), torch.zeros(3, 7, dtype=torch.int64)
    falling = offsets.clone()
    falling[2] = 99
    wrong_plan = plan.clone()
    wrong_plan[0, 1] = 7
    for call, said in (
        (lambda: operators.look_up_ids(tables, grid.double(), plan, width), "int64 or int32"),
        (lambda: operators.look_up_ids(tables, grid[0], plan, width), "2 dimensions"),
        (lambda: operators.look_up_ids(tables, grid, plan, width + 1), f"{width} wide, not {width + 1}"),
        (lambda: operators.look_up_ids(tables, grid, wrong_plan, width), "not there"),
        (lambda: operators.look_up_ids(tables, grid, plan.long(), width), "wrong dtype"),
        (lambda: operators.look_up_ids(tables.float(), grid, plan, width), "wrong dtype"),
        (lambda: operators.look_up_ids(tables[::2], grid, plan, width), "contiguous"),
        (lambda: operators.look_up_bags(tables, ids, offsets[:-1], none, plan, 7, width), "as many as inputs"),
        (lambda: operators.look_up_bags(tables, ids, falling, none, plan, 7, width), "rise from 0"),
        (lambda: operators.look_up_bags(tables, ids, offsets + 1, none, plan, 7, width), "stay within the ids"),
        (lambda: operators.look_up_bags(tables, ids, offsets, weights[1:], plan, 7, width), "weight of its own"),
        (lambda: operators.look_up_bags(tables, ids, offsets, weights * torch.nan, plan, 7, width), "is NaN"),
        (lambda: operators.look_up_bags(tables, ids, offsets, none, plan, 0, width), "as many as inputs"),
        (lambda: operators.look_up_rows(tables, ids, offsets, plan, 7, 3), "not `dim` wide"),
        (lambda: operators.look_up_rows(tables, ids, offsets, plan[:1], 7, 3), "leaves an input out"),
    ):
        with pytest.raises(RuntimeError, match=said):
            call()


def test_weights_do_not_go_with_means() -> None:
    """As nn.EmbeddingBag has it."""
    ids, offsets, weights = draw_bags(7, 3)
    with pytest.raises(RuntimeError, match="takes the mean"):
        pack_tables(make_tables("mean")).pool(ids, offsets, weights)


def test_damaged_bytes_are_refused_and_never_read_outside() -> None:
    """Any byte that changes is found at first sight; the process lives on."""
    packed = pack_tables(make_tables(dim=40))  # like no others: their memory, known and freed, may be given out again
    grid = torch.zeros(2, 7, dtype=torch.int64)
    draw = np.random.default_rng(0)
    for place in [0, 9, *draw.integers(0, packed.packed.numel(), 60).tolist()]:
        damaged = packed.packed.clone()
        damaged[place] ^= 1 + int(draw.integers(255))
        with pytest.raises(RuntimeError, match="the buffer"):
            torch.ops.memrec.look_up_ids(damaged, grid, packed.plan, packed.width)
    for short in (0, 7, 8, 100, packed.packed.numel() - 1):
        with pytest.raises(RuntimeError):
            torch.ops.memrec.look_up_ids(packed.packed[:short].clone(), grid, packed.plan, packed.width)


def test_memory_that_holds_other_tables_later_is_seen_anew() -> None:
    """The same address and size with other bytes: tables are known by their digest too, and by no address alone."""
    first = pack_bytes([make_table(4, 8, bag=True, mode="sum")])
    other = make_table(4, 8, bag=True, mode="sum")
    other.rows.mul_(-1)
    second = pack_bytes([other])
    assert first.shape == second.shape
    memory, ids, plan = first.clone(), torch.arange(5).view(-1, 1), torch.tensor([[0, 0]], dtype=torch.int32)
    before = torch.ops.memrec.look_up_ids(memory, ids, plan, 8)
    memory.copy_(second)
    after = torch.ops.memrec.look_up_ids(memory, ids, plan, 8)
    assert torch.equal(after, other.lookup(ids.flatten()))
    assert torch.equal(before, -after)


def test_more_tables_than_are_kept_open() -> None:
    """Beyond some number the oldest is opened again; results stay."""
    module = make_table(0, 3, bag=True, mode="sum")
    kept = [pack_tables([module]) for _ in range(150)]
    ids = torch.arange(6).view(-1, 1)
    for packed in [*kept, *reversed(kept)]:
        assert torch.equal(packed(ids), module.lookup(ids.flatten()))


def test_many_threads_may_look_up() -> None:
    """Threads that open and look up more tables than are kept open at once, all at the same time."""
    module = make_table(0, 3, bag=True, mode="sum")
    kept, ids = [pack_tables([module]) for _ in range(90)], torch.arange(6).view(-1, 1)
    expected = module.lookup(ids.flatten())

    def look_up(start: int) -> bool:
        return all(torch.equal(kept[(start + n) % len(kept)](ids), expected) for n in range(2 * len(kept)))

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(look_up, range(0, 90, 11)))


def test_a_table_in_training_is_refused() -> None:
    """What is packed would not be what the model computes."""
    table = make_tables()[0]
    table.decoder = lambda ids: torch.zeros(len(ids), 3)
    with pytest.raises(ModelError, match="not in training"):
        pack_tables([table])


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("strict", [True, False])
def test_torchs_tracers_take_the_operators(strict: bool) -> None:
    """Compiled in one piece, exported with dynamic sizes, and traced, all give what the module gives."""
    packed = pack_tables(make_tables())
    ids = torch.randint(-5, 60, (6, 7))
    compiled = torch.compile(packed, fullgraph=True, backend="aot_eager")
    batch = torch.export.Dim("batch", min=1)
    exported = torch.export.export(packed, (ids,), dynamic_shapes=({0: batch},), strict=strict).module()
    traced, scripted = torch.jit.trace(packed, (ids,)), torch.jit.script(packed)
    for samples in (6, 1, 9):
        one = torch.randint(-5, 60, (samples, 7))
        for run in (compiled, exported, traced, scripted):
            assert torch.equal(run(one), packed(one))


def test_the_operators_keep_torchs_rules() -> None:
    """torch.library.opcheck: schemas, shapes without data, and tracing with dynamic shapes."""
    packed, rows = pack_tables(make_tables()), pack_tables(make_tables(dim=4))
    ids, offsets, weights = draw_bags(7, 3)
    checks = (
        ("look_up_ids", (packed.packed, ids[:21].view(3, 7), packed.plan, packed.width)),
        ("look_up_bags", (packed.packed, ids, offsets, weights, packed.plan, 7, packed.width)),
        ("look_up_rows", (rows.packed, ids, offsets, rows.plan, 7, 4)),
        ("take_request", ([torch.rand(4, 3), torch.ones(4, 2).long()], torch.tensor([[0, -1, 3], [1, -1, 2]]).int())),
    )
    for name, arguments in checks:
        found = torch.library.opcheck(getattr(torch.ops.memrec, name).default, arguments)
        assert set(found.values()) == {"SUCCESS"}


def test_declarations_are_torchs_own(tmp_path: Path) -> None:
    """A file that includes both torch's headers and ours compiles: a function declared otherwise would be an error."""
    compiler, include = find_compiler(), Path(torch.__file__).parent / "include"
    shim = include / "torch" / "csrc" / "stable" / "c" / "shim.h"
    if not shim.is_file():
        pytest.skip("this torch has no stable interface")
    options = ["-std=c++20", "-fsyntax-only", "-isystem", str(include), "-I", str(OPERATORS)]
    for declared, sound in ((None, True), ("AOTITorchError torch_get_num_threads(int64_t*);", False)):
        source = tmp_path / "both.cpp"
        own = '#include "torch_abi.h"\n' if declared is None else f'extern "C" {declared}\n'
        source.write_text(f"#include <torch/csrc/stable/c/shim.h>\n{own}", encoding="utf-8")
        ran = subprocess.run(
            [compiler, *options, str(source)], capture_output=True, text=True, timeout=300, check=False
        )
        assert (ran.returncode == 0) == sound, ran.stderr


def test_a_forked_process_looks_up() -> None:
    """The child has none of the parent's threads and makes new ones."""
    code = """
import os, torch
from tiny_networks import make_table
from memrec_convert.exports.packed import pack_tables
torch.set_num_threads(2)
table = make_table(4, 8, bag=True, mode="sum")
packed, ids = pack_tables([table]), torch.arange(9000).view(-1, 1) % 30
expected = packed(ids)
child = os.fork()
if child == 0:
    os._exit(0 if torch.equal(packed(ids), expected) else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    paths = [str(TESTS), str(TESTS / "artifact"), str(TESTS / "encoding")]
    code = f"import sys; sys.path[:0] = {paths}\n{code}"
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stderr
