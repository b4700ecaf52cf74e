"""Times ONNX exports in ONNX Runtime, and compares their logits with load()'s on many samples.

    python benchmarks/onnx_lookups.py                      # 26 tables of codes, dim 128: nanoseconds per lookup
    python benchmarks/onnx_lookups.py small.safetensors    # a whole model: microseconds per call, bytes, difference

Both runtimes are timed in turns, on one thread each, and the fastest turn is shown.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from memrec_convert import save
from memrec_convert.artifact.metadata import METADATA_ATTRIBUTE, Metadata
from memrec_convert.encoding import TableSpec
from memrec_convert.exports.export import export, read_subject
from memrec_convert.exports.golden import make_golden
from memrec_convert.lookup import CompressedEmbedding
from memrec_convert.models import build_model

TABLES, ROWS, DIM, STAGES = 26, 40_000, 128, (256, 256, 256, 256)
TURNS, SECONDS = 15, 0.05


def main() -> None:
    """Prints a line per batch size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artifact", type=Path, nargs="?")
    parser.add_argument("--batch", default="1,64,512")
    parser.add_argument("--samples", type=int, default=10_000)
    given = parser.parse_args()
    torch.set_num_threads(1)
    batches = [int(text) for text in given.batch.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        artifact = given.artifact or write_tables(Path(folder))
        show(artifact, Path(folder) / "model.onnx", batches, given.samples)


def write_tables(folder: Path) -> Path:
    """An artifact of 26 tables of random codes, 4 bytes each."""
    draw = torch.Generator().manual_seed(0)
    tables = []
    for number in range(TABLES):
        spec = TableSpec(ROWS, DIM, "replaced", stages=STAGES, shifts=(0, 1, 2, 3), base_depth=len(STAGES))
        table = CompressedEmbedding(spec, name=f"t{number}", oov="clip")
        table.fill(
            {
                "frame": torch.rand(1 + DIM, generator=draw),
                "codebook": torch.randint(-127, 128, (sum(STAGES), DIM), generator=draw, dtype=torch.int8),
                "base": torch.randint(0, 256, (ROWS * len(STAGES) + 8,), generator=draw, dtype=torch.uint8),
            }
        )
        tables.append(table)
    architecture = {"name": "tables", "names": [t.name for t in tables], "tables": [[ROWS, DIM]] * TABLES}
    model = build_model(architecture, tables).eval()
    metadata = Metadata(modules={}, architecture=architecture, dense="fp32", profile={}, plan={}, seed=0)
    setattr(model, METADATA_ATTRIBUTE, metadata)
    path = folder / "tables.safetensors"
    save(model, path)
    return path


def show(artifact: Path, out: Path, batches: list[int], samples: int) -> None:
    """Exports, compares and times one artifact."""
    subject = read_subject(artifact, "ids")
    model, alone = subject.model, subject.architecture["name"] == "tables"
    if alone:
        content = tables_together(subject)
    else:
        written = export(artifact, to="onnx", out=out)
        allowed = int(1.15 * written.artifact_bytes) + 50_000
        print(f"bytes: {written.bytes} of {written.artifact_bytes} in the artifact, {allowed} allowed")
        content = out.read_bytes()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    if alone:
        ids = np.random.default_rng(0).integers(0, ROWS, (samples, TABLES))
        feeds, own = (
            {"ids": ids},
            lambda part: torch.stack([t(part["ids"][:, n].contiguous()) for n, t in enumerate(model.tables)], 1),
        )
        lookups = TABLES
    else:
        golden = make_golden(model, subject.architecture, "ids", samples=samples)
        feeds, own = dict(golden.feeds), lambda part: model(part["dense"], part["ids"])
        lookups = golden.feeds["ids"].shape[1]
    with torch.inference_mode():
        expected = own({name: torch.from_numpy(value) for name, value in feeds.items()}).numpy()
        found = session.run(None, feeds)[0]
        apart = float((np.abs(found - expected) / np.maximum(1, np.abs(expected))).max())
        print(f"largest difference of {samples} samples, in units of max(1, |value|): {apart:.2e}")
        for batch in batches:
            part = {name: value[:batch] for name, value in feeds.items()}
            tensors = {name: torch.from_numpy(value) for name, value in part.items()}
            calls = {"onnx": lambda part=part: session.run(None, part), "load()": lambda held=tensors: own(held)}
            seconds = take_turns(calls)
            line = ", ".join(
                f"{n} {s * 1e6:.0f} us ({s / batch / lookups * 1e9:.0f} ns per lookup)" for n, s in seconds.items()
            )
            print(f"batch {batch}: {line}")


def tables_together(subject) -> bytes:  # noqa: ANN001
    """A graph of all tables with one input `ids` int64 [n, tables], as networks look them up."""
    from memrec_convert.exports.onnx_graph.graph import Graph
    from memrec_convert.exports.onnx_graph.rows import look_up

    graph = Graph()
    graph.name("rows", look_up(graph, list(subject.model.tables), "ids", padding=False).name)
    shapes = ({"ids": ("int64", ["n", TABLES])}, {"rows": ("float32", ["n", TABLES, DIM])})
    return graph.finish(*shapes).SerializeToString()


def take_turns(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Seconds per call of each in its fastest turn."""
    counts, found = {}, {name: [] for name in calls}
    for name, call in calls.items():
        call()
        start = time.perf_counter()
        call()
        counts[name] = max(1, int(SECONDS / (time.perf_counter() - start)))
    for _ in range(TURNS):
        for name, call in calls.items():
            start = time.perf_counter()
            for _ in range(counts[name]):
                call()
            found[name].append((time.perf_counter() - start) / counts[name])
    return {name: min(times) for name, times in found.items()}


if __name__ == "__main__":
    main()
