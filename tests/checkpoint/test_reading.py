"""From a path to a model: layouts, wrappers, interaction, optimizer state, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from memrec_convert.checkpoint import Facts, read_source, verify_storage
from memrec_convert.checkpoint.inspect import inspect
from memrec_convert.errors import CheckpointError, IncompleteCheckpointError, NoTablesError


def test_a_dlrm_file_is_read_with_its_figures(dlrm_file):
    """Tables in order, dense part under canonical names, numpy scalars as stored metrics."""
    source = read_source(dlrm_file)
    assert (source.layout, source.container) == ("facebookresearch-dlrm", "zip .pt")
    assert [(table.name, table.rows, table.dim) for table in source.tables] == [
        ("emb_l.0", 7, 8),
        ("emb_l.1", 5, 8),
        ("emb_l.2", 3, 8),
    ]
    assert list(source.dense)[:4] == ["bottom.0.weight", "bottom.0.bias", "bottom.2.weight", "bottom.2.bias"]
    assert source.architecture == {
        "name": "dlrm",
        "interaction": "dot",
        "pairs": "lower",
        "self_interaction": False,
        "bottom": [4, 6, 8],
        "top": [14, 5, 1],
        "tables": [[7, 8], [5, 8], [3, 8]],
        "dense_transform": "log1p",
    }
    assert source.stored_metrics == {"test_auc": 0.75, "train_loss": 0.5}
    assert source.table_bytes == 15 * 8 * 4
    assert source.dense_bytes == 4 * sum((4 * 6, 6, 6 * 8, 8, 14 * 5, 5, 5, 1))
    assert source.warnings == source.unrun_classes == ()
    assert len(source.assumed) == 4


@pytest.mark.parametrize(
    ("width", "interaction", "itself"), [(14, "dot", False), (18, "dot", True), (32, "cat", False)]
)
def test_the_width_of_the_top_layer_tells_the_interaction(dlrm_state, save, width, interaction, itself):
    """dot, dot with itself and cat are told apart by the first top layer alone."""
    architecture = read_source(save(dlrm_state(width=width))).architecture
    assert (architecture["interaction"], architecture["self_interaction"]) == (interaction, itself)


def test_a_width_that_fits_two_interactions_warns(dlrm_state, save):
    """Seven tables of four are as wide concatenated as their pairs with themselves: dot is assumed aloud."""
    source = read_source(save(dlrm_state(rows=(3,) * 7, dim=4)))
    assert source.architecture["interaction"] == "dot"
    assert "fits dot and cat" in source.warnings[0]


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict", "net"])
@pytest.mark.parametrize("prefix", ["", "module.", "model.module.", "module.module.", "_orig_mod.model."])
def test_wrappers_are_taken_off(dlrm_state, save, key, prefix):
    """A state dict under a key and behind wrappers' prefixes is the same model."""
    state = OrderedDict((prefix + name, value) for name, value in dlrm_state().items())
    assert [table.name for table in read_source(save({key: state})).tables] == ["emb_l.0", "emb_l.1", "emb_l.2"]


def test_two_models_in_one_state_dict_are_refused(dlrm_state, save):
    """Names that become equal without their prefixes are an error, not a choice."""
    state = dlrm_state()
    with pytest.raises(CheckpointError, match="without their prefixes"):
        read_source(save(state | {f"module.{name}": value for name, value in state.items()}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("legacy", [False, True])
def test_tables_in_any_floating_dtype_are_read(dlrm_state, save, dtype, legacy):
    """Half, bfloat16 and double tables are sources like any other, in both forms of torch.save."""
    state = {name: value.to(dtype) for name, value in dlrm_state().items()}
    source = read_source(save(state, _use_new_zipfile_serialization=not legacy))
    assert source.container == ("legacy .pt" if legacy else "zip .pt")
    assert source.tables[1].dtype == str(dtype).removeprefix("torch.")
    np.testing.assert_array_equal(source.tables[1].weight.read(), state["emb_l.1.weight"].float().numpy())
    verify_storage(source)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("legacy", [False, True])
def test_every_pickle_protocol_is_read(dlrm_state, save, protocol, legacy):
    """Protocols 2 to 5, numpy scalars and small arrays among the values."""
    extra = {"test_auc": np.float64(0.5), "counts": np.arange(3), "fortran": np.asfortranarray(np.eye(3, 2))}
    path = save(
        {"state_dict": dlrm_state(), **extra}, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy
    )
    source = read_source(path)
    assert source.stored_metrics == {"test_auc": 0.5}
    assert source.unrun_classes == ()


def test_parameters_and_tied_tables_are_read(dlrm_state, save):
    """nn.Parameter entries are tensors; two tables on one storage are both listed, with a warning."""
    state = dlrm_state(rows=(4, 4, 4))
    state["emb_l.2.weight"] = state["emb_l.0.weight"]
    source = read_source(save({name: nn.Parameter(value) for name, value in state.items()}))
    assert source.tables[0].weight == source.tables[2].weight
    assert source.warnings == ("emb_l.2 is stored as the same tensor as emb_l.0",)


def test_a_torchrec_file_keeps_the_order_of_its_tables(torchrec_state, save):
    """torchrec tables come in the order of the keys, pairs in the order of the upper triangle."""
    source = read_source(save(torchrec_state()))
    assert source.layout == "torchrec-dlrm"
    assert [table.name for table in source.tables] == ["t_zip", "t_age"]
    assert source.architecture["pairs"] == "upper"
    assert list(source.dense)[-2:] == ["top.2.weight", "top.2.bias"]


def test_a_safetensors_file_is_read(dlrm_state, tmp_path):
    """The same state dict in safetensors gives the same tensors."""
    state = dlrm_state() | {"steps": torch.tensor(3), "emb_l.0.weight": torch.randn(7, 8).bfloat16()}
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    source = read_source(tmp_path / "model.safetensors")
    assert source.container == "safetensors"
    assert torch.equal(source.tables[0].weight.as_tensor(), state["emb_l.0.weight"].float())
    assert torch.equal(source.dense["top.0.bias"].as_tensor(), state["top_l.0.bias"])
    verify_storage(source)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_whole_pickled_module_is_walked(save, legacy):
    """torch.save(model) is read through `_modules` and `_parameters`; its classes are named, not run.

    The old form keeps the source of each class beside its name, which is not looked at.
    """
    model = nn.Module()
    for part, modules in (
        ("emb_l", nn.ModuleList(nn.EmbeddingBag(rows, 8, mode="sum") for rows in (7, 5, 3))),
        ("bot_l", nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 8), nn.ReLU())),
        ("top_l", nn.Sequential(nn.Linear(14, 5), nn.ReLU(), nn.Linear(5, 1), nn.Sigmoid())),
    ):
        setattr(model, part, modules)
    source = read_source(save(model, _use_new_zipfile_serialization=not legacy))
    assert torch.equal(source.tables[2].weight.as_tensor(), model.emb_l[2].weight)
    assert "torch.nn.modules.linear.Linear" in source.unrun_classes


@pytest.mark.parametrize("rowwise", [False, True])
def test_optimizer_state_is_matched_to_the_tables(dlrm_state, save, rowwise):
    """Adagrad's `sum` and row-wise Adagrad's `momentum` belong to parameter i of the state dict."""
    state = dlrm_state()
    values = list(state.values())
    entries = {
        place: {"momentum": value[:, 0].clone()} if rowwise and place < 3 else {"step": 6, "sum": value.abs()}
        for place, value in enumerate(values)
    }
    source = read_source(save({"state_dict": state, "opt_state_dict": {"state": entries, "param_groups": []}}))
    assert source.optimizer == ("rowwise-adagrad" if rowwise else "adagrad")
    assert [table.optimizer.shape for table in source.tables] == [
        (rows,) if rowwise else (rows, 8) for rows in (7, 5, 3)
    ]
    expected = values[1][:, 0] if rowwise else values[1].abs()
    assert torch.equal(source.tables[1].optimizer.as_tensor(), expected)


def test_optimizer_state_of_other_shapes_is_not_used(dlrm_state, save):
    """State that does not fit the parameters is a warning, not a guess."""
    entries = {0: {"sum": torch.zeros(2, 2)}}
    source = read_source(save({"state_dict": dlrm_state(), "opt_state_dict": {"state": entries}}))
    assert (source.optimizer, source.tables[0].optimizer) == ("adagrad", None)
    assert "does not fit" in source.warnings[0]


def test_missing_tables_refuse_conversion_and_warn_in_inspection(dlrm_state, save):
    """A rank's file shows in the width of the top layer alone."""
    state = dlrm_state(rows=(7, 5, 3, 2, 2))
    del state["emb_l.3.weight"], state["emb_l.4.weight"]
    path = save(state)
    with pytest.raises(IncompleteCheckpointError, match=r"holds 3 tables, but .* needs 5 \(dot\)"):
        read_source(path)
    report = inspect(path)
    assert len(report.tables) == 3
    assert "tables are missing" in report.warnings[0]


@pytest.mark.parametrize(
    ("drop", "sentence"),
    [
        ("emb_l.1.weight", "not number 1"),
        ("bot_l.0.weight", "layer 0 lacks"),
        ("top_l.0", "numbered"),
        ("bot_l", "not in the file"),
    ],
)
def test_a_gap_in_the_network_is_named(dlrm_state, save, drop, sentence):
    """What is missing from the network's tables and layers is an IncompleteCheckpointError."""
    state = {name: value for name, value in dlrm_state().items() if not name.startswith(drop)}
    with pytest.raises(IncompleteCheckpointError, match=sentence):
        read_source(save(state))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"v_W_l.0": torch.ones(6)}, r"weights per row \(weighted pooling\) of shape \[6\] do not fit emb_l.0"),
        ({"v_W_l.3": torch.ones(6)}, "of no table"),
        ({"emb_l.3.weight_q": torch.ones(6, 8)}, "its other part emb_l.3.weight_r is missing"),
        ({"emb_l.3.embs.weight": torch.ones(6, 2), "emb_l.3.proj.weight": torch.ones(8, 3)}, "does not fit"),
        ({"emb_l.3.weight_q": torch.ones(6, 8), "emb_l.3.weight_r": torch.ones(2, 4)}, "which do not fit"),
        ({"emb_l.0.weight": torch.ones(7, 8, dtype=torch.uint8)}, "quantised"),
        ({"emb_l.0.weight": torch.ones(7)}, "rows and columns"),
        ({"emb_l.0.weight": torch.ones(1, 8).expand(7, 8)}, "one stored row"),
        ({"emb_l.0.weight": torch.ones(7, 3)}, "a dot interaction needs them equal"),
        ({"emb_l.0.weight": None}, "is stored as NoneType"),
        ({"emb_l.0.weight": torch.ones(7, 8).to_sparse()}, "is stored as torch._utils._rebuild_sparse_tensor"),
        ({"emb_l.0.weight": torch.ones(7, 8, dtype=torch.complex64)}, "is stored as torch.Tensor of complex64"),
        ({"emb_l.module.0.weight": torch.ones(7, 8)}, "in the file twice"),
        ({"top_l.2.weight": torch.ones(2, 5), "top_l.2.bias": torch.ones(2)}, "ends in 2 outputs"),
        ({"top_l.2.weight": torch.ones(1, 9)}, "do not form one linear layer"),
        ({"top_l.0.weight": torch.ones(5, 13)}, "another interaction"),
    ],
)
def test_a_network_that_cannot_be_converted_is_named(dlrm_state, save, changes, sentence):
    """Each thing that this version does not convert has a sentence of its own."""
    with pytest.raises(CheckpointError, match=sentence):
        read_source(save(dlrm_state() | changes))


def test_quotient_remainder_and_mixed_dimension_tables_are_listed(dlrm_state, save):
    """inspect lists such tables with their rows and the width that is stored; the network reads full width."""
    state = dlrm_state()
    for name in ("emb_l.0.weight", "emb_l.1.weight"):
        del state[name]
    state |= {"emb_l.0.weight_q": torch.ones(3, 8), "emb_l.0.weight_r": torch.ones(4, 8)}
    state |= {"emb_l.1.embs.weight": torch.ones(9, 2), "emb_l.1.proj.weight": torch.ones(8, 2)}
    path = save(state)
    report = inspect(path)
    assert [(table["rows"], table["dim"], table["bytes"]) for table in report.tables] == [
        (12, 8, 4 * 56),
        (9, 2, 4 * 34),
        (3, 8, 4 * 24),
    ]
    assert [table.get("form") for table in report.tables] == ["quotient-remainder", "mixed-dimension", None]
    assert "a bag of several is refused" in report.warnings[0]
    assert [table.weight.shape for table in read_source(path).tables] == [(12, 8), (9, 8), (3, 8)]


@pytest.mark.parametrize(
    ("content", "error", "sentence"),
    [
        ({"embedding_dict.C1.weight": torch.ones(5, 8)}, CheckpointError, "not the DeepFM of DeepCTR-Torch"),
        ({"user_embedding.weight": torch.ones(5, 8)}, CheckpointError, r"has user_embedding \[5, 8\], but how its"),
        ({"fc.weight": torch.ones(5, 8)}, NoTablesError, "no embedding table"),
        ({}, NoTablesError, "0 entries"),
        ([torch.ones(2)], CheckpointError, "holds a list"),
        (torch.ones(2), CheckpointError, "holds a tensor"),
        (torch.device("cpu"), CheckpointError, "object of class torch.device"),
        (3, CheckpointError, "holds a int"),
    ],
)
def test_other_contents_are_named(save, content, error, sentence):
    """A torch file without a known model says what it holds."""
    with pytest.raises(error, match=sentence):
        read_source(save(content))


def test_inspect_is_json_and_needs_no_torch(dlrm_file):
    """`inspect` reads headers alone and never imports torch."""
    code = (
        "import json, sys; from memrec_convert.checkpoint.inspect import inspect; "
        "report = inspect(sys.argv[1]); assert 'torch' not in sys.modules; print(json.dumps(report.to_json()))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(dlrm_file)], capture_output=True, text=True, check=True)
    report = json.loads(done.stdout)
    assert report["tables"][0] == {"name": "emb_l.0", "rows": 7, "dim": 8, "dtype": "float32", "bytes": 224}
    assert report["file_bytes"] == dlrm_file.stat().st_size
    assert set(report) >= {"layout", "container", "dense_bytes", "optimizer", "warnings", "assumed", "network"}


@pytest.mark.parametrize(
    "fact", [{"field_sizes": (7, 5, 3)}, {"table_order": ("emb_l.0",)}, {"qr_operation": "add"}], ids=str
)
def test_a_fact_without_a_part_in_the_reading_is_said(dlrm_file, fact):
    """Stated of another network's checkpoint."""
    (name,) = fact
    warnings = read_source(dlrm_file, facts=Facts(**fact)).warnings
    assert any(f"--assume {name} has no part" in one for one in warnings)
