"""Live models of torchrec: collections and whole networks with KeyedJaggedTensor inputs."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from memrec_convert import compress, convert, load, save
from memrec_convert.lookup import named_tables

torchrec = pytest.importorskip("torchrec", exc_type=ImportError)
dlrm = pytest.importorskip("torchrec.models.dlrm", exc_type=ImportError)
pytestmark = [
    pytest.mark.torchrec,
    pytest.mark.filterwarnings("ignore"),  # torchrec's own, at import and in its modules
]
ROWS, DIM = {"t_user": 3000, "t_item": 900, "t_tag": 200}, 8
FEATURES = {"t_user": ["user"], "t_item": ["seen", "bought"], "t_tag": ["tag"]}
NAMES = [name for features in FEATURES.values() for name in features]
OF_FEATURE = {name: table for table, names in FEATURES.items() for name in names}


def make_bags(pooling="SUM", weighted=False):
    """Three tables, one of them with two features."""
    torch.manual_seed(0)
    kind = torchrec.PoolingType[pooling]
    configs = [
        torchrec.EmbeddingBagConfig(
            name=name, embedding_dim=DIM, num_embeddings=rows, feature_names=FEATURES[name], pooling=kind
        )
        for name, rows in ROWS.items()
    ]
    return torchrec.EmbeddingBagCollection(tables=configs, is_weighted=weighted)


def make_features(samples=64, seed=0, weighted=False, most=3):
    """Up to `most` ids per feature and sample, some features empty; low ids are frequent."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, most + 1, (len(NAMES) * samples,), generator=draw).to(torch.int32)
    counts = lengths.view(len(NAMES), samples).sum(1).tolist()
    ids = [
        (torch.rand(count, generator=draw) ** 3 * ROWS[OF_FEATURE[name]]).long()
        for name, count in zip(NAMES, counts, strict=True)
    ]
    weights = torch.rand(sum(counts), generator=draw) if weighted else None
    return torchrec.KeyedJaggedTensor.from_lengths_sync(NAMES, torch.cat(ids), lengths, weights)


class Holder(nn.Module):
    """A collection as a part of a model."""

    def __init__(self, collection):
        super().__init__()
        self.tables = collection

    def forward(self, features):
        """What the collection gives, side by side."""
        found = self.tables(features)
        if isinstance(found, dict):
            return torch.cat([one.values().flatten() for one in found.values()])
        return found.values()


@pytest.mark.parametrize(("pooling", "weighted"), [("SUM", False), ("SUM", True), ("MEAN", False)])
def test_a_bag_collection_answers_as_before(pooling, weighted):
    """Sums, weighted sums and means; a table of two features is one table."""
    model = Holder(make_bags(pooling, weighted)).eval()
    small, report = compress(model, "1MB")
    features = make_features(weighted=weighted)
    with torch.no_grad():
        assert torch.allclose(small(features), model(features), atol=1e-6)
    assert [table.rows for table in report.tables] == list(ROWS.values())
    tiny, _ = compress(model, "20x")
    assert tiny(features).shape == model(features).shape
    assert type(tiny.tables) is torchrec.EmbeddingBagCollection


def test_an_embedding_collection_answers_as_before():
    """Rows per id, as jagged tensors."""
    torch.manual_seed(0)
    configs = [
        torchrec.EmbeddingConfig(name=name, embedding_dim=DIM, num_embeddings=rows, feature_names=FEATURES[name])
        for name, rows in ROWS.items()
    ]
    model = Holder(torchrec.EmbeddingCollection(tables=configs)).eval()
    small, _ = compress(model, "1MB")
    with torch.no_grad():
        assert torch.allclose(small(make_features()), model(make_features()), atol=1e-6)


class TwoTower(nn.Module):
    """Users and items in a tower each, and the product of both."""

    def __init__(self):
        super().__init__()
        self.bags = make_bags()
        self.user, self.item = nn.Linear(DIM, DIM), nn.Linear(3 * DIM, DIM)

    def forward(self, dense, features):
        """Logits [B, 1]."""
        vectors = self.bags(features).values()
        return (self.user(vectors[:, :DIM]) * self.item(vectors[:, DIM:])).sum(1, keepdim=True) + dense.mean()


MODELS = {
    "dlrm": lambda: dlrm.DLRM(make_bags(), 4, [16, DIM], [16, 1]),
    "dcn": lambda: dlrm.DLRM_DCN(make_bags(), 4, [16, DIM], [16, 1], dcn_num_layers=2, dcn_low_rank_dim=4),
    "two towers": TwoTower,
}


class Flat(nn.Module):
    """A network as exporters take it: plain tensors in."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, dense, ids, lengths):
        """Logits [B, 1] of one id per feature and sample."""
        return self.model(dense, torchrec.KeyedJaggedTensor(NAMES, ids, lengths=lengths))


def make_batch(seed=0, samples=64):
    """Dense numbers and one id per feature and sample."""
    draw = torch.Generator().manual_seed(seed)
    ids = [(torch.rand(samples, generator=draw) ** 3 * ROWS[OF_FEATURE[name]]).long() for name in NAMES]
    lengths = torch.ones(len(NAMES) * samples, dtype=torch.int64)
    return torch.rand(samples, 4, generator=draw), torch.cat(ids), lengths


def as_features(batch):
    """A batch as torchrec's networks take it."""
    return batch[0], torchrec.KeyedJaggedTensor.from_lengths_sync(NAMES, *batch[1:])


@pytest.mark.parametrize("name", MODELS)
def test_whole_networks_are_compressed_saved_loaded_and_exported(name, tmp_path):
    """DLRM, DLRM_DCN and two towers at 33x, through the file, torch.compile and torch.export."""
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    data = [as_features(make_batch(seed)) for seed in range(6)]
    choices = {"batches": data[:4], "val": data[4:], "forward": lambda m, b: m(*b).squeeze(-1), "outputs": "logits"}
    same, _ = compress(model, "2MB", epochs=0, **choices)
    with torch.no_grad():
        assert torch.allclose(same(*data[0]), model(*data[0]), atol=1e-5)
    small, report = compress(model, "33x", **choices)
    assert len(report.tables) == 3
    assert save(small, tmp_path / "net.safetensors") <= report.budget_bytes
    again = load(tmp_path / "net.safetensors", into=MODELS[name]())
    flat, batch = Flat(again).eval(), make_batch(9)
    with torch.no_grad():
        wanted = small(*as_features(batch))
        assert torch.equal(flat(*batch), wanted)
        torch.compiler.reset()
        assert torch.allclose(torch.compile(flat, backend="aot_eager")(*batch), wanted, atol=1e-6)
        program = torch.export.export(flat, batch, strict=False)
        assert torch.allclose(program.module()(*batch), wanted, atol=1e-6)


def test_rows_have_the_bits_of_a_converted_checkpoint(tmp_path):
    """The live model and its file lead to the same tables where both leave them the same bytes beside the names."""
    torch.manual_seed(0)
    configs = [
        torchrec.EmbeddingBagConfig(name=name, embedding_dim=DIM, num_embeddings=rows, feature_names=[name])
        for name, rows in ROWS.items()
    ]
    model = dlrm.DLRM(torchrec.EmbeddingBagCollection(tables=configs), 4, [16, DIM], [16, 1]).eval()
    torch.save(model.state_dict(), tmp_path / "model.pt")
    out, longer = tmp_path / "net.safetensors", 0
    for budget in (1_000_000, 50_000, 40_000):
        small, report = compress(model, budget)
        convert(tmp_path / "model.pt", budget + longer, out=out, force=True)
        longer = longer or out.stat().st_size - report.artifact.bytes  # its names alone, at the first budget
        held = {table.spec.rows: table for _, table in named_tables(load(out))}
        for _, table in named_tables(small):
            ids = torch.arange(table.spec.rows)
            assert torch.equal(table.lookup(ids), held[table.spec.rows].lookup(ids))


CLASSES = """
import torchrec
from torchrec.models import dlrm

from test_torchrec_models import DIM, TwoTower, make_bags


class Dlrm(dlrm.DLRM):
    def __init__(self):
        super().__init__(make_bags(), 4, [16, DIM], [16, 1])


class Dcn(dlrm.DLRM_DCN):
    def __init__(self):
        super().__init__(make_bags(), 4, [16, DIM], [16, 1], dcn_num_layers=2, dcn_low_rank_dim=4)
"""


@pytest.mark.parametrize("name", ["Dlrm", "Dcn", "TwoTower"])
def test_a_checkpoint_of_the_class_converts_to_the_bits_of_the_live_model(name, tmp_path, monkeypatch):
    """At 33x, in the same file: `convert --model` and `compress` give the same names, and so the same bytes."""
    (tmp_path / "live_classes.py").write_text(CLASSES)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.syspath_prepend(Path(__file__).parent)
    monkeypatch.delitem(sys.modules, "live_classes", raising=False)
    torch.manual_seed(0)
    model = getattr(importlib.import_module("live_classes"), name)().eval()
    torch.save(model.state_dict(), tmp_path / "model.pt")
    small, report = compress(model, "33x")
    written = convert(tmp_path / "model.pt", "33x", out=tmp_path / "net.safetensors", model=f"live_classes:{name}")
    assert written.artifact.bytes == report.artifact.bytes <= report.budget_bytes
    held = dict(named_tables(load(tmp_path / "net.safetensors", into=type(model)())))
    assert len(held) == len(ROWS)
    for path, table in named_tables(small):
        ids = torch.arange(table.spec.rows)
        assert torch.equal(table.lookup(ids), held[path].lookup(ids))
