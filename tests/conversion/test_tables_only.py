"""`--tables-only`: an artifact of tables alone, from checkpoints whose network is not known."""

import numpy as np
import pytest
import torch
from torch import nn

from memrec_convert import convert, evaluate, load
from memrec_convert.clicklog import LogSchema, open_log, save_profile, take_profile
from memrec_convert.conversion.verify import verify
from memrec_convert.errors import ArtifactError, CheckpointError, IncompleteCheckpointError, LogError


class TwoTower(nn.Module):
    """A network that no layout knows."""

    def __init__(self):
        super().__init__()
        self.user_embedding = nn.Embedding(900, 8)
        self.item_embedding = nn.Embedding(400, 12)
        self.user_tower, self.item_tower = nn.Linear(8, 4), nn.Linear(12, 4)


@pytest.fixture
def towers(tmp_path):
    """Its checkpoint."""
    torch.manual_seed(0)
    model = TwoTower()
    torch.save(model.state_dict(), tmp_path / "towers.pt")
    return model, tmp_path / "towers.pt"


def test_tables_come_back_by_name(towers, tmp_path):
    """A generous budget gives the rows back; ids of any shape are looked up; the file is sound against its source."""
    model, path = towers
    report = convert(path, "1MB", out=tmp_path / "o.safetensors", tables_only=True, weights="uniform", threads=1)
    tables = load(tmp_path / "o.safetensors")
    assert list(tables) == ["user_embedding", "item_embedding"]
    ids = torch.tensor([[0, 399], [7, 7]])
    for name, table in tables.items():
        assert torch.equal(table(ids), model.get_submodule(name)(ids))
    found = verify(tmp_path / "o.safetensors", against=path)
    assert [table["name"] for table in found.against["tables"]] == list(tables)
    assert report.sizes.source.dense == 0
    assert report.auc is None


def test_small_budgets_are_kept(towers, tmp_path):
    """Without data too, and what is decoded resembles the rows."""
    model, path = towers
    report = convert(path, "12kB", out=tmp_path / "o.safetensors", tables_only=True, weights="uniform", threads=1)
    assert report.artifact.bytes <= 12_000
    rows = load(tmp_path / "o.safetensors")["user_embedding"](torch.arange(900))
    source = model.user_embedding.weight.detach()
    assert float((rows - source).square().sum() / source.square().sum()) < 0.9


@pytest.mark.parametrize("by", ["data", "profile"])
def test_weights_from_a_log_or_profile(towers, tmp_path, by):
    """Ids that a log shows are held better than those that it does not; no dense columns are asked for."""
    model, path = towers
    draw = np.random.default_rng(0)
    hot = np.arange(0, 900, 30)
    log, rows = tmp_path / "log.csv", zip(draw.choice(hot, 3000), draw.integers(0, 400, 3000), strict=True)
    log.write_text("label,user_embedding,item_embedding\n" + "".join(f"0,{user},{item}\n" for user, item in rows))
    choices = {"data": log}
    if by == "profile":
        schema = LogSchema((("user_embedding", 900), ("item_embedding", 400)), 0)
        save_profile(take_profile(open_log(log, schema)), tmp_path / "p.npz")
        choices = {"profile": tmp_path / "p.npz"}
    report = convert(path, "12kB", out=tmp_path / "o.safetensors", tables_only=True, threads=1, **choices)
    assert report.weights == "log"
    source = model.user_embedding.weight.detach()
    error = (load(tmp_path / "o.safetensors")["user_embedding"](torch.arange(900)) - source).square().sum(dim=1)
    assert float(error[torch.from_numpy(hot)].mean()) < 0.5 * float(error.mean())


def test_nothing_can_be_measured(towers, tmp_path):
    """Data to measure with is refused, and so is evaluating the artifact."""
    _, path = towers
    for choice in ("val", "eval"):
        with pytest.raises(LogError, match="tables alone have no logits"):
            convert(path, "12kB", out=tmp_path / "o.safetensors", tables_only=True, **{choice: "log.npz"})
    convert(path, "12kB", out=tmp_path / "o.safetensors", tables_only=True, weights="uniform", threads=1)
    with pytest.raises(ArtifactError, match="only tables"):
        evaluate(tmp_path / "o.safetensors", "log.npz")


def test_without_the_option_the_sentence_names_it(towers, tmp_path):
    """A network that is not known is refused, and what can be done is said."""
    with pytest.raises(CheckpointError, match="--tables-only"):
        convert(towers[1], "12kB", out=tmp_path / "o.safetensors")


def test_a_pair_of_unknown_operation_is_refused(tmp_path):
    """Two tensors whose joining no file tells make no table."""
    state = {"x_embedding.weight_q": torch.ones(9, 4), "x_embedding.weight_r": torch.ones(5, 4)}
    torch.save(state, tmp_path / "qr.pt")
    with pytest.raises(CheckpointError, match=r"stored in parts .quotient-remainder."):
        convert(tmp_path / "qr.pt", "12kB", out=tmp_path / "o.safetensors", tables_only=True)


ZOO = {
    "recbole/DeepFM.pth": 2,
    "torch-rechub/deepfm/model.pth": 5,
    "pytorch-fm/dfm_sd.pt": 2,
    "deepctr-torch/deepfm.h5": 10,
    "facebookresearch-dlrm/qr_mult.pt": 5,
    "torchrec/dlrm_quant_state_dict.pt": 5,
    "torchrec/dmp_w2/dcp": 5,
}


@pytest.mark.parametrize("name", ZOO)
def test_frameworks_own_files(shared, tmp_path, name):
    """Every table of the file is in the artifact, under the name that `inspect` gives it."""
    path = shared / "checkpoints" / "zoo" / name
    report = convert(path, "200kB", out=tmp_path / "o.safetensors", tables_only=True, weights="uniform", threads=1)
    tables = load(tmp_path / "o.safetensors")
    assert len(tables) == ZOO[name] == len(report.tables)
    for table in report.tables:
        assert tables[table.name](torch.tensor([0, table.rows - 1])).shape == (2, table.dim)
    verify(tmp_path / "o.safetensors", against=path)


def test_one_ranks_file_is_refused(shared, tmp_path):
    """Tables are missing, and without them nothing is whole."""
    path = shared / "checkpoints" / "zoo" / "facebookresearch-dlrm" / "dist2_gloo.pt"
    with pytest.raises(IncompleteCheckpointError):
        convert(path, "200kB", out=tmp_path / "o.safetensors")


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (torch.zeros_like, "is zero"),
        (lambda rows: torch.full_like(rows, 0.1), "is alike in all rows"),
        (lambda rows: rows, "holds negative sums"),
        (lambda rows: rows.square() / 0, "holds NaN or infinite sums"),
    ],
)
def test_adagrad_sums_that_say_nothing_are_not_used(towers, tmp_path, make, fault):
    """A fresh optimizer's and impossible sums: a warning names the table; asked for, they are refused."""
    model, _ = towers
    rows = {name: value.detach() for name, value in model.named_parameters()}
    states = {f"state.{name}.sum": value.square() for name, value in rows.items()}
    states["state.item_embedding.weight.sum"] = make(rows["item_embedding.weight"])
    torch.save({"model": rows, "optimizer": states}, tmp_path / "fresh.pt")
    report = convert(tmp_path / "fresh.pt", "12kB", tables_only=True)
    assert report.weights == "displacement"
    assert any(f"the Adagrad state of table item_embedding {fault}" in one for one in report.warnings)
    with pytest.raises(LogError, match=f"table item_embedding {fault}"):
        convert(tmp_path / "fresh.pt", "12kB", tables_only=True, weights="optimizer", force=True)
