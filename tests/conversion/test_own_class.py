"""`--model`: a network of the user's own class, its tensors read by us, on a log by its own forward or a stated one."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from memrec_convert import convert, load
from memrec_convert.clicklog import LogSchema, open_log
from memrec_convert.errors import CheckpointError, MemrecError, ModelError, OptionError
from memrec_convert.evaluation.metrics import measure

CODE = '''
import torch
from torch import nn


class Width:
    def __init__(self, dim):
        self.dim = dim


class Ranker(nn.Module):
    """Tables of several rows in one list, a head over them and the dense values."""

    def __init__(self, rows, width, sigmoid=False):
        super().__init__()
        self.rows = nn.ModuleList(nn.Embedding(count, width.dim) for count in rows)
        self.norm = nn.BatchNorm1d(2)
        self.head = nn.Linear(len(rows) * width.dim + 2, 1)
        self.sigmoid = sigmoid

    def forward(self, dense, ids):
        vectors = [table(ids[:, place]) for place, table in enumerate(self.rows)]
        logits = self.head(torch.cat([self.norm(dense), *vectors], 1))
        return torch.sigmoid(logits) if self.sigmoid else logits


class ByMapping(Ranker):
    def forward(self, inputs):
        return {"y": torch.sigmoid(super().forward(inputs["x"], inputs["c"]).squeeze(1))}


def logits(model, batch):
    return torch.logit(model({"x": batch.dense, "c": batch.ids})["y"])


def broken(model, batch):
    return batch.ids.no_such_thing
'''
WIDTH = {"class_path": "own_ranker.Width", "init_args": {"dim": 8}}
ROWS = [2000, 300, 40]
INPUTS = {f"C{place + 1}": rows for place, rows in enumerate(ROWS)}


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A working directory with the user's code in it."""
    (tmp_path / "own_ranker.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_ranker", raising=False)
    yield tmp_path
    sys.modules.pop("own_ranker", None)


@pytest.fixture
def trained(work, tiny):
    """A Ranker trained for one pass over the log, in a file beside its Adagrad's state, and the class."""
    sys.path.insert(0, str(work))
    try:
        import own_ranker
    finally:
        sys.path.remove(str(work))
    torch.manual_seed(0)
    model = own_ranker.Ranker(ROWS, own_ranker.Width(8))
    optimizer = torch.optim.Adagrad(model.named_parameters(), 0.05)
    for batch in open_batches(tiny.train):
        optimizer.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(model(batch.dense, batch.ids)[:, 0], batch.labels)
        loss.backward()
        optimizer.step()
    torch.save({"net_state": model.state_dict(), "optim": optimizer.state_dict()}, work / "ranker.pt")
    return model.eval(), own_ranker


def open_batches(path):
    """Batches of a log as the tiny model reads them."""
    schema = LogSchema(tables=tuple(INPUTS.items()), dense=2, dense_transform="log1p")
    return list(open_log(path, schema).batches(512))


def write_arguments(path: Path, **given: object) -> Path:
    """A file for --model-args."""
    known = {"init_args": {"rows": ROWS, "width": WIDTH}, "dense": 2, "dense_transform": "log1p", "inputs": INPUTS}
    path.write_text(yaml.safe_dump({key: value for key, value in (known | given).items() if value is not None}))
    return path


@pytest.mark.parametrize(
    ("name", "extra"), [("Ranker", {}), ("Ranker", {"sigmoid": True}), ("ByMapping", {"forward": "own_ranker:logits"})]
)
def test_a_class_is_converted_fine_tuned_and_measured(trained, tiny, work, name, extra):
    """(dense, ids), probabilities and a forward of one's own: the AUC before is the model's, the file loads into it."""
    model, code = trained
    given = {key: value for key, value in extra.items() if key == "forward"}
    if "sigmoid" in extra:
        given = {"init_args": {"rows": ROWS, "width": WIDTH, "sigmoid": True}, "outputs": "probabilities"}
    report = convert(
        work / "ranker.pt",
        "8x",
        data=tiny.train,
        val=tiny.val,
        eval=tiny.test,
        model=f"own_ranker:{name}",
        model_args=write_arguments(work / "arguments.yaml", **given),
        out=work / "small.safetensors",
    )
    batches = open_batches(tiny.test)
    with torch.no_grad():
        own = torch.cat([model(batch.dense, batch.ids)[:, 0] for batch in batches]).numpy()
    labels = np.concatenate([batch.labels for batch in batches])
    assert report.auc.before == pytest.approx(measure(labels, own).auc, abs=1e-6)
    assert report.auc.after > 0.5
    assert report.weights == "log"
    assert report.artifact.bytes <= report.budget_bytes
    again = load(work / "small.safetensors", into=code.Ranker(ROWS, code.Width(8)))
    assert again(batches[0].dense, batches[0].ids).shape == (512, 1)


def test_without_data_the_optimizer_weighs_the_class(trained, work):
    """Adagrad's state in the file belongs to the instance's tables by its names."""
    report = convert(
        work / "ranker.pt", "8x", model="own_ranker.Ranker", model_args=write_arguments(work / "arguments.yaml")
    )
    assert report.weights == "optimizer"


@pytest.mark.parametrize(
    ("model", "given", "error", "sentence"),
    [
        ("own_ranker:Absent", {}, ModelError, "cannot be imported: AttributeError"),
        ("no_such_package_at_all:Ranker", {}, ModelError, "cannot be imported: ModuleNotFoundError"),
        ("Ranker", {}, ModelError, "is no package.module:Class"),
        ("own_ranker:CODE", {}, ModelError, "cannot be imported"),
        ("own_ranker:Width", {"init_args": {"dim": 8}}, ModelError, r"returned a Width; expected a torch.nn.Module"),
        ("own_ranker:Ranker", {"init_args": {"rows": ROWS}}, ModelError, "could not be built .* missing 1 required"),
        ("own_ranker:ByMapping", {}, ModelError, r"takes \(inputs\), not \(dense, ids\)"),
        ("own_ranker:ByMapping", {"forward": "own_ranker:broken"}, ModelError, "broken failed on a batch of the log"),
        (
            "own_ranker:Ranker",
            {"init_args": {"rows": ROWS, "width": WIDTH, "sigmoid": True}},
            ModelError,
            "all lie between 0 and 1",
        ),
        (
            "own_ranker:Ranker",
            {"init_args": {"rows": ROWS[:2], "width": WIDTH}},
            CheckpointError,
            "also holds rows.2.weight, compared with own_ranker:Ranker",
        ),
        (
            "own_ranker:Ranker",
            {"init_args": {"rows": [*ROWS, 7], "width": WIDTH}},
            CheckpointError,
            "lacks rows.3.weight",
        ),
        (
            "own_ranker:Ranker",
            {"init_args": {"rows": [2001, 300, 40], "width": WIDTH}},
            CheckpointError,
            r"rows.0.weight: found \[2000, 8\], expected \[2001, 8\]",
        ),
        (
            "own_ranker:Ranker",
            {"init_args": {"rows": ROWS, "width": {"class_path": "os.mkdir", "init_args": ["made_by_arguments"]}}},
            ModelError,
            "class_path os.mkdir is a builtin_function_or_method; expected a class",
        ),
        ("own_ranker:Ranker", {"inputs": {"C1": 0}}, OptionError, "expected `inputs`"),
        ("own_ranker:Ranker", {"outputs": "odds"}, OptionError, "expected logits or probabilities"),
        ("own_ranker:Ranker", {"layers": 3}, OptionError, "found layers; expected a mapping with some of"),
    ],
)
def test_what_a_class_does_not_fit_is_one_sentence(trained, tiny, work, model, given, error, sentence):
    """Imports, arguments, names, shapes, forward and outputs are refused before any work."""
    with pytest.raises(error, match=sentence):
        convert(
            work / "ranker.pt",
            "8x",
            val=tiny.val,
            model=model,
            model_args=write_arguments(work / "arguments.yaml", **given),
        )
    assert not (work / "ranker.safetensors").exists()
    assert not (work / "made_by_arguments").exists()


def test_the_file_names_no_class_to_import(work, tiny):
    """A whole pickled module of a class that is not here is filled into the class that the user names."""
    code = CODE.replace("Ranker", "Vanished")
    module = type(sys)("vanished")
    exec(compile(code, "vanished", "exec"), module.__dict__)
    sys.modules["vanished"] = module
    model = module.Vanished(ROWS, module.Width(8))
    torch.save(model, work / "whole.pt")
    del sys.modules["vanished"]
    report = convert(
        work / "whole.pt", "4x", model="own_ranker:Ranker", model_args=write_arguments(work / "arguments.yaml")
    )
    assert "vanished" not in sys.modules
    assert len(report.tables) == len(ROWS)


def test_arguments_without_a_class_are_refused(work, tiny):
    """--model-args alone is a mistake."""
    with pytest.raises(MemrecError, match="add --model"):
        convert(tiny.checkpoint, "8x", model_args=write_arguments(work / "arguments.yaml"))
