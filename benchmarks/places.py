"""One artifact in every place that can be tried here: its bytes, how far its logits are apart, and the time of a call.

    python benchmarks/places.py model.safetensors --server build/serve --json places.json

10,000 seeded samples with ids of every form go through each place at once; `apart` is the largest difference of a logit
from `load()`, in units of max(1, |logit|). Times are medians on one thread; contenders in the process take turns.

python    load(), with the operators' network in Python as `packed`
pt2       the package in this process; `server` is the C++ example, built as its CMakeLists.txt says
torchrec  a collection by `memrec_convert.torchrec.swap` under the artifact's dense part, where torchrec is installed
onnx      ONNX Runtime, where it is installed
c         memrec.h: the tables alone, whose rows must agree to the bit
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import tempfile
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from c_contender import CTables
from torch import Tensor, nn

from memrec_convert import export
from memrec_convert.bench.timing import time_interleaved
from memrec_convert.exports.export import read_subject
from memrec_convert.exports.golden import Golden, make_golden
from memrec_convert.exports.packed_network import build_network
from memrec_convert.exports.place import Subject
from memrec_convert.kernels.library import find_operator

SAMPLES, BATCHES = 10_000, (1, 64)
Model = Callable[[Tensor, Tensor], Any]


def open_places(subject: Subject, folder: Path) -> tuple[dict[str, Model], dict[str, int]]:
    """Per place the model as a function of dense values and ids, and the bytes of what it was loaded from."""
    model: Any = subject.model
    package = export(subject.path, to="pt2", out=folder / "model.pt2")
    models: dict[str, Model] = {
        "python": model,
        "packed": build_network(subject),
        "pt2": torch._inductor.aoti_load_package(package.path),
    }
    sizes = {"python": subject.nbytes, "packed": subject.nbytes, "pt2": package.bytes}
    if find_spec("torchrec"):
        models["torchrec"], sizes["torchrec"] = open_torchrec(subject), subject.nbytes
    if find_spec("onnxruntime") and find_spec("onnx"):
        exported = export(subject.path, to="onnx", out=folder / "model.onnx")
        models["onnx"], sizes["onnx"] = open_onnx(exported.path), exported.bytes
    return models, sizes


def open_torchrec(subject: Subject) -> Model:
    """The artifact's tables in a collection of torchrec, under its dense part."""
    import torchrec

    from memrec_convert.torchrec import swap

    model: Any = subject.model
    keys = [f"f{number}" for number in range(max(model.table_inputs) + 1)]
    configs = [
        torchrec.EmbeddingBagConfig(
            name=table.name.replace(".", "_"),  # a name in torchrec has no dot
            num_embeddings=table.spec.rows,
            embedding_dim=table.spec.dim,
            feature_names=[keys[number]],
            pooling=torchrec.PoolingType.SUM,
        )
        for table, number in zip(model.tables, model.table_inputs, strict=True)
    ]
    meta = torchrec.EmbeddingBagCollection(tables=configs, device=torch.device("meta"))
    names = {table.name.replace(".", "_"): table.name for table in model.tables}
    collection = swap(nn.Sequential(meta), subject.path, names=names)[0]
    dims = [table.spec.dim for table in model.tables]

    def run(dense: Tensor, ids: Tensor) -> Tensor:
        lengths = torch.ones(ids.numel(), dtype=torch.int64)
        features = torchrec.KeyedJaggedTensor(keys=keys, values=ids.t().reshape(-1), lengths=lengths)
        logits: Tensor = model.interact(dense, collection(features).values().split(dims, dim=1))
        return logits

    return run


def open_onnx(path: str) -> Model:
    """The file in ONNX Runtime on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda dense, ids: session.run(["logit"], {"dense": dense.numpy(), "ids": ids.numpy()})[0]


def serve(server: Path, package: Path, golden: Golden, batch: int, runs: int) -> tuple[np.ndarray, float | None]:
    """Logits of the first samples from the C++ example, and microseconds per call where it ran several times."""
    rows = zip(golden.feeds["dense"][:batch], golden.feeds["ids"][:batch], strict=True)
    text = "".join(" ".join([*(f"{one:.9g}" for one in dense), *map(str, ids)]) + "\n" for dense, ids in rows)
    command = [str(server), str(package), str(find_operator()), str(runs)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, input=text, capture_output=True, text=True, env=environment, check=True)
    said = re.search(r"([\d.]+) microseconds", ran.stderr)
    return np.array(ran.stdout.split(), dtype=np.float32), float(said[1]) if said else None


def count_wrong_rows(subject: Subject, ids: Tensor) -> int:
    """How many rows of the tables differ in a bit between Python and memrec.h."""
    model: Any = subject.model
    vectors = model.embed(ids)
    expected = vectors.flatten(1) if isinstance(vectors, Tensor) else torch.cat(list(vectors), dim=1)
    out = torch.empty_like(expected)
    dims = {table.spec.dim for table in model.tables}
    columns = ids[:, list(model.table_inputs)].contiguous()  # held while its address is in use
    CTables(list(model.tables), 1).bind(columns, out, *dims)()
    return int((out != expected).any(dim=1).sum())


def call_in_turn(model: Model, parts: list[tuple[Tensor, Tensor]]) -> Callable[[int], Any]:
    """The model as a function of a call's number, which decides the samples."""
    return lambda number: model(*parts[number % len(parts)])


def measure(path: Path, server: Path | None, repetitions: int, folder: Path) -> list[dict[str, Any]]:
    """A row per place: name, bytes, apart, and microseconds per call by batch."""
    subject = read_subject(path, "ids")
    golden = make_golden(subject.model, subject.architecture, "ids", samples=SAMPLES)
    dense, ids = (torch.from_numpy(golden.feeds[name]) for name in ("dense", "ids"))
    models, sizes = open_places(subject, folder)
    rows = {name: {"place": name, "bytes": sizes[name]} for name in models}
    for name, model in models.items():
        found = model(dense, ids)
        logits = found.numpy() if isinstance(found, Tensor) else np.asarray(found)
        rows[name]["apart"] = golden.compare({"logit": logits.reshape(-1)}, name)
    for batch in BATCHES:
        parts = [(dense[n : n + batch], ids[n : n + batch]) for n in range(0, 64 * batch, batch)]
        calls = {name: call_in_turn(model, parts) for name, model in models.items()}
        for name, timing in time_interleaved(calls, repetitions, in_a_row=50, lead=10).items():
            rows[name][f"us_{batch}"] = 1e6 * timing.median
    if server is not None:
        logits, _ = serve(server, folder / "model.pt2", golden, SAMPLES, 0)
        row = {"place": "server", "bytes": sizes["pt2"], "apart": golden.compare({"logit": logits}, "server")}
        rows["server"] = row | {f"us_{n}": serve(server, folder / "model.pt2", golden, n, 4000)[1] for n in BATCHES}
    rows["c"] = {"place": "c", "bytes": subject.nbytes, "apart": float(count_wrong_rows(subject, ids))}
    return list(rows.values())


def main() -> None:
    """Measures one artifact and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--server", type=Path, help="the program of examples/cpp_server")
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        rows = measure(options.artifact, options.server, options.repetitions, Path(folder))
    print(f"{'place':10} {'bytes':>10} {'apart':>9} " + " ".join(f"{f'us at {n}':>10}" for n in BATCHES))
    for row in rows:
        times = " ".join(f"{row.get(f'us_{n}') or float('nan'):10.1f}" for n in BATCHES)
        print(f"{row['place']:10} {row['bytes']:>10,} {row['apart']:>9.1e} {times}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
