"""Tables of every type: read, or named with the reason; scales, masks and adapters are none; first-order tables are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from memrec_convert.checkpoint import read_source
from memrec_convert.checkpoint.inspect import inspect
from memrec_convert.errors import CheckpointError

USERS = {"user_embedding.weight": torch.ones(30, 4)}


def rows_of(path, name):
    """A table's rows in float32."""
    source = read_source(path, tables_only=True)
    return next(table.weight for table in source.tables if table.name == name)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_float8_rows_are_read_to_the_bit(save, tmp_path, dtype, form):
    """All 256 codes, NaN and infinities included, in each file form."""
    rows = torch.arange(256, dtype=torch.uint8).view(dtype).reshape(64, 4)
    if form == "safetensors":
        path = tmp_path / "m.safetensors"
        save_file({"item_embedding.weight": rows}, path)
    else:
        path = save({"item_embedding.weight": rows}, _use_new_zipfile_serialization=form == "zip")
    found = rows_of(path, "item_embedding")
    np.testing.assert_array_equal(found.read(), rows.float().numpy())
    assert found.nbytes == 256


@pytest.mark.parametrize(
    ("codes", "parts", "expected"),
    [
        ("int8", {"weight_scale": (40, 1)}, lambda c, p: c * p["weight_scale"]),
        ("int8", {"weight_scale": (40,)}, lambda c, p: c * p["weight_scale"][:, None]),
        ("int8", {"scale": ()}, lambda c, p: c * p["scale"]),
        ("int8", {"scales": (1, 4)}, lambda c, p: c * p["scales"]),
        ("int8", {"weight_scale": (40, 1), "weight_zero_point": (40, 1)},
         lambda c, p: (c - p["weight_zero_point"]) * p["weight_scale"]),
        ("uint8", {"scale": (40,), "zero_point": (40,)},
         lambda c, p: (c - p["zero_point"][:, None]) * p["scale"][:, None]),
        ("uint8", {"weight_qscale": (40, 1), "weight_qbias": (40, 1)},
         lambda c, p: c * p["weight_qscale"] + p["weight_qbias"]),
        ("float8_e4m3fn", {"weight_scale": (1,)}, lambda c, p: c * p["weight_scale"]),
    ],
)  # fmt: skip
def test_codes_with_scales_are_rows(save, codes, parts, expected):
    """int8, uint8 and float8 with one number for all, per row or per column; the parts are no tables."""
    torch.manual_seed(0)
    stored = torch.randint(0, 100, (40, 4)).to(getattr(torch, codes))
    values = {name: torch.rand(shape) + 0.5 for name, shape in parts.items()}
    state = {"item_embedding.weight": stored} | {f"item_embedding.{name}": value for name, value in values.items()}
    path = save(USERS | state)
    found = rows_of(path, "item_embedding")
    torch.testing.assert_close(torch.from_numpy(found.read()), expected(stored.float(), values))
    torch.testing.assert_close(torch.from_numpy(found.read_rows(7, 9)), expected(stored.float(), values)[7:9])
    assert [table["name"] for table in inspect(path).tables] == ["user_embedding", "item_embedding"]


def test_torchrec_s_split_scales(torchrec_state, save):
    """Codes filled up to 16 bytes a row; their width stands in D_offsets, and without it nothing is guessed."""
    state = torchrec_state()
    bag, codes = "sparse_arch.embedding_bag_collection.embedding_bags.", {}
    for name in ("t_zip", "t_age"):
        state[f"{bag}{name}.weight"] = codes[name] = torch.randint(0, 255, (6, 12), dtype=torch.uint8)
        state[f"{bag}{name}.weight_qscale"] = torch.rand(6, 1).half()
        state[f"{bag}{name}.weight_qbias"] = torch.rand(6, 1).half()
    with pytest.raises(CheckpointError, match=r"D_offsets\) is not in the file"):
        read_source(save(state))
    tbe = "sparse_arch.embedding_bag_collection.tbes.0."
    state |= {f"{tbe}D_offsets": torch.tensor([0, 4, 8]), f"{tbe}weights_tys": torch.tensor([2, 2], dtype=torch.uint8)}
    source = read_source(save(state))
    expected = codes["t_zip"][:, :4].float() * state[f"{bag}t_zip.weight_qscale"].float()
    expected += state[f"{bag}t_zip.weight_qbias"].float()
    torch.testing.assert_close(source.tables[0].weight.as_tensor(), expected)
    assert [(table.rows, table.dim, table.form) for table in source.tables] == [(6, 4, "quantised")] * 2


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (lambda: torch.ones(40, 4).to_sparse(), "a sparse tensor"),
        (lambda: torch.ones(40, 4).to_sparse_csr(), "a sparse tensor"),
        (lambda: torch.ones(40, 4, device="meta"), "on the meta device"),
        (lambda: torch.ones(40, 4, dtype=torch.complex64), "complex numbers"),
        (lambda: torch._neg_view(torch.ones(40, 4)), "a view that turns the sign"),
        (lambda: torch.ones(40, 4, dtype=torch.uint16), "stored as torch.Tensor of uint16"),
        (lambda: torch.ones(40, 4, dtype=torch.int32), "stored as int32"),
        (lambda: np.ma.masked_array(np.ones((40, 4), np.float32), mask=np.eye(40, 4)), "numpy.ma"),
        (lambda: torch.ones(2, 40, 4), "3 dimensions"),
        (lambda: np.ones((40, 4), dtype=np.uint32), "numpy array"),
    ],
)
@pytest.mark.filterwarnings("ignore:Sparse")
def test_a_table_that_is_not_read_is_named(save, tensor, reason):
    """In the warnings of a conversion too, and alone it is no file without tables."""
    tensor = tensor()
    path = save(USERS | {"item_embedding.weight": tensor})
    assert any("item_embedding" in one and reason in one for one in inspect(path).warnings)
    assert any("item_embedding" in one for one in read_source(path, tables_only=True).warnings)
    alone = save({"item_embedding.weight": tensor}, "alone.pt")
    assert not inspect(alone).tables
    with pytest.raises(CheckpointError, match=rf"no table that can be read .*{reason}"):
        read_source(alone, tables_only=True)


def test_a_tall_matrix_by_another_name_is_a_table(dlrm_state, save):
    """`item.weight` of many rows; a Linear with its bias is none. Beside a known network it is named."""
    state = {"item.weight": torch.ones(2000, 4), "head.weight": torch.ones(2000, 4), "head.bias": torch.ones(2000)}
    assert [table["name"] for table in inspect(save(USERS | state)).tables] == ["user_embedding", "item"]
    warnings = inspect(save(dlrm_state() | state)).warnings
    assert any("item.weight was not read" in one for one in warnings)
    assert not any("head" in one for one in warnings)


@pytest.mark.parametrize(
    "part",
    [
        "weight_scale",
        "weight_qscale",
        "scales",
        "weight_mask",
        "zero_point",
        "lora_embedding_A",
        "lora_B.default.weight",
        "weight.absmax",
    ],
)
def test_parts_of_tables_are_no_tables(save, part):
    """Whatever shape they have."""
    path = save(USERS | {f"tag_embedding.{part}": torch.ones(30, 1)})
    assert [table["name"] for table in inspect(path).tables] == ["user_embedding"]


def test_a_pruned_table_is_read_through_its_mask(save):
    """torch.nn.utils.prune keeps the rows before and the mask."""
    rows, mask = torch.randn(40, 4), (torch.rand(40, 4) > 0.5).float()
    path = save({"item_embedding.weight_orig": rows, "item_embedding.weight_mask": mask})
    (table,) = read_source(path, tables_only=True).tables
    assert torch.equal(table.weight.as_tensor(), rows * mask)


@pytest.mark.parametrize(
    ("state", "form"),
    [
        ({"weight_v": (40, 4), "weight_g": (40, 1)}, "weight-normalised"),
        ({"parametrizations.weight.original1": (40, 4), "parametrizations.weight.original0": (40, 1)}, "weight-norm"),
        ({"parametrizations.weight.original": (40, 4)}, "parametrised"),
        ({"weight_orig": (40, 4), "weight_u": (40,)}, "parametrised"),
        ({"base_layer.weight": (40, 4), "lora_embedding_A.default": (2, 40)}, "LoRA"),
    ],
)
def test_rows_that_the_network_computes_otherwise_are_refused(save, state, form):
    """What is stored is not what is looked up: listed, and never converted as if it were."""
    path = save({f"item_embedding.{name}": torch.ones(shape) for name, shape in state.items()})
    assert len(inspect(path).tables) == 1
    with pytest.raises(CheckpointError, match=form):
        read_source(path, tables_only=True)


@pytest.mark.parametrize(
    ("codes", "parts"),
    [
        (torch.int8, {"weight_scale": (5, 2)}),
        (torch.uint8, {"weight_scale": (40, 1)}),
        (torch.float8_e4m3fn, {"weight_scale_inv": (1, 1)}),
        (torch.int8, {"SCB": (40,)}),
        (torch.int8, {}),
    ],
)
def test_codes_whose_scales_are_not_understood_are_refused(save, codes, parts):
    """Listed with a warning; no rows are made up."""
    state = {"item_embedding.weight": torch.ones(40, 4).to(codes)}
    path = save(USERS | state | {f"item_embedding.{name}": torch.ones(shape) for name, shape in parts.items()})
    assert len(inspect(path).tables) == 2
    with pytest.raises(CheckpointError, match=r"item_embedding"):
        read_source(path, tables_only=True)


@pytest.mark.parametrize("name", ["fc.weight", "linear.weight", "item_bias.weight", "w"])
def test_first_order_tables_are_tables(save, name):
    """A column as long as another table, without a bias of its own."""
    state = {"embedding.weight": torch.ones(40, 4), name: torch.ones(40, 1), "mlp.0.weight": torch.ones(30, 1)}
    assert [table["dim"] for table in inspect(save(state)).tables] == [4, 1]


def test_what_a_known_network_has_no_use_for_is_said(dlrm_state, save):
    """A further trained tensor may mean another forward than the one that is known."""
    source = read_source(save(dlrm_state() | {"temperature.scale": torch.ones(1)}))
    assert any("has no use for temperature.scale" in one for one in source.warnings)


@pytest.mark.parametrize("drop", ["bot_l", "top_l.2", "emb_l.1"])
def test_tables_alone_need_no_network(dlrm_state, save, drop):
    """--tables-only is never refused for what the network lacks."""
    state = {name: value for name, value in dlrm_state().items() if not name.startswith(drop)}
    source = read_source(save(state), tables_only=True)
    assert len(source.tables) == (2 if drop == "emb_l.1" else 3)
    assert bool(source.warnings) == (drop != "top_l.2")  # which leaves another network, not a part of this one


@pytest.mark.parametrize("part", ["weight_scale", "scale", "weight_mask", "weight_zero_point"])
def test_what_is_not_applied_to_floats_is_said(save, part):
    """A scale or a mask beside plain rows may belong to them."""
    state = {"item_embedding.weight": torch.ones(40, 4), f"item_embedding.{part}": torch.ones(40, 1)}
    warnings = inspect(save(USERS | state)).warnings
    assert any(f"item_embedding.{part} beside item_embedding.weight was not applied" in one for one in warnings)


@pytest.mark.parametrize(
    "state",
    [
        {"item_embedding.weight": torch.ones(40, 4), "item_embedding.bias": torch.ones(40)},
        {"item_embedding.weight": torch.ones(40, 4), "item_embedding.bias": torch.ones(4)},
        {"item_embedding.weight": torch.ones(40, 4).byte(), "item_embedding.scale": torch.ones(40, 1),
         "item_embedding.bias": torch.ones(40, 1)},
        {"item_embedding.weight": torch.ones(0, 4)},
        {"item_embedding.weight": torch.ones(40, 0)},
    ],
)  # fmt: skip
def test_a_named_matrix_that_is_no_table_is_named(save, state):
    """Beside a bias, in codes of unknown meaning, or empty."""
    found = inspect(save(USERS | state))
    assert any("item_embedding.weight was not read" in one for one in found.warnings)
    assert [table["name"] for table in found.tables] == ["user_embedding"]


def test_an_array_of_the_other_byte_order_is_named(tmp_path):
    """Among others of an .npz, whatever its name; alone, in a sentence."""
    np.savez(tmp_path / "t.npz", user=np.ones((30, 4)), item=np.ones((40, 4), dtype=">f8"))
    warnings = read_source(tmp_path / "t.npz", tables_only=True).warnings
    assert any("item was not read" in one and ">f8 (big-endian)" in one for one in warnings)
    np.savez(tmp_path / "alone.npz", item=np.ones((40, 4), dtype=">f8"))
    with pytest.raises(CheckpointError, match=r"item is a numpy array of >f8 \(big-endian\); a table has"):
        read_source(tmp_path / "alone.npz")
    np.save(tmp_path / "t.npy", np.ones((40, 4), dtype=">f4"))
    with pytest.raises(CheckpointError, match=r"a numpy array of >f4 \(big-endian\); a table has"):
        read_source(tmp_path / "t.npy")


@pytest.mark.filterwarnings("ignore")
def test_a_quantised_module_of_torch_is_named(save):
    """Whatever the module is called, and any quantised tensor that is as tall as a table."""
    tall = torch.quantize_per_tensor(torch.ones(1200, 4), 0.1, 0, torch.quint8)
    state = torch.nn.ModuleDict({"item": torch.ao.nn.quantized.Embedding(30, 4)}).state_dict() | {"shop": tall}
    found = inspect(save(USERS | state)).warnings
    for name in ("item._packed_params._packed_weight", "shop"):
        assert any(f"{name} was not read: it is a quantised tensor" in one for one in found)


def test_an_adapter_without_its_table_is_named(save):
    """LoRA's two factors alone are no table."""
    parts = {f"item_embedding.lora_embedding_{part}": torch.ones(4, 40) for part in "AB"}
    assert sum("adapter (LoRA) whose table" in one for one in inspect(save(USERS | parts)).warnings) == 2


@pytest.mark.parametrize("state", [{"P": torch.ones(30, 4)}, {"embeddings": {"P": torch.ones(30, 4)}}])
def test_matrices_by_other_names_are_listed(save, state):
    """The refusal names them and the way."""
    with pytest.raises(CheckpointError, match=r"only P \[30, 4\]; where these are tables, rename"):
        read_source(save(state), tables_only=True)


def test_one_name_twice_is_refused(save):
    """Nested and flat, two tables would become one."""
    state = {"x": {"emb.weight": torch.ones(30, 4)}, "x.emb.weight": torch.zeros(30, 4)}
    with pytest.raises(CheckpointError, match=r"'x\.emb\.weight' is in the file twice"):
        read_source(save(state), tables_only=True)


def test_words_inside_names_make_no_spare_model(save):
    """best_seller, last_item and a teacher's tower are the model's own."""
    flat = {f"{name}_emb.weight": torch.rand(30, 4) for name in ("best_seller", "last_item", "teacher_id", "swa")}
    assert len(read_source(save(flat | USERS), tables_only=True).tables) == 5
    towers = {f"{name}_tower": {"emb.weight": torch.rand(30, 4)} for name in ("teacher", "course")}
    assert len(read_source(save(towers), tables_only=True).tables) == 2
