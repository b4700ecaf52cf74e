"""Converts two days of a made-up model, the second from nothing and like the first, and makes the patch between them.

python benchmarks/nightly.py --rows 4000000 --dim 128 --moved 0.05 --threads 2
python benchmarks/nightly.py --shared ../shared --moved 0.05 --budget 100x

The checkpoints are those of big_checkpoint.py, in a temporary folder; on the second day a share of the rows, and the
dense part, have moved. Printed: seconds and CPU seconds of both conversions (each in a process of its own), predicted
distortion, rows that kept their codes, and the bytes of the patch beside those of the tables and of the dense part.

With --shared, the folder of real checkpoints and logs, the model is globo's. Its second day is the start of its
hold-out log, on which it is trained until that share of its rows has moved; the rest is the hold-out. Both conversions
weigh rows by the training log and are not fine-tuned. Printed: their AUC on the test log beside the second day's model,
and, of rows that had a code and did not move, the share that has the same code.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow.parquet as pq
import torch
from big_checkpoint import share_rows, write_checkpoint
from tabulate import tabulate
from torch import Tensor, nn

from memrec_convert import apply, convert, diff
from memrec_convert.artifact.reader import build_modules, read_artifact
from memrec_convert.checkpoint import read_source
from memrec_convert.conversion.inputs.from_checkpoint import LogChoices, make_schema, open_batches, run_on_batch
from memrec_convert.distill.held import HeldCodes
from memrec_convert.distill.streamed import depths_of
from memrec_convert.models import build_original


def run(*words: str | Path) -> tuple[dict[str, Any], float, float]:
    """The report of a conversion, its seconds and its CPU seconds."""
    command = [sys.executable, "-m", "memrec_convert", "convert", *map(str, words), "--json", "--quiet"]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    report: dict[str, Any] = json.loads(done.stdout)
    return report, time.perf_counter() - start, cpu


def train_a_day(source: Path, log: Path, out: Path, moved: float) -> tuple[int, dict[str, np.ndarray]]:
    """Trains globo's checkpoint until a share of its rows has moved; the samples, and which rows of each table did."""
    known = read_source(source)
    model, names = build_original(known), [table.name for table in known.tables]
    tables = cast("nn.ModuleList", model.tables)
    before = [table.weight.detach().clone() for table in tables]
    touched = [np.zeros(len(rows), dtype=bool) for rows in before]
    optimizer, samples = torch.optim.SGD(model.parameters(), lr=0.1), 0
    for batch in open_batches(log, make_schema(known.architecture, names, LogChoices({})), 1024).stream():
        loss = nn.functional.binary_cross_entropy_with_logits(run_on_batch(model, batch), cast("Tensor", batch.labels))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        samples += batch.rows
        for table, ids in enumerate(cast("Tensor", batch.ids).T):
            touched[table][ids.numpy()] = True
        if sum(one.sum() for one in touched) >= moved * sum(map(len, touched)):
            break
    state = {
        name.replace("tables.", "emb_l.").replace("bottom.", "bot_l.").replace("top.", "top_l."): tensor
        for name, tensor in model.state_dict().items()
    }
    torch.save({"state_dict": state}, out)
    pairs = zip(names, tables, before, strict=True)
    return samples, {name: (table.weight != old).any(dim=1).numpy() for name, table, old in pairs}


def read_codes(artifact: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Of each table the depth of every row's code, -1 or 0 where it has none, and the codes."""
    found = {}
    for module in build_modules(read_artifact(artifact), filled=True).values():
        if module.spec.form != "kept":
            depths = depths_of(module.spec, module.forms_of_rows().numpy() - 1)
            held = HeldCodes(module, depths, np.zeros(0))
            codes = held.read_codes(torch.arange(len(depths)), torch.from_numpy(depths)).numpy()
            found[module.name] = depths, codes
    return found


def count_kept(old: Path, new: Path, moved: dict[str, np.ndarray]) -> tuple[int, int]:
    """Of the rows that did not move and had a code: how many have it still, and how many there are."""
    before, after, kept, stayed = read_codes(old), read_codes(new), 0, 0
    for name, (depths, codes) in before.items():
        still = ~moved[name] & (depths > 0)
        stayed += int(still.sum())
        if name in after:
            own_depths, own = after[name]
            width = min(codes.shape[1], own.shape[1])
            kept += int((still & (depths == own_depths) & (codes[:, :width] == own[:, :width]).all(axis=1)).sum())
    return kept, stayed


def run_globo(shared: Path, folder: Path, budget: str, moved: float) -> None:
    """Prints what a night like the one before costs beside one from nothing."""
    first, data = shared / "checkpoints/globo/dlrm.pt", shared / "data/globo"
    samples, rows = train_a_day(first, data / "val.parquet", folder / "today.pt", moved)
    pq.write_table(pq.read_table(data / "val.parquet").slice(samples), folder / "val.parquet")
    logs: dict[str, Any] = {"data": data / "train.parquet", "val": folder / "val.parquet", "epochs": 0}
    convert(first, budget, out=folder / "old", **logs)

    cells = []
    for label, choices in (("from nothing", {"budget": budget}), ("like yesterday", {"like": folder / "old"})):
        out, start = folder / label, time.perf_counter()
        report = convert(folder / "today.pt", out=out, eval=data / "test.parquet", **logs, **choices)
        seconds, auc = time.perf_counter() - start, report.auc
        assert auc is not None
        kept, stayed = count_kept(folder / "old", out, rows)
        patch = diff(folder / "old", out, out=folder / "patch", force=True)
        figures = [f"{seconds:.1f}", f"{auc.before:.6f}", f"{auc.after:.6f}", report.plan["divergence"]]
        cells.append([label, *figures, f"{kept / stayed:.1%} of {stayed}", patch.bytes, patch.new_bytes])
        print(report.plan.get("like", {}).get("says", "").replace(str(folder / "old"), "yesterday"))
    shares = [one.sum() for one in rows.values()], sum(map(len, rows.values()))
    print(f"{samples} samples moved {sum(shares[0])} of {shares[1]} rows")
    heads = ["conversion", "seconds", "AUC today", "artifact", "divergence", "unmoved rows that kept their codes"]
    print(tabulate(cells, [*heads, "patch", "artifact's bytes"], disable_numparse=True))


def read_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4_000_000, help="rows of the large tables together")
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--tables", type=int, default=3)
    parser.add_argument("--moved", type=float, default=0.05, help="share of the rows that moved overnight")
    parser.add_argument("--budget", default="100x")
    parser.add_argument(
        "--shared", type=Path, help="the folder of globo's checkpoint and logs, in place of a made-up model"
    )
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def main() -> None:
    """Prints the tables of either model."""
    options = read_options()
    if options.shared is not None:
        with tempfile.TemporaryDirectory() as name:
            run_globo(options.shared, Path(name), options.budget, options.moved)
        return
    tables = share_rows(options.rows, options.tables)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_checkpoint(folder / "yesterday.pt", tables, options.dim)
        write_checkpoint(folder / "today.pt", tables, options.dim, moved_share=options.moved)
        old, new, patch = folder / "yesterday", folder / "today", folder / "patch"
        threads = ("--threads", str(options.threads))
        run(folder / "yesterday.pt", "--budget", options.budget, "--out", old, *threads)
        fresh = run(folder / "today.pt", "--budget", options.budget, "--out", folder / "fresh", *threads)
        like = run(folder / "today.pt", "--like", old, "--out", new, *threads)
        made = diff(old, new, out=patch)
        apply(old, patch, out=folder / "made")
        assert (folder / "made").read_bytes() == new.read_bytes()
        anew = diff(old, folder / "fresh", out=folder / "other")
    rows = [
        [label, f"{seconds:.1f}", f"{cpu:.1f}", f"{report['plan']['distortion']:.1f}", report["artifact"]["bytes"]]
        for label, (report, seconds, cpu) in (("from nothing", fresh), ("like yesterday", like))
    ]
    print(tabulate(rows, ["conversion", "seconds", "CPU seconds", "distortion", "bytes"], disable_numparse=True))
    print(like[0]["plan"]["like"]["says"].replace(str(old), "yesterday"))
    sizes = like[0]["sizes"]["artifact"]
    dense = sizes["dense"]
    rows = [
        [label, one.bytes, f"{one.bytes / sizes['tables']:.1%}", f"{(one.bytes - dense) / sizes['tables']:.1%}"]
        for label, one in (("to the one like yesterday", made), ("to the one from nothing", anew))
    ]
    print(tabulate(rows, ["patch", "bytes", "of the tables", "without the dense part"], disable_numparse=True))


if __name__ == "__main__":
    main()
