"""Frameworks' names: what each layout reads from a state dict, what it assumes, and what it refuses."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from memrec_convert.checkpoint import Facts, read_source
from memrec_convert.checkpoint.inspect import inspect
from memrec_convert.errors import CheckpointError, IncompleteCheckpointError


def quotient_remainder(dlrm_state, width):
    """A DLRM state whose first table is in two parts of this width."""
    state = dlrm_state()
    del state["emb_l.0.weight"]
    return state | {"emb_l.0.weight_q": torch.randn(3, width), "emb_l.0.weight_r": torch.randn(4, width)}


@pytest.mark.parametrize(
    ("stated", "width", "operation", "said"),
    [
        (None, 8, "mult", "multiplied (by default)"),
        ("mult", 8, "mult", "multiplied (as stated)"),
        ("add", 8, "add", "added (as stated)"),
        (None, 4, "concat", "joined side by side (as the widths show)"),
        ("concat", 4, "concat", "joined side by side (as the widths show)"),
    ],
)
def test_the_operation_of_quotient_remainder_tables(dlrm_state, save, stated, width, operation, said):
    """mult is assumed aloud, add must be stated, concat shows; only mult forbids bags of several ids."""
    state = quotient_remainder(dlrm_state, width)
    source = read_source(save(state), facts=Facts(qr_operation=stated))
    assert any(said in line for line in source.assumed)
    assert source.architecture.get("single_valued") == ([0] if operation == "mult" else None)
    upper, lower = state["emb_l.0.weight_q"][1].numpy(), state["emb_l.0.weight_r"][3].numpy()
    expected = {"mult": upper * lower, "add": upper + lower, "concat": np.concatenate([upper, lower])}[operation]
    np.testing.assert_array_equal(source.tables[0].weight.read_rows(7, 8)[0], expected)


@pytest.mark.parametrize(("stated", "width"), [("concat", 8), ("add", 4), ("mult", 4)])
def test_an_operation_against_the_widths_is_refused(dlrm_state, save, stated, width):
    """What the shapes rule out cannot be stated."""
    with pytest.raises(CheckpointError, match="was stated, but the parts of a table are"):
        read_source(save(quotient_remainder(dlrm_state, width)), facts=Facts(qr_operation=stated))


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        ({"qr_operation": "xor"}, "'xor' is not one of mult, add, concat"),
        ({"field_sizes": [5, 0]}, "not whole numbers above zero"),
        ({"field_sizes": [5, True]}, "not whole numbers above zero"),
    ],
)
def test_unknown_facts_are_refused(facts, sentence):
    """Facts are checked when they are stated."""
    with pytest.raises(CheckpointError, match=sentence):
        Facts(**facts)


def test_weights_per_row_are_folded_into_the_rows(dlrm_state, save):
    """Learned weighted pooling scales the rows, plain or in mixed dimensions."""
    state = dlrm_state() | {"v_W_l.0": torch.rand(7), "v_W_l.1": torch.rand(5)}
    del state["emb_l.1.weight"]
    state |= {"emb_l.1.embs.weight": torch.randn(5, 2), "emb_l.1.proj.weight": torch.randn(8, 2)}
    tables = read_source(save(state)).tables
    torch.testing.assert_close(tables[0].weight.as_tensor(), state["emb_l.0.weight"] * state["v_W_l.0"][:, None])
    rows = state["emb_l.1.embs.weight"] @ state["emb_l.1.proj.weight"].t() * state["v_W_l.1"][:, None]
    torch.testing.assert_close(tables[1].weight.as_tensor(), rows)
    assert [table.form for table in tables] == ["weighted", "mixed-dimension", "plain"]


def test_a_mixed_dimension_table_of_full_width_has_no_projection(dlrm_state, save):
    """Where nothing is projected, the stored rows are the rows."""
    state = dlrm_state()
    state["emb_l.2.embs.weight"] = state.pop("emb_l.2.weight")
    source = read_source(save(state))
    assert torch.equal(source.tables[2].weight.as_tensor(), state["emb_l.2.embs.weight"])


def add_cross_layers(state, width=12, rank=3, layers=2):
    """A torchrec state as that of a DLRM_DCN."""
    for layer in range(layers):
        state[f"inter_arch.crossnet.W_kernels.{layer}"] = torch.randn(width, rank)
        state[f"inter_arch.crossnet.V_kernels.{layer}"] = torch.randn(rank, width)
        state[f"inter_arch.crossnet.bias.{layer}"] = torch.randn(width)
    return state | {"over_arch.model.0._mlp.0._linear.weight": torch.randn(5, width)}


def test_a_torchrec_dcn_is_read(torchrec_state, save):
    """Cross layers give depth and rank; the top MLP takes all vectors side by side."""
    source = read_source(save(add_cross_layers(torchrec_state())))
    assert source.architecture["name"] == "dlrm-dcn"
    assert (source.architecture["cross_layers"], source.architecture["cross_rank"]) == (2, 3)
    assert source.dense["cross.1.up"].shape == (12, 3)


@pytest.mark.parametrize(
    ("drop", "change", "error", "sentence"),
    [
        ("inter_arch.crossnet.bias.1", {}, IncompleteCheckpointError, "cross layers: some are missing"),
        ("", {"inter_arch.crossnet.bias.1": torch.ones(11)}, CheckpointError, "cross layer 1: shapes"),
        ("", {"inter_arch.interaction.0.weight": torch.ones(2, 2)}, CheckpointError, "DLRM_Projection"),
    ],
)
def test_a_torchrec_dcn_with_gaps_is_refused(torchrec_state, save, drop, change, error, sentence):
    """Missing or misshapen cross layers, and another network's interaction, are named."""
    state = add_cross_layers(torchrec_state()) | change
    with pytest.raises(error, match=sentence):
        read_source(save({name: value for name, value in state.items() if name != drop}))


def test_sorted_keys_do_not_decide_the_order_of_numbered_tables(torchrec_state, save):
    """DistributedModelParallel sorts its keys, so t_10 stands before t_2 in the file and not in the network."""
    names = tuple(f"t_{number}" for number in range(11))
    state = torchrec_state(names)
    source = read_source(save(dict(sorted(state.items()))))
    assert [table.name for table in source.tables] == list(names)
    assert any("order of the numbers" in line for line in source.assumed)
    shuffled = dict(reversed(state.items()))
    assert [table.name for table in read_source(save(shuffled, "s.pt")).tables] == list(reversed(names))


def test_sorted_names_without_numbers_are_a_guess_that_can_be_corrected(torchrec_state, save):
    """The order of the names is assumed aloud, and a stated order takes its place."""
    path = save(dict(sorted(torchrec_state(("t_zip", "t_age")).items())))
    source = read_source(path)
    assert [table.name for table in source.tables] == ["t_age", "t_zip"]
    assert "sorted by name" in source.warnings[0]
    stated = read_source(path, facts=Facts(table_order=["t_zip", "t_age"]))
    assert [table.name for table in stated.tables] == ["t_zip", "t_age"]
    with pytest.raises(CheckpointError, match="does not name each of them once"):
        read_source(path, facts=Facts(table_order=["t_zip", "t_zip"]))


def quantised(torchrec_state, *, width, dim, kind, tables=2):
    """A torchrec state with byte tables, and what says their form."""
    state = torchrec_state(dim=dim)
    stem = "sparse_arch.embedding_bag_collection."
    for name in ("t_zip", "t_age"):
        state[f"{stem}embedding_bags.{name}.weight"] = torch.zeros(6, width, dtype=torch.uint8)
    state[f"{stem}tbes.0.D_offsets"] = torch.arange(tables + 1, dtype=torch.int32) * dim
    state[f"{stem}tbes.0.weights_tys"] = torch.full((tables,), kind, dtype=torch.uint8)
    return state


@pytest.mark.parametrize(("width", "dim", "kind"), [(32, 16, 2), (32, 28, 2), (32, 16, 1), (16, 4, 0)])
def test_the_form_of_quantised_tables_decides(torchrec_state, save, width, dim, kind):
    """Rows of 32 bytes are 16 or 28 columns of int8, or 16 of fp16: the tensors beside them tell."""
    source = read_source(save(quantised(torchrec_state, width=width, dim=dim, kind=kind)))
    assert [(table.dim, table.nbytes, table.dtype) for table in source.tables] == [(dim, 6 * width, "uint8")] * 2
    assert any("code * scale + shift" in line for line in source.assumed)


@pytest.mark.parametrize(
    ("width", "kind", "tables", "sentence"),
    [
        (32, 3, 2, "quantised to int4, which is not read"),
        (48, 2, 2, "rows of 48 bytes, but 16 columns"),
        (32, 9, 2, "fbgemm's type 9"),
        (32, 2, 0, "a quantised model"),
    ],
)
def test_quantised_tables_of_unknown_form_are_refused(torchrec_state, save, width, kind, tables, sentence):
    """What the file does not tell is not guessed."""
    with pytest.raises(CheckpointError, match=sentence):
        read_source(save(quantised(torchrec_state, width=width, dim=16, kind=kind, tables=tables)))


def deepctr_state(features=("a", "b"), dense=3):
    """A DeepFM of DeepCTR-Torch."""
    torch.manual_seed(0)
    width = 4 * len(features) + dense
    state = {f"embedding_dict.{name}.weight": torch.randn(5, 4) for name in features}
    state |= {f"linear_model.embedding_dict.{name}.weight": torch.randn(5, 1) for name in reversed(features)}
    state |= {"dnn.linears.0.weight": torch.randn(6, width), "dnn.linears.0.bias": torch.randn(6)}
    state |= {"dnn_linear.weight": torch.randn(1, 6), "out.bias": torch.randn(1)}
    return state | ({"linear_model.weight": torch.randn(dense, 1)} if dense else {})


@pytest.mark.parametrize("dense", [0, 3])
def test_a_deepctr_deepfm_is_read(save, dense):
    """Both tables of a feature share its input, whatever their order in the file."""
    source = read_source(save(deepctr_state(dense=dense), "m.h5"))
    assert source.architecture["table_inputs"] == [0, 1, 1, 0]
    assert source.architecture["input_names"] == ["a", "b"]
    assert source.architecture["bottom"] == [dense]
    assert source.architecture["linear"] == ("dense" if dense else "none")
    assert source.architecture["top"] == [8 + dense, 6, 1]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"crossnet.kernels": torch.ones(1)}, "has crossnet.kernels"),
        ({"dnn_linear.weight": torch.ones(1, 5)}, "expected a tensor of shape"),
        ({"dnn.linears.2.bias": torch.ones(5)}, "its layer 1 is missing"),
        ({"linear_model.embedding_dict.a.weight": torch.ones(6, 1)}, "expected 5 x 1"),
        ({"linear_model.weight": torch.ones(4, 1)}, "linear_model.weight"),
        ({"embedding_dict.a.weight": torch.ones(5, 3)}, "linear_model.weight"),
    ],
)
def test_other_networks_of_deepctr_are_listed_only(save, change, sentence):
    """What is no DeepFM is inspected, and refused for conversion."""
    path = save(deepctr_state() | change)
    assert len(inspect(path).tables) == 4
    with pytest.raises(CheckpointError, match=sentence):
        read_source(path)


def normalised_mlp(widths, *, norm=True):
    """`mlp.mlp` of pytorch-fm and torch-rechub."""
    state = {}
    for place, (inputs, outputs) in enumerate(pairwise(widths)):
        state[f"mlp.mlp.{4 * place}.weight"] = torch.randn(outputs, inputs)
        state[f"mlp.mlp.{4 * place}.bias"] = torch.randn(outputs)
        if norm and place < len(widths) - 2:
            state |= {
                f"mlp.mlp.{4 * place + 1}.{part}": torch.rand(outputs) + 0.1
                for part in ("weight", "bias", "running_mean", "running_var")
            }
    return state


def test_batch_norm_is_folded_into_the_layer_before_it(save):
    """The folded Linear does what Linear and BatchNorm did in eval mode."""
    state = {"embedding.embed_dict.a.weight": torch.randn(5, 4), "embedding.embed_dict.b.weight": torch.randn(5, 4)}
    state |= {"linear.fc.weight": torch.randn(1, 8), "linear.fc.bias": torch.randn(1)} | normalised_mlp([10, 6, 1])
    source = read_source(save(state))
    assert (source.layout, source.architecture["bottom"]) == ("torch-rechub", [2])
    norm = torch.nn.BatchNorm1d(6).eval()
    norm.load_state_dict(
        {name.removeprefix("mlp.mlp.1."): value for name, value in state.items() if ".1." in name}, strict=False
    )
    inputs = torch.randn(7, 10)
    with torch.no_grad():
        expected = norm(inputs @ state["mlp.mlp.0.weight"].t() + state["mlp.mlp.0.bias"])
    folded = inputs @ source.dense["top.0.weight"].as_tensor().t() + source.dense["top.0.bias"].as_tensor()
    torch.testing.assert_close(folded, expected)
    last = source.dense["top.2.bias"].as_tensor()
    torch.testing.assert_close(last, state["mlp.mlp.4.bias"] + state["linear.fc.bias"])


@pytest.mark.parametrize(
    ("drop", "change", "sentence"),
    [
        ("", {"cross.w": torch.ones(1)}, "has cross.w"),
        ("linear.fc.bias", {}, "linear.fc.bias: expected a tensor of shape .*found nothing"),
        ("mlp.mlp.1.running_var", {}, "BatchNorm mlp.mlp.1 lacks a part"),
        ("mlp.mlp.4.bias", {}, "mlp.mlp.4 is no Linear"),
        ("", {"embedding.embed_dict.b.weight": torch.ones(5, 3)}, "linear.fc.weight: expected a tensor"),
    ],
)
def test_other_networks_of_torch_rechub_are_listed_only(save, drop, change, sentence):
    """What is no DeepFM is inspected, and refused for conversion."""
    state = {"embedding.embed_dict.a.weight": torch.randn(5, 4), "embedding.embed_dict.b.weight": torch.randn(5, 4)}
    state |= {"linear.fc.weight": torch.randn(1, 8), "linear.fc.bias": torch.randn(1)} | normalised_mlp([10, 6, 1])
    path = save({name: value for name, value in (state | change).items() if name != drop})
    assert len(inspect(path).tables) == 2
    with pytest.raises(CheckpointError, match=sentence):
        read_source(path)


def test_field_sizes_must_fit_the_joint_table(save):
    """Without sizes, or with wrong ones, a joint table is listed as one and not converted."""
    state = {"embedding.embedding.weight": torch.randn(9, 4), "linear.fc.weight": torch.randn(9, 1)}
    state |= {"linear.bias": torch.randn(1)} | normalised_mlp([8, 6, 1])
    path = save(state)
    assert [table["rows"] for table in inspect(path).tables] == [9, 9]
    with pytest.raises(CheckpointError, match="state the field sizes"):
        read_source(path)
    with pytest.raises(CheckpointError, match="add up to 8 ids, the joint table has 9"):
        read_source(path, facts=Facts(field_sizes=(5, 3)))
    source = read_source(path, facts=Facts(field_sizes=(5, 4)))
    assert [(table.rows, table.dim) for table in source.tables] == [(5, 4), (4, 4), (5, 1), (4, 1)]
    assert source.architecture["table_inputs"] == [0, 1, 0, 1]


def test_what_counts_as_a_table_in_an_unknown_network(save):
    """Matrices named as embeddings count; a Linear, positions, statistics and a second name of one table do not."""
    tied = torch.randn(6, 4)
    state = {
        "user_embedding.weight": tied,
        "tied_emb.weight": tied,
        "item_emb.weight": torch.randn(5, 4),
        "embedding_proj.weight": torch.randn(4, 4),
        "embedding_fc.weight": torch.randn(3, 4),
        "embedding_fc.bias": torch.randn(3),
        "position_embedding.weight": torch.randn(10, 4),
        "emb_norm.running_mean": torch.randn(4),
        "fc.weight": torch.randn(2, 4),
        "emb_ids": torch.ones(3, 3).long(),
        "qr_emb.weight_q": torch.randn(3, 4),
        "qr_emb.weight_r": torch.randn(2, 4),
    }
    report = inspect(save(state))
    assert report.layout == "tables only"
    found = [(table["name"], table["bytes"]) for table in report.tables]
    assert found == [("user_embedding", 96), ("item_emb", 80), ("qr_emb.weight_q", 80)]
    assert any("tied_emb.weight is stored as the same tensor" in warning for warning in report.warnings)
