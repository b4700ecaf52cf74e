"""An optimizer's state: matched to its tables by name, or by shape and order where these leave one way, else left."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from memrec_convert.checkpoint import read_source
from memrec_convert.checkpoint.inspect import inspect

SAME = (7, 7, 7)


class Net(nn.Module):
    """A model with facebookresearch's names, maybe with a BatchNorm before and a buffer."""

    def __init__(self, rows=SAME, *, norm=False):
        super().__init__()
        self.norm = nn.BatchNorm1d(4) if norm else None
        self.emb_l = nn.ModuleList(nn.EmbeddingBag(count, 8, mode="sum") for count in rows)
        self.bot_l = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 8), nn.ReLU())
        self.top_l = nn.Sequential(nn.Linear(14, 5), nn.ReLU(), nn.Linear(5, 1), nn.Sigmoid())


def step(model, optimizer):
    """One step with a gradient for every parameter that tells it from the others."""
    for number, parameter in enumerate(model.parameters()):
        if parameter.requires_grad:
            parameter.grad = torch.full_like(parameter, number + 1.0)
    optimizer.step()
    return optimizer.state_dict()


def sums_of(model, path_or_source):
    """Per table: whether its accumulator is its own, None where there is none."""
    found = [table.optimizer for table in path_or_source.tables]
    numbers = {id(p): n for n, p in enumerate(model.parameters())}
    wanted = [float((numbers[id(bag.weight)] + 1) ** 2) for bag in model.emb_l]
    return [None if one is None else bool((one.as_tensor() == w).all()) for one, w in zip(found, wanted, strict=True)]


def dense_of(model):
    """Parameters of no table."""
    return [p for name, p in model.named_parameters() if not name.startswith("emb_l")]


@pytest.mark.parametrize("key", ["opt_state_dict", "optimizer", "optimizer_state_dict", "optim", "optimizer_state"])
@pytest.mark.parametrize("norm", [False, True])
def test_one_group_in_the_model_s_order(save, key, norm):
    """Buffers and BatchNorm lie between, and are no parameters."""
    model = Net(norm=norm)
    state = step(model, torch.optim.Adagrad(model.parameters()))
    source = read_source(save({"state_dict": model.state_dict(), key: state}))
    assert (source.optimizer, sums_of(model, source)) == ("adagrad", [True] * 3)


def test_as_lightning_keeps_several(save):
    """`optimizer_states`: one for the tables, one for the rest."""
    model = Net((7, 5, 3))
    tables = step(model, torch.optim.Adagrad(model.emb_l.parameters()))
    dense = step(model, torch.optim.Adam(dense_of(model)))
    source = read_source(save({"state_dict": model.state_dict(), "optimizer_states": [tables, dense]}))
    assert sums_of(model, source) == [True] * 3


@pytest.mark.parametrize(
    ("rows", "order", "expected"),
    [(SAME, (2, 0, 1), [None] * 3), ((7, 5, 3), (2, 0, 1), [True] * 3), ((7, 5, 7), (2, 0, 1), [None, True, None])],
)
def test_groups_in_another_order(save, rows, order, expected):
    """Tables of one shape in different groups could be each other's; other shapes tell."""
    model = Net(rows)
    bags = [model.emb_l[place].weight for place in order]
    groups = [{"params": bags[:1]}, {"params": bags[1:]}, {"params": dense_of(model)}]
    state = step(model, torch.optim.Adagrad(groups))
    source = read_source(save({"state_dict": model.state_dict(), "optimizer": state}))
    assert sums_of(model, source) == expected
    assert source.optimizer == "adagrad"
    assert any("does not name its parameters" in one for one in source.warnings) == (None in expected)


@pytest.mark.parametrize(("rows", "expected"), [(SAME, [None] * 3), ((7, 5, 3), [True] * 3)])
@pytest.mark.parametrize("wrap", [lambda *states: {"optimizers": dict(zip("ab", states, strict=True))}, None])
def test_tables_of_one_group_beside_others(save, rows, expected, wrap):
    """Within a group, or an optimizer of their own, tables of one shape may come in any order."""
    model = Net(rows)
    tables, dense = [bag.weight for bag in model.emb_l][::-1], dense_of(model)
    if wrap is None:
        state = {"optimizer": step(model, torch.optim.Adagrad([{"params": dense}, {"params": tables}]))}
    else:
        state = wrap(*(step(model, torch.optim.Adagrad(some)) for some in (tables, dense)))
    assert sums_of(model, read_source(save({"state_dict": model.state_dict()} | state))) == expected


@pytest.mark.parametrize(("rows", "count"), [(SAME, 1), ((7, 5, 3), 0)])
def test_an_order_that_shapes_do_not_prove_is_listed_as_assumed(save, rows, count):
    """Of equal tables of one group over the whole model, only the usual order tells which is which."""
    model = Net(rows)
    state = step(model, torch.optim.Adagrad(model.parameters()))
    source = read_source(save({"state_dict": model.state_dict(), "optimizer": state}))
    assert sums_of(model, source) == [True] * 3
    assert sum("in the state dict's order" in one for one in source.assumed) == count


def test_names_of_another_number_are_no_names(save):
    """param_names that are too few: that group's state is left, and said."""
    model = Net()
    state = step(model, torch.optim.Adagrad(model.parameters()))
    state["param_groups"][0]["param_names"] = ["emb_l.2.weight"]
    source = read_source(save({"state_dict": model.state_dict(), "optimizer": state}))
    assert sums_of(model, source) == [None] * 3
    assert any("param_names are of another number" in one for one in source.warnings)


def test_names_of_no_parameter_are_said(save):
    """State under names that the model does not have."""
    model = Net()
    state = step(model, torch.optim.Adagrad([(f"other.{name}", p) for name, p in model.named_parameters()]))
    source = read_source(save({"state_dict": model.state_dict(), "optimizer": state}))
    assert sums_of(model, source) == [None] * 3
    assert any("of other.emb_l.0.weight, " in one and "fits no parameter" in one for one in source.warnings)


@pytest.mark.parametrize(
    ("key", "expected"), [("d_optimizer", [None] * 3), ("g_optimizer", [True] * 3), ("optimizer", [True] * 3)]
)
def test_an_optimizer_of_another_part_is_not_used(save, key, expected):
    """Beside a generator, d_optimizer is the discriminator's."""
    model = Net((7, 5, 3))
    state = step(model, torch.optim.Adagrad(model.parameters()))
    source = read_source(save({"generator": model.state_dict(), key: state}))
    assert sums_of(model, source) == expected
    assert any("is not generator's" in one for one in source.warnings) == (None in expected)


@pytest.mark.parametrize("form", ["text", "modules", "column", "rows"])
def test_other_ways_of_keying_state(save, form):
    """Numbers as text, names of modules, and sums with one number per row under names."""
    model = Net()
    state = step(model, torch.optim.Adagrad(model.named_parameters()))
    names = dict(enumerate(state["param_groups"][0]["param_names"]))
    sums = {name: state["state"][number]["sum"] for number, name in names.items()}
    tables = {name: value for name, value in sums.items() if name.startswith("emb_l")}
    if form == "text":
        del state["param_groups"][0]["param_names"]
        state["state"] = {str(number): slots for number, slots in state["state"].items()}
    elif form == "modules":
        state = {"state": {name.removesuffix(".weight"): {"sum": value} for name, value in tables.items()}}
    else:
        state = {
            f"state.{name}.sum": value[:, :1] if form == "column" else value[:, 0] for name, value in tables.items()
        }
    source = read_source(save({"state_dict": model.state_dict(), "optimizer": state}))
    assert sums_of(model, source) == [True] * 3
    assert source.optimizer == ("rowwise-adagrad" if form in ("column", "rows") else "adagrad")


@pytest.mark.parametrize(("rows", "expected"), [(SAME, [None] * 3), ((7, 5, 3), [None, True, True])])
def test_a_frozen_table_has_no_state(save, rows, expected):
    """The first is frozen: of equal shapes, the two that are left could be any."""
    model = Net(rows)
    model.emb_l[0].weight.requires_grad_(False)
    state = step(model, torch.optim.Adagrad([p for p in model.parameters() if p.requires_grad]))
    source = read_source(save({"state_dict": model.state_dict(), "optimizer": state}))
    assert sums_of(model, source) == expected


def test_names_decide_where_the_state_has_them(save):
    """torch's param_names, in any order of groups and behind wrappers' prefixes."""
    model = Net()
    named = dict(model.named_parameters())
    order = [*reversed(named)]
    groups = [{"params": [(f"module.{name}", named[name])]} for name in order]
    state = step(model, torch.optim.Adagrad(groups))
    source = read_source(save({"state_dict": model.state_dict(), "optimizer": state}))
    assert sums_of(model, source) == [True] * 3


@pytest.mark.parametrize("rowwise", [False, True])
@pytest.mark.parametrize("full_names", [False, True])
def test_torchrec_s_fused_state(torchrec_state, save, rowwise, full_names):
    """`T.momentum1` under a parameter's name, or under what torchrec calls it below its module."""
    state = torchrec_state()
    bag = "sparse_arch.embedding_bag_collection.embedding_bags." if full_names else "embedding_bags."
    entries = {}
    for place, name in enumerate(("t_age", "t_zip")):
        sums = torch.full((6,) if rowwise else (6, 4), place + 1.0)
        entries[f"{bag}{name}.weight"] = {f"{name}.momentum1": sums}
    groups = [{"params": list(entries), "lr": 0.1}]
    source = read_source(save({"model": state, "fused_optimizer": {"state": entries, "param_groups": groups}}))
    assert source.optimizer == ("rowwise-adagrad" if rowwise else "adagrad")
    assert [float(table.optimizer.read().max()) for table in source.tables] == [2.0, 1.0]


def test_a_flattened_state_of_a_distributed_run(dlrm_state, save):
    """`state.NAME.SLOT`, as torch.distributed flattens it."""
    state = dlrm_state()
    flat = {f"state.{name}.sum": value.abs() for name, value in state.items()}
    source = read_source(save({"model": state, "optim": flat | {"param_groups.lr": 0.1}}))
    assert torch.equal(source.tables[2].optimizer.as_tensor(), state["emb_l.2.weight"].abs())


@pytest.mark.parametrize(
    ("make", "called"),
    [
        (lambda p: torch.optim.Adam(p), "adam (not used: its averages forget"),
        (lambda p: torch.optim.AdamW(p), "adam (not used"),
        (lambda p: torch.optim.NAdam(p), "nadam (not used"),
        (lambda p: torch.optim.Adamax(p), "adamax (not used"),
        (lambda p: torch.optim.RMSprop(p), "rmsprop (not used"),
        (lambda p: torch.optim.Adadelta(p), "adadelta (not used: it does not tell"),
        (lambda p: torch.optim.SGD(p, 0.1), "sgd (not used"),
        (lambda p: torch.optim.SGD(p, 0.1, momentum=0.9), "sgd (not used"),
        (lambda p: torch.optim.Rprop(p), "rprop (not used"),
        (lambda p: torch.optim.Adafactor(p), "adafactor (not used"),
    ],
)
def test_other_optimizers_are_called_by_their_names(save, make, called):
    """inspect never says that there is none where there is one, and the state weighs nothing."""
    model = Net()
    path = save({"state_dict": model.state_dict(), "optimizer": step(model, make(model.parameters()))})
    assert inspect(path).optimizer.startswith(called)
    assert all(table.optimizer is None for table in read_source(path).tables)


def test_names_sorted_as_text_are_no_order(save):
    """emb_l.10 before emb_l.2: the state dict was sorted, so places say nothing."""
    model = Net((7,) * 11)
    model.top_l = nn.Sequential(nn.Linear(8 + 66, 5), nn.ReLU(), nn.Linear(5, 1), nn.Sigmoid())
    state = step(model, torch.optim.Adagrad(model.parameters()))
    ordered = dict(sorted(model.state_dict().items()))
    source = read_source(save({"state_dict": ordered, "optimizer": state}))
    assert sums_of(model, source) == [None] * 11
