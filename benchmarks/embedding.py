"""The embedding stage alone: compressed tables through the kernel, beside the full tables that they replace.

    python benchmarks/embedding.py --dim 128 --artifact-mb 24 --form mixed --json embedding.json

26 tables; full fp32 tables of 5 GB (dim 128) or 2 GB (others). Ids are Zipf 1.05 scattered over the rows, and uniform;
new in every call, and other ones for every contender, so that none brings rows into the caches for the next. All
contenders take turns of several calls, as a server calls one model again and again, the first ones of a turn not timed;
figures are medians over calls in ns per lookup.

bags         26 nn.EmbeddingBag, their outputs kept until the batch ends, as a DLRM needs them
bags_freed   the same, each output released at once
full         the kernel with its prefetch over the full fp32 tables, into a given output
ours         the kernel over the compressed tables, which makes its own output
ours_out     the same into a given output
c            the same through memrec.h, from an artifact of the tables, into a given output
gather       the tokens of the same lookups summed with all row numbers given (where the form has tokens)
memset       zeros written to the output
fbgemm8, 4   FBGEMM's int8 and int4 rows of the full tables (extra [bench]): it makes and zeroes its output in every
             call, so set MALLOC_MMAP_THRESHOLD_, MALLOC_TRIM_THRESHOLD_ and MALLOC_TOP_PAD_ high
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from c_contender import CTables
from torch import Tensor, nn

from memrec_convert.bench.contenders import make_fbgemm
from memrec_convert.bench.timing import Timing, calls_in_a_row, time_interleaved
from memrec_convert.encoding import HashSpec, LevelSpec, TableSpec, count_bytes
from memrec_convert.encoding.build import build_replaced
from memrec_convert.encoding.index import choose_index
from memrec_convert.kernels.hashing import hash_ids, token_numbers
from memrec_convert.kernels.loading import describe_path, load_kernel
from memrec_convert.lookup import CompressedEmbeddingBag, HashGroup
from memrec_convert.lookup.kernel_tables import KernelTables
from memrec_convert.lookup.memory import OUTPUTS, settle
from memrec_convert.lookup.together import TogetherCache, embed_together

TABLES = 26
FULL_BYTES = {128: 5_000_000_000}
OTHER_FULL_BYTES = 2_000_000_000
ZIPF = 1.05
INDEXED_LOOKUPS = 0.8
STAGES = (256,) * 6
BATCHES = (1, 8, 64, 512, 2048, 16384)
GATHERED = (512, 2048)
CONTENDERS = ("bags", "bags_freed", "full", "ours", "ours_out", "c", "memset", "gather", "fbgemm8", "fbgemm4")
SECONDS_PER_BATCH = 12.0
MOST_DRAWN = 20_000_000


@dataclass(frozen=True)
class Stage:
    """The tables of one run: full ones and compressed ones of the same ids."""

    dim: int
    rows: int
    bags: list[nn.EmbeddingBag]
    full: KernelTables
    tables: list[CompressedEmbeddingBag]
    kernel: KernelTables
    library: CTables
    nbytes: int
    fbgemm: dict[str, Callable[[Tensor, Tensor], Tensor]]


class Ids:
    """Draws ids [samples, tables]: ranks by Zipf's law or uniform, each table's ranks scattered over its rows."""

    def __init__(self, rows: int, kind: str, seed: int = 0) -> None:
        self.rows, self.kind, self.draw = rows, kind, np.random.default_rng(seed)
        self.cumulative = np.cumsum(np.arange(1, rows + 1, dtype=np.float64) ** -ZIPF)
        self.scatter = np.random.default_rng(1).permutation(rows)

    def id_of(self, ranks: np.ndarray, table: int) -> np.ndarray:
        """The ids with these ranks (0 is the most frequent)."""
        return (self.scatter[ranks] + table * 9973) % self.rows

    def sample(self, samples: int) -> Tensor:
        """int64 [samples, tables], each table's ids side by side in memory."""
        ids = np.empty((TABLES, samples), dtype=np.int64)
        for table in range(TABLES):
            if self.kind == "uniform":
                ids[table] = self.draw.integers(0, self.rows, samples)
            else:
                at = self.draw.random(samples) * self.cumulative[-1]
                ids[table] = self.id_of(np.searchsorted(self.cumulative, at), table)
        return torch.from_numpy(ids).t()


def make_stage(dim: int, form: str, artifact_bytes: int, *, k: int, k_weights: int) -> Stage:
    """Full tables of random numbers, and compressed tables of the asked form that fill the artifact's bytes."""
    rows = FULL_BYTES.get(dim, OTHER_FULL_BYTES) // (TABLES * dim * 4)
    ids = Ids(rows, "zipf")
    bags = []
    for _ in range(TABLES):
        weight = torch.empty(rows, dim)
        weight.view(-1).random_(-100, 100)
        bags.append(nn.EmbeddingBag.from_pretrained(weight, mode="sum", freeze=True))
    full = []
    for number, bag in enumerate(bags):
        table = CompressedEmbeddingBag(TableSpec(1, dim, "kept", codec="fp32"), name=f"full{number}")
        table.spec = TableSpec(rows, dim, "kept", codec="fp32")
        table.rows = bag.weight.data
        full.append(table)
    tables = make_tables(ids, dim, form, artifact_bytes, k=k, k_weights=k_weights)
    settle([*tables, *{id(table.group): table.group for table in tables if table.group is not None}.values()])
    shapes = [shape for table in tables for shape in table.spec.tensors().values()]
    if tables[0].group is not None:
        shapes += list(tables[0].group.spec.tensors().values())
    kernels = KernelTables(full, range(TABLES)), KernelTables(tables, range(TABLES))
    library = CTables(tables, torch.get_num_threads())
    made = {f"fbgemm{bits}": make_fbgemm([(rows, dim)] * TABLES, bits=bits) for bits in (8, 4)}
    fbgemm = {name: joint for name, joint in made.items() if joint is not None}
    return Stage(dim, rows, bags, kernels[0], tables, kernels[1], library, count_bytes(shapes), fbgemm)


def make_tables(
    ids: Ids, dim: int, form: str, artifact_bytes: int, *, k: int, k_weights: int
) -> list[CompressedEmbeddingBag]:
    """Compressed tables of one form.

    `mixed` indexes the ids of 80 % of the lookups as codes and hashes the rest; `codes` and `int8` index as many as fit
    over the mean row; `hashed` hashes all; `trellis4` stores all rows in 4 bits per value, whatever they take.
    """
    if form == "trellis4":
        return [_random_kept(ids.rows, dim, form, name=f"table{number}") for number in range(TABLES)]
    rows = ids.rows
    share = ids.cumulative / ids.cumulative[-1]
    hot = 0 if form == "hashed" else int(np.searchsorted(share, INDEXED_LOOKUPS)) + 1
    if form in ("codes", "int8"):
        hot = _most_ids(rows, dim, form, artifact_bytes // TABLES)
    hashing = None
    if form in ("mixed", "hashed"):
        spent = TABLES * count_bytes(_spec(rows, dim, form, hot, None).tensors().values())
        left = artifact_bytes - spent
        blocks = max(left // 16 // 32, 1) if k_weights else 0
        hashing = HashSpec("all", dim, max((left - 32 * blocks) // dim, 1), k, blocks=blocks, k_weights=k_weights)
    group = None if hashing is None else _random_group(hashing)
    draw, tables = np.random.default_rng(2), []
    for number in range(TABLES):
        spec = _spec(rows, dim, form, hot, hashing, seed=number)
        levels = np.full(rows, -1, dtype=np.int8)
        levels[ids.id_of(np.arange(hot), number)] = 0
        codes = draw.integers(0, 256, (rows, len(spec.stages)), dtype=np.uint8) if spec.stages else np.zeros((rows, 0))
        codebook = torch.from_numpy(draw.integers(-127, 128, (sum(spec.stages), dim)).astype(np.int8))
        tensors = build_replaced(
            spec,
            centre=torch.randn(dim),
            scale=0.01,
            codebook=codebook if spec.stages else None,
            codes=codes,
            levels=levels,
            read_rows=lambda some: torch.randn(len(some), dim),
        )
        table = CompressedEmbeddingBag(spec, name=f"table{number}", group=group)
        table.fill(tensors)
        tables.append(table)
    return tables


def _random_kept(rows: int, dim: int, codec: str, *, name: str) -> CompressedEmbeddingBag:
    """A table that stores all rows, of random bytes."""
    spec = TableSpec(rows, dim, "kept", codec=codec)
    table = CompressedEmbeddingBag(spec, name=name)
    scales = {"scale": torch.full((rows,), 0x80, dtype=torch.uint8)}
    table.fill(
        {part: torch.randint(0, 256, shape, dtype=dtype) for part, (dtype, shape) in spec.tensors().items()} | scales
    )
    return table


def _spec(rows: int, dim: int, form: str, hot: int, hashing: HashSpec | None, seed: int = 0) -> TableSpec:
    levels: tuple[LevelSpec, ...] = ()
    stages: tuple[int, ...] = ()
    if form in ("mixed", "codes"):
        stages, levels = STAGES, (LevelSpec("codes", choose_index(rows, hot), depth=len(STAGES)),)
    elif form == "int8":
        levels = (LevelSpec("rows", choose_index(rows, hot), codec="int8"),)
    shifts = tuple(range(len(stages)))
    return TableSpec(
        rows,
        dim,
        "replaced",
        stages=stages,
        shifts=shifts,
        levels=levels,
        hashing=hashing,
        hash_seed=seed if hashing else 0,
    )


def _most_ids(rows: int, dim: int, form: str, nbytes: int) -> int:
    low, high = 1, rows
    while low < high:
        middle = (low + high + 1) // 2
        fits = count_bytes(_spec(rows, dim, form, middle, None).tensors().values()) <= nbytes
        low, high = (middle, high) if fits else (low, middle - 1)
    return low


def _random_group(spec: HashSpec) -> HashGroup:
    group = HashGroup(spec)
    group.tokens.random_(-127, 128)
    group.scale.fill_(0.01)
    if spec.k_weights:
        group.weights.copy_(torch.rand(spec.blocks * 16))
    return group


def given_tokens(stage: Stage, ids: Tensor) -> Callable[[Tensor], object] | None:
    """Sums the tokens of these lookups with all numbers given: their cost if nothing had to be found."""
    if not any(table.spec.stages or table.group for table in stage.tables):
        return None
    books, first, numbers, counts, factors = [], 0, [], [], []
    group = stage.tables[0].group
    most = max(len(STAGES), 0 if group is None else group.spec.k)
    if group is not None:
        books.append(group.tokens)
        first = len(group.tokens)
    for number, table in enumerate(stage.tables):
        own = ids[:, number].contiguous()
        entries = torch.zeros(len(own), most, dtype=torch.int32)
        count = torch.full((len(own),), 1, dtype=torch.uint8)
        if group is not None:
            h1, h2 = hash_ids(own, table.spec.hash_seed)
            entries[:, : group.spec.k] = token_numbers(h1, h2, k=group.spec.k, rows=group.spec.rows).int()
            count[:] = group.spec.k
        if table.spec.stages:
            (places,) = table.locate(own)
            member = places >= 0
            found = table.read_entries(places[member], 0, len(STAGES), (0, places[member]))
            entries[member, : len(STAGES)] = torch.stack(found, dim=1).int() + first
            count[member] = len(STAGES)
            books.append(table.codebook)
            first += len(table.codebook)
        numbers.append(entries)
        counts.append(count)
        factors.append(torch.full((len(own),), 0.01))
    book, entries, count, factor = torch.cat(books), torch.cat(numbers), torch.cat(counts), torch.cat(factors)
    native: Any = load_kernel()

    def run(out: Tensor) -> Tensor:
        native.sum_rows(
            book.data_ptr(),
            stage.dim,
            entries.data_ptr(),
            count.data_ptr(),
            most,
            factor.data_ptr(),
            len(count),
            out.data_ptr(),
        )
        return out

    return run


def measure(stage: Stage, ids: Ids, batch: int, *, seconds: float) -> tuple[dict[str, Timing], list[float]]:
    """Timings of all contenders at one batch size, and the steps of ours in ns per lookup."""
    lookups = batch * TABLES
    calls = calls_in_a_row(lookups)
    repetitions = int(min(max(seconds / (calls * lookups * 1e-6), 7), 100))
    # Contenders never have the same ids at one time: one would bring the other's rows into the caches.
    most = max(MOST_DRAWN // lookups, 2 * len(CONTENDERS))
    drawn = [ids.sample(batch) for _ in range(min(max(2 * calls * repetitions, 2 * len(CONTENDERS)), most))]
    columns = [[one[:, table] for table in range(TABLES)] for one in drawn]
    offsets = torch.arange(batch)
    out = OUTPUTS.take(batch, TABLES * stage.dim).zero_()
    inputs, cache = tuple(range(TABLES)), TogetherCache()
    embed_together(stage.tables, inputs, drawn[0], cache)
    bound = [stage.library.bind(one, out, stage.dim) for one in drawn]
    bound[0]()
    if not torch.equal(out, stage.kernel.look_up_grid(drawn[0])):
        raise RuntimeError("libmemrec gives other rows than the kernel")

    def own(name: str, number: int) -> int:
        return (number + CONTENDERS.index(name) * max(len(drawn) // len(CONTENDERS), 1)) % len(drawn)

    def run_bags(number: int) -> object:
        mine = columns[own("bags", number)]
        return [bag(column, offsets) for bag, column in zip(stage.bags, mine, strict=True)]

    def run_bags_freed(number: int) -> None:
        for bag, column in zip(stage.bags, columns[own("bags_freed", number)], strict=True):
            bag(column, offsets)

    contenders: dict[str, Callable[[int], object]] = {
        "bags": run_bags,
        "bags_freed": run_bags_freed,
        "full": lambda number: stage.full.look_up_grid(drawn[own("full", number)], out),
        "ours": lambda number: embed_together(stage.tables, inputs, drawn[own("ours", number)], cache),
        "ours_out": lambda number: stage.kernel.look_up_grid(drawn[own("ours_out", number)], out),
        "c": lambda number: bound[own("c", number)](),
        "memset": lambda number: out.zero_(),
    }
    joined = [one.t().reshape(-1).int() for one in drawn] if stage.fbgemm else []
    ends = torch.arange(TABLES * batch + 1, dtype=torch.int32)
    for name, joint in stage.fbgemm.items():
        contenders[name] = lambda number, name=name, joint=joint: joint(joined[own(name, number)], ends)  # type: ignore[misc]
    if batch in GATHERED:
        given = [given_tokens(stage, drawn[own("gather", number)]) for number in range(min(len(drawn), 40))]
        if given[0] is not None:
            contenders["gather"] = lambda number: given[number % len(given)](out)  # type: ignore[misc]
    with torch.no_grad():
        timings = time_interleaved(contenders, repetitions, in_a_row=calls, lead=calls)
        clock = torch.zeros(4, dtype=torch.int64)
        timed = min(len(drawn), 50)
        for number in range(timed):
            stage.kernel.look_up_grid(drawn[number], out, clock=clock)
    return timings, [value / (lookups * timed) for value in clock.tolist()]


def make_row(
    stage: Stage, form: str, kind: str, batch: int, timings: dict[str, Timing], steps: list[float]
) -> dict[str, Any]:
    """One row of the JSON."""
    ns = {name: timing.median * 1e9 / (batch * TABLES) for name, timing in timings.items()}
    row: dict[str, Any] = {
        "dim": stage.dim,
        "form": form,
        "ids": kind,
        "batch": batch,
        "artifact_bytes": stage.nbytes,
        "ns_per_lookup": ns["ours"],
        "ratio_to_bags": ns["bags"] / ns["ours"],
        "ratio_to_full": ns["full"] / ns["ours_out"],
        "ratio_c_to_ours_out": ns["ours_out"] / ns["c"],
        "ns": ns,
        "steps": dict(zip(("read and mix", "index", "fetch", "decode and write"), steps, strict=True)),
        "noisy": sorted(name for name, timing in timings.items() if timing.noisy),
    }
    if "gather" in ns:
        row["ratio_to_gather"] = ns["ours_out"] / ns["gather"]
    return row


def main() -> None:
    """Parses the command line, measures, prints a table and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--artifact-mb", type=float, default=24)
    parser.add_argument("--form", choices=("codes", "hashed", "int8", "mixed", "trellis4"), default="mixed")
    parser.add_argument("--k", type=int, default=2, help="hashed tokens of an id")
    parser.add_argument("--k-weights", type=int, default=4, help="weights of a hashed id")
    parser.add_argument("--batch", default=",".join(str(batch) for batch in BATCHES))
    parser.add_argument("--ids", default="zipf,uniform")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=SECONDS_PER_BATCH, help="aimed at, per batch size")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    start = time.perf_counter()
    stage = make_stage(given.dim, given.form, int(given.artifact_mb * 1e6), k=given.k, k_weights=given.k_weights)
    print(f"{TABLES} tables of {stage.rows} x {stage.dim}; {stage.nbytes / 1e6:.1f} MB; {describe_path()}", flush=True)
    rows = []
    for kind in given.ids.split(","):
        ids = Ids(stage.rows, kind, seed=7)
        for batch in (int(size) for size in given.batch.split(",")):
            timings, steps = measure(stage, ids, batch, seconds=given.seconds)
            rows.append(make_row(stage, given.form, kind, batch, timings, steps))
            last = rows[-1]
            shown = "  ".join(f"{name} {value:.1f}" for name, value in last["ns"].items())
            print(
                f"{kind:8} {batch:6}  x{last['ratio_to_bags']:.2f} bags  x{last['ratio_to_full']:.2f} full | {shown} | "
                + " / ".join(f"{value:.1f}" for value in steps)
                + f" {'noisy' if last['noisy'] else ''}",
                flush=True,
            )
    if given.json:
        given.json.write_text(json.dumps({"rows": rows, "kernel": describe_path(), "threads": given.threads}, indent=1))
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
