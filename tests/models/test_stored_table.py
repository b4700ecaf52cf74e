"""Tables that stay in their file answer as those in memory do; sets of tables go by name."""

import numpy as np
import pytest
import torch
from torch import nn

from memrec_convert.checkpoint import read_source
from memrec_convert.errors import CheckpointError, ModelError
from memrec_convert.models import StoredTable, TableSet, build_original


def test_a_model_with_its_tables_in_the_file_gives_the_same_bits(tiny):
    """All logits are equal, for single ids and for bags with and without weights, empty ones among them."""
    source = read_source(tiny.checkpoint)
    held, stored = build_original(source), build_original(source, held_bytes=0)
    assert all(isinstance(table, StoredTable) for table in stored.tables)
    draw = torch.Generator().manual_seed(0)
    dense = torch.rand(50, 2, generator=draw)
    ids = torch.stack([torch.randint(0, table.rows, (50,), generator=draw) for table in source.tables], dim=1)
    assert torch.equal(held(dense, ids), stored(dense, ids))
    for weights in (None, torch.rand(60, generator=draw)):
        offsets = torch.arange(50).clamp(max=30)
        bags = [(torch.randint(0, table.rows, (60,), generator=draw), offsets, weights) for table in source.tables]
        assert torch.equal(held(dense, bags), stored(dense, bags))


def test_an_id_outside_is_refused(tiny):
    """With the table's size."""
    table = StoredTable(read_source(tiny.checkpoint).tables[2].weight)
    with pytest.raises(IndexError, match="ids from 3 to 40 for a table of 40 rows"):
        table(torch.tensor([3, 40]), torch.tensor([0, 1]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_rows_by_id_are_the_rows(tmp_path, dtype):
    """Whatever the type, the order in memory, and however far ids lie apart."""
    rows = torch.randn(500, 6, generator=torch.Generator().manual_seed(1)).to(dtype)
    torch.save({"a_embedding.weight": rows, "b_embedding.weight": rows.t().contiguous().t()}, tmp_path / "m.pt")
    ids = np.array([0, 1, 2, 40, 41, 300, 499])
    for table in read_source(tmp_path / "m.pt", for_conversion=False).tables:
        assert np.array_equal(table.weight.read_ids(ids), table.weight.read()[ids])
        assert table.weight.read_ids(ids[:0]).shape == (0, 6)


def test_a_file_that_was_cut_is_noticed(tmp_path):
    """A row beyond the end is an error, not zeros."""
    torch.save({"a_embedding.weight": torch.ones(5000, 6)}, tmp_path / "m.pt")
    table = read_source(tmp_path / "m.pt", for_conversion=False).tables[0]
    with (tmp_path / "m.pt").open("r+b") as file:
        file.truncate(50_000)
    with pytest.raises(CheckpointError, match="changed or cut"):
        table.weight.read_ids(np.array([4999]))


def test_a_set_of_tables_goes_by_name():
    """Names in order, rows of ids, and a sentence for a name that is not there."""
    tables = [nn.Embedding(5, 2), nn.Embedding(7, 3)]
    found = TableSet({"tables": [[5, 2], [7, 3]], "names": ["user.id", "item"]}, tables)
    assert list(found) == ["user.id", "item"]
    assert (len(found), "item" in found, dict(found.items())["item"]) == (2, True, tables[1])
    assert torch.equal(found("user.id", torch.tensor([[1, 4]])), tables[0](torch.tensor([[1, 4]])))
    with pytest.raises(KeyError, match=r"no table 'x'; they are user\.id, item"):
        found["x"]


@pytest.mark.parametrize("names", [None, ["a"], ["a", "a"], 3])
def test_names_that_do_not_fit_are_refused(names):
    """Each table has a name of its own."""
    with pytest.raises(ModelError, match="names"):
        TableSet({"tables": [[5, 2], [7, 3]], "names": names}, [nn.Embedding(5, 2), nn.Embedding(7, 3)])
