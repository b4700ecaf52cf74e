"""Where a file keeps the model's state: keys, tuples, towers, arrays, averages and wrappers' prefixes."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from memrec_convert.checkpoint import Facts, read_source
from memrec_convert.checkpoint.inspect import inspect
from memrec_convert.errors import CheckpointError

KEYS = ("model_state", "module", "network", "weights", "params", "state", "generator", "my_net", "a.b")


def tower(seed=0):
    """One side of a two-tower model."""
    torch.manual_seed(seed)
    return {"cat_embed.weight": torch.randn(50, 4), "mlp.0.weight": torch.randn(8, 4), "mlp.0.bias": torch.zeros(8)}


def names_of(report):
    """The tables' names."""
    return [table["name"] for table in report.tables]


@pytest.mark.parametrize("key", KEYS)
def test_a_state_under_any_key_is_found(dlrm_state, save, key):
    """Whatever a training script calls it, and whatever lies beside it."""
    state = dlrm_state()
    content = {
        "epoch": 3,
        "history": torch.zeros(9),
        "lr": [0.1, 0.2],
        key: state,
        "scheduler": {"last": torch.ones(2, 2)},
    }
    source = read_source(save(content))
    assert source.layout == "facebookresearch-dlrm"
    assert torch.equal(source.tables[1].weight.as_tensor(), state["emb_l.1.weight"])


@pytest.mark.parametrize("wrap", [lambda s: (s, 3), lambda s: [{"epoch": 1}, s], lambda s: {"all": [(s,)]}])
def test_a_state_in_tuples_and_lists_is_found(dlrm_state, save, wrap):
    """Lists and tuples are entered as mappings are."""
    assert names_of(inspect(save(wrap(dlrm_state())))) == ["emb_l.0", "emb_l.1", "emb_l.2"]


def test_a_pickled_module_under_a_key_is_found(save):
    """A whole module beside other things."""
    model = nn.Sequential(OrderedDict(embed=nn.Embedding(9, 4), head=nn.Linear(4, 1)))
    assert names_of(inspect(save({"epoch": 1, "best": model}))) == ["embed"]


def test_towers_keep_their_keys_as_prefixes(save):
    """Several states of one file are one model, each name below its key."""
    content = {"epoch": 1, "user_tower": tower(0), "item_tower": tower(1)}
    source = read_source(save(content), tables_only=True)
    assert [table.name for table in source.tables] == ["user_tower.cat_embed", "item_tower.cat_embed"]
    for table, side in zip(source.tables, ("user_tower", "item_tower"), strict=True):
        assert torch.equal(table.weight.as_tensor(), content[side]["cat_embed.weight"])


def test_a_mapping_among_the_entries_keeps_its_key(save):
    """A table that lies one level deeper than the others."""
    report = inspect(save({"item_emb.weight": torch.ones(9, 4), "user_emb": {"weight": torch.ones(7, 4)}}))
    assert names_of(report) == ["item_emb", "user_emb"]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.dtype(">f4")])
def test_arrays_of_numpy_are_tensors(dlrm_state, save, dtype):
    """Values that lie inside the pickle are read by rows as any others, whatever their bytes' order."""
    state = dlrm_state()
    source = read_source(save({"state_dict": {name: value.numpy().astype(dtype) for name, value in state.items()}}))
    table, expected = source.tables[0].weight, state["emb_l.0.weight"].numpy().astype(dtype).astype(np.float32)
    np.testing.assert_array_equal(table.read(), expected)
    np.testing.assert_array_equal(table.read_rows(2, 5), expected[2:5])
    np.testing.assert_array_equal(table.read_ids(np.array([0, 6])), expected[[0, 6]])
    assert table.nbytes == expected.size * np.dtype(dtype).itemsize
    assert len({one.weight for one in source.tables}) == 3


@pytest.mark.parametrize(
    "prefix",
    [
        "net.",
        "dlrm.",
        "_forward_module.",
        "_fsdp_wrapped_module.",
        "model._fsdp_wrapped_module.",
        "_orig_mod.module.",
        "ranker.network.core.",
    ],
)
def test_a_known_network_is_recognised_below_a_prefix(dlrm_state, save, prefix):
    """Whatever attribute held the network in training."""
    state = dlrm_state()
    extra = {"criterion.weight": torch.ones(1)}
    source = read_source(save({"state_dict": {prefix + name: value for name, value in state.items()} | extra}))
    assert source.layout == "facebookresearch-dlrm"
    assert torch.equal(source.tables[2].weight.as_tensor(), state["emb_l.2.weight"])
    assert any("criterion.weight" in warning for warning in source.warnings)


def test_wrappers_inside_names_are_taken_off(dlrm_state, save):
    """FSDP and compile wrap single layers too."""
    state = {name.replace(".0.", "._orig_mod.0._fsdp_wrapped_module."): one for name, one in dlrm_state().items()}
    assert read_source(save(state)).layout == "facebookresearch-dlrm"


def test_two_known_networks_are_not_taken_for_one(dlrm_state, save):
    """Below two prefixes there is no telling which is served: all tables are listed."""
    state = {f"{side}.{name}": value for side in ("left", "right") for name, value in dlrm_state().items()}
    report = inspect(save(state))
    assert (report.layout, len(report.tables)) == ("tables only", 6)


@pytest.mark.parametrize(
    ("content", "taken", "other"),
    [
        (lambda a, b: {"model": a, "ema": b}, "model", "ema"),
        (lambda a, b: {"ema_state": b, "weights_now": a}, "weights_now", "ema_state"),
        (lambda a, b: {"model": {"state_dict": a}, "callbacks": {"EMA": {"shadow": b}}}, "model.state_dict", ""),
        (lambda a, b: {"best": b, "last": a, "state_dict": a}, "state_dict", "best"),
    ],
)
def test_of_competing_states_one_is_taken_and_the_other_named(dlrm_state, save, content, taken, other):
    """The warning says which, and how to take the other, which then is the one."""
    state = dlrm_state()
    average = {name: value + 1 for name, value in state.items()}
    path = save(content(state, average))
    source = read_source(path)
    assert torch.equal(source.tables[0].weight.as_tensor(), state["emb_l.0.weight"])
    if other:
        assert any(taken in one and f"--assume state={other}" in one for one in source.warnings)
        chosen = read_source(path, facts=Facts(state=other))
        assert torch.equal(chosen.tables[0].weight.as_tensor(), average["emb_l.0.weight"])
        assert chosen.architecture["stated"] == {"state": other}


def test_an_average_among_the_names_is_left_and_named(dlrm_state, save):
    """`ema_model.` beside `model.`: the same entries twice in one state dict."""
    state = dlrm_state()
    both = {f"model.{name}": value for name, value in state.items()}
    both |= {f"ema_model.{name}": value + 1 for name, value in state.items()}
    path = save({"state_dict": both})
    source = read_source(path)
    assert torch.equal(source.tables[0].weight.as_tensor(), state["emb_l.0.weight"])
    assert any("--assume state=ema_model" in warning for warning in source.warnings)
    chosen = read_source(path, facts=Facts(state="ema_model"))
    assert torch.equal(chosen.tables[0].weight.as_tensor(), state["emb_l.0.weight"] + 1)


def test_a_state_that_is_not_there_is_refused(dlrm_state, save):
    """The sentence names those that are."""
    with pytest.raises(CheckpointError, match=r"has no state 'emma'; tensors are under model, ema"):
        read_source(save({"model": dlrm_state(), "ema": dlrm_state()}), facts=Facts(state="emma"))


def test_one_tensor_is_a_table(save):
    """torch.save(embedding.weight): no names, one table."""
    rows = torch.randn(20, 3)
    source = read_source(save(rows), tables_only=True)
    assert torch.equal(source.tables[0].weight.as_tensor(), rows)


def test_as_lightning_keeps_it(dlrm_state, save):
    """Hyperparameters, callbacks and loops beside a state dict below the module's attribute."""
    content = {
        "epoch": 1,
        "pytorch-lightning_version": "2.5",
        "state_dict": {f"net.{name}": value for name, value in dlrm_state().items()},
        "hyper_parameters": {"sizes": torch.ones(3, 3), "rate": 0.1},
        "callbacks": {"Checkpoint{'monitor': 'auc'}": {"best_model_score": torch.tensor(0.8)}},
        "loops": {"fit_loop": {"state_dict": {}}},
        "optimizer_states": [{"state": {}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.99), "params": [0]}]}],
    }
    source = read_source(save(content, "model.ckpt"))
    assert (source.layout, source.optimizer.split()[0]) == ("facebookresearch-dlrm", "adam")
