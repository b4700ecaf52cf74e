"""The DLRM module: its interaction, its inputs, and the architectures that it refuses."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from memrec_convert.checkpoint import read_source
from memrec_convert.errors import ModelError
from memrec_convert.models import DLRM, build_model, build_original, load_dense
from memrec_convert.models.pairs import pair_index


def architecture(interaction="dot", pairs="lower", itself=False, rows=(7, 5, 3), dim=4):
    """A small architecture that fits together."""
    vectors = len(rows) + 1
    width = dim * vectors if interaction == "cat" else dim + vectors * (vectors + (1 if itself else -1)) // 2
    return {
        "name": "dlrm",
        "interaction": interaction,
        "pairs": pairs,
        "self_interaction": itself,
        "bottom": [2, 6, dim],
        "top": [width, 5, 1],
        "tables": [[count, dim] for count in rows],
        "dense_transform": "log1p",
    }


def build(**options) -> DLRM:
    """A model of it with random weights."""
    torch.manual_seed(5)
    described = architecture(**options)
    return build_model(described, [nn.EmbeddingBag(rows, dim, mode="sum") for rows, dim in described["tables"]])


@pytest.mark.parametrize(("lower", "itself"), [*itertools.product((True, False), repeat=2)])
@pytest.mark.parametrize("vectors", [2, 3, 6])
def test_pairs_come_row_by_row_of_their_triangle(vectors, lower, itself):
    """The index holds the places that a double loop over the triangle visits, in its order."""
    expected = [
        row * vectors + column
        for row in range(vectors)
        for column in range(vectors)
        if (row > column if lower else row < column) or (itself and row == column)
    ]
    assert pair_index(vectors, lower=lower, itself=itself).tolist() == expected


@pytest.mark.parametrize(
    ("interaction", "pairs", "itself"),
    [("dot", "lower", False), ("dot", "lower", True), ("dot", "upper", False), ("cat", "lower", False)],
)
def test_the_logit_is_the_formula(interaction, pairs, itself):
    """The output equals a plain evaluation, sample by sample, in float64."""
    model = build(interaction=interaction, pairs=pairs, itself=itself).double()
    dense, ids = torch.rand(6, 2).double(), torch.randint(0, 3, (6, 3))
    got = model(dense, ids)
    for sample in range(6):
        vectors = [model.bottom(dense[sample])] + [
            bag.weight[i] for bag, i in zip(model.tables, ids[sample], strict=True)
        ]
        places = range(len(vectors))
        order = [
            (i, j) for i in places for j in places if (i > j if pairs == "lower" else i < j) or (itself and i == j)
        ]
        products = torch.stack([vectors[i] @ vectors[j] for i, j in order])
        joined = torch.cat(vectors) if interaction == "cat" else torch.cat([vectors[0], products])
        torch.testing.assert_close(got[sample], model.top(joined)[0])


@settings(max_examples=30, deadline=None)
@given(batch=st.integers(1, 9), weighted=st.booleans())
def test_single_valued_bags_are_the_ids(batch, weighted):
    """Ids [B, T] and bags of one id with weight one give the same bits, as do the stacked vectors."""
    model, dense, ids = build(), torch.rand(batch, 2), torch.randint(0, 3, (batch, 3))
    weights = torch.ones(batch)
    bags = [(column, torch.arange(batch), weights) if weighted else (column, torch.arange(batch)) for column in ids.t()]
    expected = model(dense, ids)
    assert expected.shape == (batch,)
    assert torch.equal(model(dense, bags), expected)
    assert torch.equal(model.interact(dense, torch.stack(model.embed(ids), dim=1)), expected)


def test_the_index_is_no_part_of_the_state():
    """The state dict holds parameters alone, under the names of a source's dense part."""
    names = set(build().state_dict())
    assert not any("pair_index" in name for name in names)
    assert {"bottom.0.weight", "bottom.2.bias", "top.0.weight", "top.2.bias", "tables.0.weight"} <= names


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"name": "transformer"}, "'transformer' is not known"),
        ({"table_inputs": [0, 1]}, "architecture > table_inputs"),
        ({"table_inputs": [0, 2, 2]}, "architecture > table_inputs"),
        ({"padding": 9}, "architecture > padding"),
        ({"interaction": "unknown"}, "interaction 'unknown'"),
        ({"pairs": "all"}, "with pairs 'all'"),
        ({"interaction": None}, "interaction None"),
        ({"bottom": [4]}, "architecture > bottom"),
        ({"top": None}, "architecture > top"),
        ({"top": [11, 5, 1]}, "expected widths from 10 to 1"),
        ({"top": [10, 5, 2]}, "expected widths from 10 to 1"),
        ({"tables": [[7, 4], [5, 4]]}, "architecture > tables"),
        ({"tables": [[7, 4], [5, 4], [3, 2]]}, "tables 4 wide"),
    ],
)
def test_architectures_that_contradict_themselves_are_refused(change, sentence):
    """Unknown names and widths that do not fit are a ModelError."""
    tables = [nn.EmbeddingBag(rows, 4, mode="sum") for rows in (7, 5, 3)]
    with pytest.raises(ModelError, match=sentence):
        build_model(architecture() | change, tables)


def test_a_batch_of_another_number_of_tables_is_refused():
    """Too few or too many columns of ids are a ModelError."""
    with pytest.raises(ModelError, match="ids for 2 inputs, the model has 3"):
        build()(torch.rand(4, 2), torch.zeros(4, 2, dtype=torch.int64))


def test_an_original_holds_the_files_weights_and_evaluates(tmp_path):
    """build_original gives float32 tables and dense part of a checkpoint, in eval mode."""
    model = build()
    names = {"tables": "emb_l", "bottom": "bot_l", "top": "top_l"}
    state = {
        f"{names[name.split('.')[0]]}.{name.split('.', 1)[1]}": value for name, value in model.state_dict().items()
    }
    torch.save({"state_dict": {name: value.half() for name, value in state.items()}}, tmp_path / "m.pt")
    original = build_original(read_source(tmp_path / "m.pt"))
    assert not original.training
    for name, value in model.state_dict().items():
        assert torch.equal(original.state_dict()[name], value.half().float())


def test_a_dense_part_that_does_not_fit_is_refused():
    """Names and shapes of the dense part must be exactly the model's."""
    model = build()
    dense = {name: value for name, value in copy.deepcopy(model).state_dict().items() if not name.startswith("tables")}
    load_dense(model, dense)
    with pytest.raises(ModelError, match=r"bottom.0.bias: expected shape \[6\]"):
        load_dense(model, dense | {"bottom.0.bias": torch.zeros(3)})
    with pytest.raises(ModelError, match="in one of them only"):
        load_dense(model, dense | {"bottom.9.bias": torch.zeros(3)})
