"""Networks of torch-rechub, DeepCTR-Torch and RecBole through `--model`: their own classes, on a log, from files."""

from __future__ import annotations

import importlib
import sys
import warnings

import numpy as np
import pytest
import torch
import yaml

from memrec_convert import convert, load
from memrec_convert.clicklog import LogSchema, open_log
from memrec_convert.evaluation.metrics import measure

ROWS = (2000, 300, 40)
NAMES = [f"C{place + 1}" for place in range(len(ROWS))]
INPUTS = dict(zip(NAMES, ROWS, strict=True))

CODE = '''
import torch


def rechub_logits(model, batch):
    return torch.logit(model({f"C{place + 1}": column for place, column in enumerate(batch.ids.unbind(1))}))


def deepctr_logits(model, batch):
    return torch.logit(model(torch.cat([batch.ids.float(), batch.dense], 1)))


class Fields:
    """What RecBole's models ask of a dataset."""

    def __init__(self, sizes, types):
        self.sizes, self.field2type = sizes, types

    def fields(self, source=None):
        return list(self.sizes)

    def num(self, name):
        return self.sizes[name]


def recbole_deepfm(sizes):
    from recbole.model.context_aware_recommender.deepfm import DeepFM
    from recbole.utils import FeatureType

    config = {"LABEL_FIELD": "label", "embedding_size": 8, "device": "cpu", "double_tower": None}
    config |= {"numerical_features": [], "mlp_hidden_size": [16], "dropout_prob": 0.0}
    return DeepFM(config, Fields(sizes, dict.fromkeys(sizes, FeatureType.TOKEN)))


def recbole_logits(model, batch):
    return model({f"C{place + 1}": column for place, column in enumerate(batch.ids.unbind(1))})
'''


def rechub() -> dict[str, object]:
    """A DeepFM of torch-rechub, its features as objects of its classes."""
    path = "torch_rechub.basic.features.SparseFeature"
    features = [
        {"class_path": path, "init_args": {"name": name, "vocab_size": rows, "embed_dim": 8}}
        for name, rows in INPUTS.items()
    ]
    arguments = {"deep_features": features, "fm_features": features, "mlp_params": {"dims": [16], "dropout": 0.0}}
    return {"init_args": arguments, "forward": "framework_code:rechub_logits"}


def deepctr() -> dict[str, object]:
    """A DeepFM of DeepCTR-Torch with first-order tables and dense features."""
    path = "deepctr_torch.inputs."
    columns: list[dict[str, object]] = [
        {"class_path": f"{path}SparseFeat", "init_args": {"name": name, "vocabulary_size": rows, "embedding_dim": 8}}
        for name, rows in INPUTS.items()
    ]
    columns += [{"class_path": f"{path}DenseFeat", "init_args": {"name": f"I{n}", "dimension": 1}} for n in (1, 2)]
    arguments = {"linear_feature_columns": columns, "dnn_feature_columns": columns, "dnn_hidden_units": [16]}
    return {"init_args": arguments, "forward": "framework_code:deepctr_logits", "dense": 2, "dense_transform": "log1p"}


def recbole() -> dict[str, object]:
    """A DeepFM of RecBole, built by a function, for its own arguments are no plain values."""
    return {"init_args": {"sizes": INPUTS}, "forward": "framework_code:recbole_logits"}


@pytest.mark.parametrize(
    ("module", "name", "given"),
    [
        ("torch_rechub.models.ranking", "torch_rechub.models.ranking:DeepFM", rechub),
        ("deepctr_torch.models", "deepctr_torch.models:DeepFM", deepctr),
        ("recbole.model.context_aware_recommender.deepfm", "framework_code:recbole_deepfm", recbole),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_framework_s_own_class_is_converted_and_measured(tiny, tmp_path, monkeypatch, module, name, given):
    """From torch.save(model.state_dict()): the AUC before is the model's own, and the artifact loads into the class."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip(module)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "framework_code", raising=False)
    (tmp_path / "framework_code.py").write_text(CODE)
    arguments = tmp_path / "arguments.yaml"
    arguments.write_text(yaml.safe_dump({**given(), "inputs": INPUTS}))
    from memrec_convert.conversion.inputs.from_class import read_own_class

    torch.manual_seed(0)
    own = read_own_class(name, arguments)
    model = own.build()
    run = own.runner(model)
    optimizer = torch.optim.Adagrad(model.parameters(), 0.05)
    schema = LogSchema(tuple(INPUTS.items()), own.dense, dense_transform=own.dense_transform)
    model.train()
    for batch in open_log(tiny.train, schema).batches(512):
        optimizer.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(run(model, batch), batch.labels).backward()
        optimizer.step()
    model.eval()
    torch.save({"state_dict": model.state_dict()}, tmp_path / "model.pth")
    report = convert(
        tmp_path / "model.pth",
        "8x",
        data=tiny.train,
        val=tiny.val,
        eval=tiny.test,
        model=name,
        model_args=arguments,
        out=tmp_path / "small.safetensors",
    )
    batches = list(open_log(tiny.test, schema).batches(4096))
    with torch.no_grad():
        logits = torch.cat([run(model, batch) for batch in batches]).numpy()
    labels = np.concatenate([batch.labels for batch in batches])
    assert report.auc.before == pytest.approx(measure(labels, logits).auc, abs=1e-6)
    assert report.auc.after > report.auc.before - 0.05
    assert {table.rows for table in report.tables} == ({sum(ROWS)} if "recbole" in module else set(ROWS))
    again = load(tmp_path / "small.safetensors", into=own.build())
    with torch.no_grad():
        assert float((run(again, batches[0]) - run(model, batches[0])).abs().mean()) < 1.0
    importlib.invalidate_caches()
