"""Relative error of rows at 4x to 24x, beside int4, int2, product and residual quantisation of no fewer bytes.

python benchmarks/middle_rates.py --json figures.json

Every row counts alike and every direction too. A rival is measured first, all its bytes counted (codebooks in fp32); a
conversion then gets as many bytes for its whole file. Rows are Gaussian, or the items of two towers that are trained
here. Product and residual quantisation are FAISS's, where faiss-cpu is installed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor, nn

from memrec_convert import compress
from memrec_convert.lab.rivals.int4 import clip_greedily

RESIDUAL_STAGES = 16


class OneTable(nn.Module):
    """A model that is its table."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.table = nn.Embedding.from_pretrained(rows)

    def forward(self, ids: Tensor) -> Tensor:
        """The rows' sums."""
        return self.table(ids).sum(dim=1)


def train_items(items: int, dim: int, *, users: int = 4000, steps: int = 600) -> Tensor:
    """The item tower of a retrieval model, float32 [items, dim], trained with the batch's other items as negatives."""
    torch.manual_seed(0)
    tastes = torch.randn(users, 24), torch.randn(items, 24)
    popularity = 1.0 / torch.arange(1, items + 1) ** 0.7
    user, item = nn.Embedding(users, dim), nn.Embedding(items, dim)
    optimizer = torch.optim.Adam([*user.parameters(), *item.parameters()], lr=0.02)
    for _ in range(steps):
        shown = torch.multinomial(popularity, 8 * 1024, replacement=True).view(1024, 8)
        who = torch.randint(0, users, (1024,))
        liked = (tastes[0][who].unsqueeze(1) * tastes[1][shown]).sum(dim=2).argmax(dim=1)
        logits = user(who) @ item(shown[torch.arange(1024), liked]).T / dim**0.5
        loss = nn.functional.cross_entropy(logits, torch.arange(1024))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return item.weight.detach().clone()


def relative_error(found: Tensor, rows: Tensor) -> float:
    """Root of the summed squared error over that of the rows."""
    return float(((found - rows).square().sum() / rows.square().sum()).sqrt())


def round_rows(rows: Tensor, bits: int) -> Tensor:
    """Each row's range in 2**bits even steps; scale and shift as fp16."""
    low, high = rows.amin(dim=1, keepdim=True), rows.amax(dim=1, keepdim=True)
    shift, scale = low.half().float(), ((high - low) / (2**bits - 1)).half().float()
    return ((rows - shift) / scale).round().clamp(0, 2**bits - 1) * scale + shift


def run_faiss(rows: Tensor) -> Iterator[tuple[str, int, Tensor]]:
    """Product quantisers of several numbers of parts, and the residual one: name, bytes, rows."""
    try:
        import faiss
    except ImportError:
        return
    faiss.omp_set_num_threads(torch.get_num_threads())
    count, dim = rows.shape
    points = rows.numpy()
    for parts, bits in ((dim, 8), (dim, 6), (dim, 4), (dim // 2, 8), (dim // 2, 6), (dim // 4, 8), (dim // 8, 8)):
        quantiser = faiss.ProductQuantizer(dim, parts, bits)
        quantiser.train(points)
        nbytes = -(-count * parts * bits // 8) + 4 * dim * 2**bits
        yield (
            f"product, {parts} x {bits} bits",
            nbytes,
            torch.from_numpy(quantiser.decode(quantiser.compute_codes(points))),
        )
    quantiser = faiss.ResidualQuantizer(dim, RESIDUAL_STAGES, 8)
    quantiser.train(points)
    nbytes = count * RESIDUAL_STAGES + 4 * dim * 256 * RESIDUAL_STAGES
    yield "residual, 16 stages", nbytes, torch.from_numpy(quantiser.decode(quantiser.compute_codes(points)))


def run_rivals(rows: Tensor) -> Iterator[tuple[str, int, Tensor]]:
    """Name, bytes, and the rows as each rival gives them."""
    count, dim = rows.shape
    codes, ranges = clip_greedily(rows)
    yield "int4, greedy clipping", count * (dim // 2 + 4), codes * ranges[:, 1:] + ranges[:, :1]
    yield "int4", count * (dim // 2 + 4), round_rows(rows, 4)
    yield "int2", count * (dim // 4 + 4), round_rows(rows, 2)
    yield from run_faiss(rows)


def convert(rows: Tensor, nbytes: int) -> tuple[float, int, str]:
    """Relative error, bytes and form of a conversion in so many bytes."""
    small, report = compress(OneTable(rows), nbytes, weights="uniform", threshold="0")
    found = small.table(torch.arange(len(rows)))
    return relative_error(found, rows), report.sizes.artifact.total, report.tables[0].form


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--dims", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--only", choices=["gaussian", "trained"])
    parser.add_argument("--json", type=Path, help="write figures here")
    options = parser.parse_args()
    found = list[dict[str, Any]]()
    for dim in options.dims:
        for kind in [options.only] if options.only else ["gaussian", "trained"]:
            rows = torch.randn(options.rows, dim, generator=torch.Generator().manual_seed(0))
            rows = train_items(options.rows, dim) if kind == "trained" else rows
            for name, nbytes, decoded in sorted(run_rivals(rows), key=lambda one: -one[1]):
                ratio = 4 * rows.numel() / nbytes
                if 3.5 <= ratio <= 24:
                    theirs, (ours, own_bytes, form) = relative_error(decoded, rows), convert(rows, nbytes)
                    used = own_bytes / nbytes
                    line = {"rows": kind, "dim": dim, "rival": name, "ratio": ratio, "theirs": theirs, "ours": ours}
                    found.append(line | {"ours / theirs": ours / theirs, "used": used, "form": form})
                    print(found[-1], flush=True)
    print(tabulate(found, headers="keys", floatfmt=".4f"))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
