"""A compressed weight in a user's own modules: what one call costs beside the kernel and beside the drop-in module.

    python benchmarks/drop_in.py --json drop_in.json

Tables of 50,000 rows of dim 32, compressed at 20x. Ids fall off steeply and are new in every call. Contenders take
turns of several calls, on one thread; figures are medians in microseconds a call.

kernel     the lookup itself, into a given output
module     CompressedEmbedding or CompressedEmbeddingBag over the same table, as in the file of a known network
direct     nn.Embedding or nn.EmbeddingBag as `compress` returns it
subclass   a class of the user's own, whose calls go through torch's functions
operator   torch.ops.memrec.embed, which compiled and exported models call
plain      the uncompressed module of torch
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor, nn

from memrec_convert import compress
from memrec_convert.bench.timing import calls_in_a_row, time_interleaved
from memrec_convert.kernels.loading import describe_path
from memrec_convert.lookup import CompressedEmbedding, CompressedEmbeddingBag
from memrec_convert.lookup.tracing import embed

ROWS, DIM, BAG = 50_000, 32, 8
BATCHES = (1, 64, 512, 2048, 16384)
CALLS = 64
"""Sets of ids that the calls go through."""


class Own(nn.Embedding):
    """A class of the user's own, which `compress` leaves as it is."""


class OwnBag(nn.EmbeddingBag):
    """A class of the user's own, which `compress` leaves as it is."""


class Model(nn.Module):
    """One table of each kind, under the same rows."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        weight = torch.randn(ROWS, DIM)
        self.rows, self.own = (kind.from_pretrained(weight.clone()) for kind in (nn.Embedding, Own))
        self.bags, self.own_bags = (
            kind.from_pretrained(weight.clone(), mode="sum") for kind in (nn.EmbeddingBag, OwnBag)
        )

    def forward(self, ids: Tensor) -> Tensor:
        """Logits [B] of ids [B]: every table is read."""
        pooled = self.bags(ids[:, None]) + self.own_bags(ids[:, None])
        return (self.rows(ids) + self.own(ids) + pooled).sum(1)


def draw_ids(shape: tuple[int, ...], seed: int) -> Tensor:
    """int64 ids, the low ones far more frequent."""
    generator = torch.Generator().manual_seed(seed)
    return (ROWS * torch.rand(shape, generator=generator) ** 4).long()


def list_contenders(model: Model, small: Any, batch: int, *, bags: bool) -> dict[str, Callable[[int], object]]:  # noqa: ANN401
    """What takes turns over batches of single ids, or of bags."""
    shape = (batch, BAG) if bags else (batch,)
    ids = [draw_ids(shape, seed) for seed in range(CALLS)]
    direct, own, plain = (small.bags, small.own_bags, model.bags) if bags else (small.rows, small.own, model.rows)
    table = direct.weight.table
    module = (CompressedEmbeddingBag if bags else CompressedEmbedding)(table.spec, name="exact", group=table.group)
    module.fill(dict(table.named_buffers(recurse=False)))
    kernel, starts = module.kernel(), torch.arange(batch) * BAG
    assert kernel is not None
    out = torch.empty(batch, DIM)

    def run_kernel(call: int) -> object:
        if bags:
            return kernel.look_up_bags([(ids[call % CALLS].view(-1), starts, None)], batch)
        return kernel.look_up_grid(ids[call % CALLS].view(-1, 1), out)

    return {
        "kernel": run_kernel,
        "module": lambda call: module(ids[call % CALLS]),
        "direct": lambda call: direct(ids[call % CALLS]),
        "subclass": lambda call: own(ids[call % CALLS]),
        "operator": lambda call: embed(module, ids[call % CALLS], None, None),
        "plain": lambda call: plain(ids[call % CALLS]),
    }


def main() -> None:
    """Times both kinds of module at every batch size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=11)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = Model().eval()
    small, _ = compress(model, "20x", batches=[(draw_ids((4096,), seed),) for seed in range(4)])
    found: list[dict[str, Any]] = []
    for kind in ("ids", "bags"):
        for batch in BATCHES:
            contenders = list_contenders(model, small, batch, bags=kind == "bags")
            calls = calls_in_a_row(batch * (BAG if kind == "bags" else 1))
            with torch.inference_mode():
                times = time_interleaved(contenders, options.repetitions, in_a_row=calls, lead=2)
            found.append({"kind": kind, "batch": batch} | {name: 1e6 * one.median for name, one in times.items()})
    print(f"kernel: {describe_path()}")
    print(tabulate(found, headers="keys", floatfmt=".1f"))
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
