"""Convert a checkpoint file: make one in the layout of facebookresearch/dlrm, plan, convert, and read the report."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import nn

from memrec_convert import convert, evaluate, plan
from memrec_convert.clicklog import LogSchema, SyntheticSpec, open_log, write_synthetic_log
from memrec_convert.models.dlrm import DLRM

SPEC = SyntheticSpec(tables=(2000, 300, 30), dense=2, train_rows=20_000, val_rows=4_000, test_rows=4_000)
DIM = 8
KEYS = {"tables": "emb_l", "bottom": "bot_l", "top": "top_l"}


def make_checkpoint(folder: Path) -> Path:
    """Train a tiny DLRM for an epoch on a synthetic log in `folder`; its path."""
    log = write_synthetic_log(SPEC, folder)
    torch.manual_seed(0)
    facts = {"interaction": "dot", "pairs": "lower", "tables": [[rows, DIM] for rows in SPEC.tables]}
    facts |= {"bottom": [SPEC.dense, 16, DIM], "top": [DIM + 6, 16, 1]}
    model = DLRM(facts, [nn.EmbeddingBag(rows, DIM, mode="sum") for rows in SPEC.tables])
    for table in model.tables:
        nn.init.uniform_(table.weight, -0.1, 0.1)
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.1)
    schema = LogSchema(tuple((f"C{n + 1}", rows) for n, rows in enumerate(SPEC.tables)), SPEC.dense)
    for batch in open_log(log.train, schema).batches(256, shuffle_seed=0):
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(model(batch.dense, batch.ids), batch.labels).backward()
        optimizer.step()
    state = {KEYS[name.split(".")[0]] + name[name.index(".") :]: value for name, value in model.state_dict().items()}
    torch.save({"state_dict": state, "opt_state_dict": optimizer.state_dict()}, folder / "dlrm.pt")
    return folder / "dlrm.pt"


def main() -> None:
    """The three verbs that most conversions need."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = make_checkpoint(folder)
        train, val, test = (folder / f"{split}.parquet" for split in ("train", "val", "test"))
        foreseen = plan(checkpoint, "8x", data=train, val=val)
        print(f"{foreseen.predicted_bytes} of {foreseen.budget_bytes} bytes would be used")
        report = convert(checkpoint, "8x", data=train, val=val, eval=test, out=folder / "dlrm.safetensors")
        assert report.auc is not None
        print(f"{report.artifact.bytes} bytes, AUC {report.auc.before:.4f} -> {report.auc.after:.4f} {report.auc.ci95}")
        for table in report.tables:
            print(f"  {table.name}: {table.bytes_before} -> {table.bytes_after} bytes, {table.form}")
        print(f"AUC of the file itself: {evaluate(report.artifact.path, test).auc:.4f}")


if __name__ == "__main__":
    main()
