"""The networks beside DLRM: their formulas, their inputs, and the architectures that they refuse."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from memrec_convert.errors import ModelError
from memrec_convert.models import build_model

DCN = {
    "name": "dlrm-dcn",
    "interaction": "cross",
    "bottom": [2, 5, 4],
    "top": [12, 3, 1],
    "tables": [[7, 4], [5, 4]],
    "cross_layers": 2,
    "cross_rank": 3,
}
DEEPFM = {
    "name": "deepfm",
    "interaction": "fm",
    "fields": 2,
    "linear": "dense",
    "bottom": [2],
    "top": [10, 3, 1],
    "tables": [[7, 4], [5, 4], [5, 1], [7, 1]],
    "table_inputs": [0, 1, 1, 0],
}


def build(architecture):
    """The network with random weights in float64, so that formulas can be compared closely."""
    torch.manual_seed(2)
    tables = [nn.EmbeddingBag(rows, dim, mode="sum") for rows, dim in architecture["tables"]]
    model = build_model(architecture, tables).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


def inputs():
    """Dense features and single-valued ids of six samples."""
    return torch.rand(6, 2).double(), torch.stack([torch.randint(0, 7, (6,)), torch.randint(0, 5, (6,))], dim=1)


def test_the_logit_of_a_dcn_is_its_formula():
    """x0 * (W(V x) + b) + x per layer on all vectors side by side, sample by sample."""
    model, (dense, ids) = build(DCN), inputs()
    got = model(dense, ids)
    for sample in range(6):
        rows = [table.weight[i] for table, i in zip(model.tables, ids[sample], strict=True)]
        first = crossed = torch.cat([model.bottom(dense[sample]), *rows])
        for layer in model.cross:
            crossed = first * (layer.up @ (layer.down @ crossed) + layer.bias) + crossed
        torch.testing.assert_close(got[sample], model.top(crossed)[0])


@pytest.mark.parametrize("linear", ["dense", "rows", "none"])
def test_the_logit_of_a_deepfm_is_its_formula(linear):
    """MLP, sum of the products of all pairs of factors, linear part and rows a column wide, sample by sample."""
    model, (dense, ids) = build(DEEPFM | {"linear": linear}), inputs()
    got = model(dense, ids)
    for sample in range(6):
        a, b = ids[sample]
        factors = [model.tables[0].weight[a], model.tables[1].weight[b]]
        expected = model.top(torch.cat([*factors, dense[sample]]))[0] + factors[0] @ factors[1]
        expected = expected + model.tables[2].weight[b, 0] + model.tables[3].weight[a, 0]
        if linear != "none":
            weighed = dense[sample] if linear == "dense" else torch.cat(factors)
            expected = expected + model.first_order[0] @ weighed
        torch.testing.assert_close(got[sample], expected)


@pytest.mark.parametrize("architecture", [DCN, DEEPFM])
def test_bags_of_one_id_are_the_ids(architecture):
    """Ids [B, inputs] and bags per input give the same logits; another number of inputs is refused."""
    model, (dense, ids) = build(architecture), inputs()
    bags = [(column, torch.arange(6)) for column in ids.t()]
    assert torch.equal(model(dense, bags), model(dense, ids))
    assert torch.equal(model.interact(dense, model.embed(ids)), model(dense, ids))
    with pytest.raises(ModelError, match="ids for 4 inputs, the model has 2"):
        model(dense, torch.zeros(6, 4, dtype=torch.int64))


def test_a_table_of_one_id_per_sample_refuses_bags():
    """`single_valued` tables take empty bags and single ids, but neither several nor weights."""
    model, (dense, ids) = build(DCN | {"single_valued": [1]}), inputs()
    first = (ids[:, 0], torch.arange(6))
    model(dense, [first, (ids[:3, 1], torch.tensor([0, 0, 1, 1, 2, 2]))])
    with pytest.raises(ModelError, match="table 1 multiplies quotient and remainder"):
        model(dense, [first, (ids[:, 1], torch.tensor([0, 0, 1, 2, 3, 4]))])
    with pytest.raises(ModelError, match="one id per sample"):
        model(dense, [first, (ids[:, 1], torch.arange(6), torch.ones(6).double())])


@pytest.mark.parametrize(
    ("architecture", "change", "sentence"),
    [
        (DCN, {"cross_layers": 0}, "0 cross layers"),
        (DCN, {"cross_rank": None}, "of rank None"),
        (DCN, {"top": [13, 3, 1]}, "expected widths from 12 to 1"),
        (DCN, {"tables": [[7, 4]]}, "architecture > tables"),
        (DEEPFM, {"fields": 5}, "5 fields"),
        (DEEPFM, {"linear": "all"}, "linear part over 'all'"),
        (DEEPFM, {"fields": 3}, "3 of one width"),
        (DEEPFM, {"top": [9, 3, 1]}, "expected widths from 10 to 1"),
        (DEEPFM, {"bottom": []}, "architecture > bottom"),
        (DEEPFM, {"table_inputs": [0, 1, 1, 3]}, "architecture > table_inputs"),
        (DEEPFM, {"table_inputs": [0, 1]}, "architecture > table_inputs"),
        (DEEPFM, {"table_inputs": [[0], 1, 1, 0]}, "architecture > table_inputs"),
        (DCN, {"single_valued": [2]}, "architecture > single_valued"),
        (DCN, {"single_valued": [[0]]}, "architecture > single_valued"),
    ],
)
def test_architectures_that_contradict_themselves_are_refused(architecture, change, sentence):
    """Numbers and widths that make no network are a ModelError."""
    tables = [nn.EmbeddingBag(rows, dim, mode="sum") for rows, dim in architecture["tables"]]
    with pytest.raises(ModelError, match=sentence):
        build_model(architecture | change, tables)
