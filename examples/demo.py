"""The whole road in three minutes: make a click log, train a DLRM on it, convert it to a hundredth, read the report.

    python examples/demo.py --out demo-output [--ratio 100x] [--quick] [--no-convert]

The log is synthetic (Zipf ids, labels from a known model), the network is a small plain-torch DLRM, and its checkpoint
is saved in the layout of facebookresearch/dlrm. The two figures printed before the conversion show that there is
something to lose: the test AUC of the trained model, and what is left of it with the mean row in place of every row of
the large tables.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from memrec_convert.clicklog import ClickLog, LogSchema, SyntheticSpec, open_log, write_synthetic_log
from memrec_convert.evaluation.metrics import auc

FULL = SyntheticSpec()
QUICK = SyntheticSpec(tables=(200_000, 80_000, 40_000, 300, 50), train_rows=400_000, val_rows=50_000, test_rows=50_000)
LARGE_ROWS = 10_000
DIM = 16
BATCH_SIZE = 1024
LEARNING_RATE = 0.04


class Dlrm(nn.Module):
    """The model of facebookresearch/dlrm: bottom MLP, one vector per table, dot interaction, top MLP, sigmoid.

    Attribute names are theirs, since they become the keys of the checkpoint; the tables come first because the
    optimizer's state is stored in the order of the parameters.
    """

    def __init__(self, tables: tuple[int, ...], *, dense: int) -> None:
        super().__init__()
        self.emb_l = nn.ModuleList(nn.EmbeddingBag(rows, DIM, mode="sum", sparse=True) for rows in tables)
        for bag in self.emb_l:
            bound = 1 / np.sqrt(bag.num_embeddings)
            nn.init.uniform_(bag.weight, -bound, bound)
        vectors = len(tables) + 1
        self.bot_l = make_mlp([dense, 64, DIM], last=nn.ReLU())
        self.top_l = make_mlp([DIM + vectors * (vectors - 1) // 2, 64, 32, 1], last=nn.Sigmoid())
        self.register_buffer("pairs", torch.tril_indices(vectors, vectors, offset=-1), persistent=False)

    def forward(self, dense: Tensor, ids: Tensor) -> Tensor:
        """The click probability [B] of dense values [B, n] and ids [B, T]."""
        bottom = self.bot_l(dense)
        vectors = torch.stack([bottom, *(bag(ids[:, i : i + 1]) for i, bag in enumerate(self.emb_l))], dim=1)
        products = torch.bmm(vectors, vectors.transpose(1, 2))
        return self.top_l(torch.cat([bottom, products[:, self.pairs[0], self.pairs[1]]], dim=1)).squeeze(1)


def make_mlp(widths: list[int], *, last: nn.Module) -> nn.Sequential:
    """Linear layers with a ReLU after each but the last, which has `last`."""
    layers: list[nn.Module] = []
    for wide, narrow in pairwise(widths):
        layers += [nn.Linear(wide, narrow), nn.ReLU()]
    return nn.Sequential(*layers[:-1], last)


def train(model: Dlrm, log: ClickLog) -> tuple[torch.optim.Optimizer, float]:
    """One epoch of Adagrad; the optimizer and the mean loss of the last tenth."""
    # Adagrad builds sparse tensors of the gradients; torch warns until somebody has chosen whether to check them.
    torch.sparse.check_sparse_tensor_invariants.disable()
    optimizer = torch.optim.Adagrad(model.parameters(), lr=LEARNING_RATE)
    losses = []
    for batch in log.batches(BATCH_SIZE, shuffle_seed=0):
        loss = nn.functional.binary_cross_entropy(model(batch.dense, batch.ids), batch.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return optimizer, float(np.mean(losses[-(len(losses) // 10) :]))


@torch.no_grad()
def measure_auc(model: Dlrm, log: ClickLog) -> float:
    """The AUC of the model on a log."""
    batches = [(batch.labels, model(batch.dense, batch.ids)) for batch in log.batches(16_384)]
    labels, scores = (torch.cat(parts).numpy() for parts in zip(*batches, strict=True))
    return float(auc(labels, scores))


@torch.no_grad()
def measure_auc_of_mean_rows(model: Dlrm, log: ClickLog) -> float:
    """The AUC with each large table's rows replaced by their mean; the model is left as it was."""
    large = [bag for bag in model.emb_l if bag.num_embeddings > LARGE_ROWS]
    rows = [bag.weight.clone() for bag in large]
    for bag in large:
        bag.weight[:] = bag.weight.mean(dim=0)
    figure = measure_auc(model, log)
    for bag, before in zip(large, rows, strict=True):
        bag.weight.copy_(before)
    return figure


def save_checkpoint(path: Path, model: Dlrm, optimizer: torch.optim.Optimizer, figures: dict[str, float]) -> None:
    """Write the model as facebookresearch/dlrm's --save-model does (with plain numbers for its numpy scalars)."""
    counters = {"nepochs": 1, "nbatches": 0, "nbatches_test": 0, "iter": 0, "epoch": 0}
    state = {"state_dict": model.state_dict(), "opt_state_dict": optimizer.state_dict()}
    torch.save({**counters, **figures, **state}, path)


def prepare(folder: Path, spec: SyntheticSpec) -> Path:
    """Make the log, train the model, print what it is worth; the path of the checkpoint."""
    start = time.perf_counter()
    files = write_synthetic_log(spec, folder)
    schema = LogSchema(tuple((f"C{i + 1}", rows) for i, rows in enumerate(spec.tables)), spec.dense)
    print(f"log: {spec.train_rows:,} training samples, {sum(spec.tables):,} ids in {len(spec.tables)} tables")
    torch.manual_seed(0)
    model = Dlrm(spec.tables, dense=spec.dense)
    optimizer, loss = train(model, open_log(files.train, schema))
    test = open_log(files.test, schema)
    whole, without = measure_auc(model, test), measure_auc_of_mean_rows(model, test)
    print(f"trained in {time.perf_counter() - start:.0f} s, log included")
    print(f"test AUC of the model:                        {whole:.4f}")
    print(f"test AUC with mean rows for the large tables: {without:.4f}  ({without - whole:+.4f})")
    figures = {"train_loss": loss, "total_loss": loss, "test_auc": measure_auc(model, open_log(files.val, schema))}
    path = folder / "dlrm.pt"
    save_checkpoint(path, model, optimizer, figures)
    return path


def convert(checkpoint: Path, ratio: str) -> int:
    """Run the command that this project is about; its exit code."""
    folder = checkpoint.parent
    arguments = [str(checkpoint), "--budget", ratio, "--data", str(folder / "train.parquet")]
    arguments += ["--val", str(folder / "val.parquet"), "--eval", str(folder / "test.parquet")]
    arguments += ["--out", str(folder / "dlrm.safetensors"), "--force"]
    print("\n$ memrec-convert " + " ".join(arguments), flush=True)
    return subprocess.run([sys.executable, "-m", "memrec_convert", *arguments], check=False).returncode


def main() -> int:
    """Read the options, prepare the checkpoint and convert it."""
    parser = argparse.ArgumentParser(description="Train a small DLRM on a synthetic log and convert it.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the log, the checkpoint and the artifact")
    parser.add_argument("--ratio", default="100x", help="budget: a share of the table bytes, or bytes (default: 100x)")
    parser.add_argument("--quick", action="store_true", help="a third of the samples and fewer tables")
    parser.add_argument("--no-convert", action="store_true", help="stop once log and checkpoint are there")
    options = parser.parse_args()
    # Its steps are small: more threads gain nothing on an idle machine and wait for each other on a busy one.
    torch.set_num_threads(1)
    checkpoint = prepare(options.out, QUICK if options.quick else FULL)
    return 0 if options.no_convert else convert(checkpoint, options.ratio)


if __name__ == "__main__":
    sys.exit(main())
