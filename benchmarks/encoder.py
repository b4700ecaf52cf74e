"""Measures the encoder: thousands of rows per second and core, FAISS's residual quantiser beside it in turns.

python benchmarks/encoder.py --json figures.json

One thread each. FAISS is measured where faiss-cpu is installed, on the same rows and codebooks, in pieces of 4,096
rows, which it is fastest with. "not nearest" counts rows whose first code is not the nearest entry in double precision.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor

from memrec_convert.kernels.encoder import code_each_depth, search_codes
from memrec_convert.kernels.loading import describe_path

CASES = (("1 stage", 1, 1), ("8 stages", 8, 1), ("8 stages, beam 4", 8, 4))
ENTRIES = 256
PIECE = 4096


def make_rows(rows: int, dim: int) -> Tensor:
    """Rows of a few strong directions and noise, float32 [rows, dim]."""
    draw = torch.Generator().manual_seed(0)
    directions = torch.randn(dim, dim, generator=draw) * 0.9 ** torch.arange(dim).unsqueeze(1)
    return torch.randn(rows, dim, generator=draw) @ directions / dim**0.5


def make_books(rows: Tensor, stages: int) -> list[Tensor]:
    """A codebook per stage: rows drawn from what the stages before leave, float32 [ENTRIES, dim] each."""
    rest, books = rows[: 64 * ENTRIES], list[Tensor]()
    for _ in range(stages):
        books.append(rest[:: len(rest) // ENTRIES][:ENTRIES].clone() * 0.7)
        codes, _ = code_each_depth(rest, books[-1:])
        rest = rest - books[-1][codes[:, 0].long()]
    return books


def make_faiss(books: list[Tensor], dim: int, stages: int, beam: int) -> Callable[[Tensor], object] | None:
    """FAISS's residual quantiser with these codebooks; None where it is not installed."""
    try:
        import faiss
    except ImportError:
        return None
    faiss.omp_set_num_threads(1)
    quantiser = faiss.ResidualQuantizer(dim, stages, 8)
    quantiser.train_type = faiss.ResidualQuantizer.Skip_codebook_tables
    quantiser.max_beam_size = beam
    faiss.copy_array_to_vector(torch.cat(books[:stages]).numpy().ravel(), quantiser.codebooks)
    quantiser.is_trained = True
    quantiser.compute_codebook_tables()
    quantiser.use_beam_LUT = int(beam > 1)

    def encode(rows: Tensor) -> None:
        for piece in torch.split(rows, PIECE):
            quantiser.compute_codes(piece.numpy())

    return encode


def count_wrong(rows: Tensor, book: Tensor) -> int:
    """Rows whose code is not the nearest entry, by more than what float32 can tell apart."""
    codes, _ = search_codes(rows, [book])
    square = torch.cdist(rows.double(), book.double(), compute_mode="donot_use_mm_for_euclid_dist").square()
    chosen = square.gather(1, codes.long()).squeeze(1)
    return int((chosen > square.min(dim=1).values * (1 + 1e-6)).sum())


def measure(turns: int, contenders: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Seconds of each contender, in turns after one turn that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(turns + 1):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def main() -> None:
    """Measures, prints, and writes the figures where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--rows", type=int, default=65_536)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = make_rows(options.rows, options.dim)
    books = make_books(rows, max(stages for _, stages, _ in CASES))
    found = list[dict[str, Any]]()
    for name, stages, beam in CASES:
        contenders: dict[str, Callable[[], object]] = {"ours": partial(search_codes, rows, books[:stages], beam=beam)}
        if (other := make_faiss(books, options.dim, stages, beam)) is not None:
            contenders["FAISS"] = partial(other, rows)
        seconds = measure(options.turns, contenders)
        row: dict[str, Any] = {"case": name}
        row |= {f"{one}, k rows/s": round(len(rows) / statistics.median(t) / 1e3) for one, t in seconds.items()}
        if "FAISS" in seconds:
            ratios = [theirs / ours for ours, theirs in zip(seconds["ours"], seconds["FAISS"], strict=True)]
            row["times FAISS"] = round(statistics.median(ratios), 2)
        found.append(row)
    wrong = count_wrong(rows[:8192], books[0])
    print(tabulate(found, headers="keys"))
    print(
        f"not nearest: {wrong} of {min(8192, len(rows))} rows; {describe_path()['instruction_set']}, dim {options.dim}"
    )
    if options.json:
        figures = {"cases": found, "not_nearest": wrong, "dim": options.dim, **describe_path()}
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
