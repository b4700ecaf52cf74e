"""Lookups through memrec.h: rows and sums are Python's to the bit, for every form and every way to ask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from c_library import Input, Library, Refused
from native_tables import CODECS, KINDS, make_bag, make_embedding, make_kept
from random_tables import BASES
from torch import nn

from memrec_convert import save
from memrec_convert.lookup import CompressedTable

IN_PLACE = 1
DIMS = (1, 7, 16, 33, 64, 128)


def save_tables(tables: Sequence[nn.Module], path: Path) -> Path:
    """An artifact of these tables, at the paths 0, 1, ..."""
    model = nn.ModuleList(tables)
    save(model, path)
    return path


def make_tables() -> list[CompressedTable]:
    """One table per base form and combination of levels, and one per row codec."""
    tables = [
        make_bag(number, base=base, kinds=kinds, dim=DIMS[number % len(DIMS)])
        for number, (base, kinds) in enumerate((base, kinds) for base in BASES for kinds in KINDS)
    ]
    for number, table in enumerate(tables):
        if table.group is not None:  # of random tables with one dim, all are called the same
            table.group.spec = replace(table.group.spec, group=f"group {number}")
            table.spec = replace(table.spec, hashing=table.group.spec)
    kept = [make_kept(90 + number, codec, 24) for number, codec in enumerate(CODECS)]
    return [*tables, *kept, make_embedding(99, dim=32, padding_idx=3)]


@pytest.fixture(scope="module")
def tables() -> list[CompressedTable]:
    """The modules as Python looks them up."""
    return make_tables()


@pytest.fixture(scope="module")
def path(tables: list[CompressedTable], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Their file."""
    return save_tables(tables, tmp_path_factory.mktemp("forms") / "forms.safetensors")


def same_bits(one: np.ndarray, other: torch.Tensor) -> bool:
    """Whether two float32 arrays have the same shape and bits."""
    return one.shape == tuple(other.shape) and one.tobytes() == other.detach().contiguous().numpy().tobytes()


def draw(rows: int, count: int, seed: int) -> np.ndarray:
    """Ids inside a table, int64 [count]."""
    return np.random.default_rng(seed).integers(0, rows, count)


@pytest.mark.parametrize("flags", [0, IN_PLACE])
def test_rows_of_every_form_are_pythons(
    library: Library, tables: list[CompressedTable], path: Path, flags: int
) -> None:
    """Every row of every table, on each instruction set, with tables copied and in place."""
    for instruction_set in library.instruction_sets():
        with library.open(path, flags=flags, instruction_set=instruction_set) as artifact:
            artifact.verify()
            for number, table in enumerate(tables):
                ids = np.arange(table.spec.rows)
                (found,) = artifact.look_up([Input(number, ids)], len(ids))
                expected = table.lookup(torch.from_numpy(ids))
                if table.padding_idx is not None:
                    expected[table.padding_idx] = 0
                assert same_bits(found, expected), (instruction_set, number, table.extra_repr())


def test_tables_are_listed_by_number(library: Library, tables: list[CompressedTable], path: Path) -> None:
    """Table 10 comes after table 9, and the facts are those of the modules."""
    with library.open(path) as artifact:
        facts = artifact.tables()
        assert [one.path.decode() for one in facts] == [str(number) for number in range(len(tables))]
        for one, table in zip(facts, tables, strict=True):
            assert (one.rows, one.dim, one.name.decode()) == (table.spec.rows, table.spec.dim, table.name)
            assert one.pooling == {"sum": 1, "mean": 2}.get(getattr(table, "mode", ""), 0)
            assert one.padding_id == (-1 if table.padding_idx is None else table.padding_idx)
            buffers = [*table.named_buffers()]
            assert one.bytes == sum(tensor.numel() * tensor.element_size() for _, tensor in buffers)
        assert artifact.find("10") == 10
        assert artifact.find("no such table") == -1


def test_all_tables_in_one_call(library: Library, tables: list[CompressedTable], path: Path) -> None:
    """Batches on both sides of what a piece and a thread take, ids as columns of a grid, on one thread and two."""
    bags = [table for table in tables if hasattr(table, "mode")]
    with library.open(path) as artifact, library.pool(2) as pool:
        for samples in (1, 3, 20, 64, 65, 700):
            grid = np.stack([draw(table.spec.rows, samples, number) for number, table in enumerate(bags)], axis=1)
            inputs = [Input(number, grid[:, number]) for number in range(len(bags))]
            for threads in (None, pool):
                found = artifact.look_up(inputs, samples, threads)
                for number, table in enumerate(bags):
                    assert same_bits(found[number], table.lookup(torch.from_numpy(grid[:, number].copy())))


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_bags_are_pythons(library: Library, tmp_path: Path, dtype: type, mode: str) -> None:
    """Sums and means over empty, short and long bags, with padding and weights, have the bits of the module."""
    module = make_bag(5, mode=mode, padding_idx=2, dim=48)
    path = save_tables([module], tmp_path / "bags.safetensors")
    random = np.random.default_rng(1)
    sizes = np.array([0, 1, 2, 0, 90, 3, 0, 130, 5, 0])
    offsets = (np.cumsum(sizes) - sizes).astype(dtype)
    ids = random.integers(0, 40, sizes.sum()).astype(dtype)
    weights = random.normal(size=len(ids)).astype(np.float32) if mode == "sum" else None
    expected = module(
        torch.from_numpy(ids), torch.from_numpy(offsets), None if weights is None else torch.from_numpy(weights)
    )
    for instruction_set in library.instruction_sets():
        with library.open(path, instruction_set=instruction_set) as artifact:
            (found,) = artifact.look_up([Input(0, ids, offsets, weights)], len(sizes))
            assert same_bits(found, expected)


@pytest.mark.parametrize("outside", ["error", "clip", "hash", "zero"])
def test_ids_outside_do_what_the_module_does(library: Library, tmp_path: Path, outside: str) -> None:
    """By the file's own word, and by that of a lookup that asks for another way."""
    ids = np.array([0, -1, 5, 10**15, -(10**15), 39, 2**62, -(2**63)])
    module = make_bag(3, oov=outside)
    path = save_tables([module], tmp_path / f"{outside}.safetensors")
    with library.open(path) as artifact:
        if outside == "error":
            with pytest.raises(Refused, match="id number 1 is outside the table's") as caught:
                artifact.look_up([Input(0, ids)], len(ids))
            assert (caught.value.status, caught.value.lookup, caught.value.position) == ("BAD_ID", 0, 1)
        else:
            (found,) = artifact.look_up([Input(0, ids)], len(ids))
            assert same_bits(found, module.lookup(torch.from_numpy(ids)))
        for other in ("clip", "hash", "zero"):
            module.oov = other
            (found,) = artifact.look_up([Input(0, ids, outside=other)], len(ids))
            assert same_bits(found, module.lookup(torch.from_numpy(ids)))


def test_bad_requests_are_refused(library: Library, tables: list[CompressedTable], path: Path) -> None:
    """Each mistake has its code and its sentence, and nothing is written."""
    ids, offsets = np.array([1, 2, 3]), np.array([0, 1])
    pooled, plain = 0, len(tables) - 1
    cases = [
        ([Input(999, ids)], 3, "BAD_ARGUMENT", "no table of this number"),
        ([Input(-1, ids)], 3, "BAD_ARGUMENT", "no table of this number"),
        ([Input(pooled, ids)], 2, "BAD_ARGUMENT", "every bag has one id"),
        ([Input(plain, ids, offsets)], 2, "BAD_ARGUMENT", "does not pool"),
        ([Input(pooled, ids, weights=np.ones(3, np.float32))], 3, "BAD_ARGUMENT", "weights go with offsets"),
        ([Input(pooled, ids, np.array([0, 4]))], 2, "BAD_OFFSET", "number 1 does not"),
        ([Input(pooled, ids, np.array([1, 2]))], 2, "BAD_OFFSET", "number 0 does not"),
        ([Input(pooled, ids, np.array([0, -1]))], 2, "BAD_OFFSET", "number 1 does not"),
        ([Input(pooled, ids, offsets, np.array([0, 1, np.nan], np.float32))], 2, "BAD_WEIGHT", "number 2 is NaN"),
        ([Input(pooled, ids, np.array([], np.int64))], 0, "BAD_ARGUMENT", "no bag to hold them"),
    ]
    with library.open(path) as artifact:
        for inputs, bags, status, message in cases:
            with pytest.raises(Refused, match=message) as caught:
                artifact.look_up([Input(pooled, ids[:bags], offsets[:bags] if bags else None), *inputs], bags)
            assert caught.value.status == status
            assert caught.value.lookup == 1
        assert artifact.look_up([Input(pooled, ids[:0])], 0)[0].shape == (0, tables[0].spec.dim)


def test_one_artifact_serves_many_threads(library: Library, tables: list[CompressedTable], path: Path) -> None:
    """Eight Python threads over one artifact and one pool, in calls that release the GIL, each get their own rows."""
    from concurrent.futures import ThreadPoolExecutor

    with library.open(path) as artifact, library.pool(2) as pool:

        def check(seed: int) -> bool:
            number = seed % len(tables)
            ids = draw(tables[number].spec.rows, 3000, seed)
            (found,) = artifact.look_up([Input(number, ids)], len(ids), pool)
            expected = tables[number].lookup(torch.from_numpy(ids))
            if tables[number].padding_idx is not None:
                expected[torch.from_numpy(ids) == tables[number].padding_idx] = 0
            return same_bits(found, expected)

        with ThreadPoolExecutor(8) as threads:
            assert all(threads.map(check, range(200)))


def test_options_are_checked(library: Library, path: Path) -> None:
    """An instruction set that is not there, and flags that nobody knows, are the caller's mistake."""
    with pytest.raises(Refused, match="'sse9' is not available") as caught, library.open(path, instruction_set="sse9"):
        pass
    assert caught.value.status == "BAD_ARGUMENT"
    with pytest.raises(Refused, match=r"options\.flags"), library.open(path, flags=6):
        pass
    with pytest.raises(Refused, match="from 1 to 256"), library.pool(0):
        pass
