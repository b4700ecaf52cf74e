"""The place onnx: one file of standard operators, which ONNX Runtime and others run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from memrec_convert.errors import ExportError
from memrec_convert.exports.golden import SAMPLES, UNREADABLE, golden_from_json
from memrec_convert.exports.place import Place, Proved, Subject, Target
from memrec_convert.safe_files import check_target, write_file

if TYPE_CHECKING:
    import onnx

METADATA_NAME = "memrec_convert"
"""The entry of a model's metadata that holds what an export says about itself, as JSON."""
_MOST_BYTES = (1 << 31) - 1
_START = b"\x08\x08\x12\x0ememrec-convert"
"""Version of the format and producer: with these fields our files begin."""
_SHOWN = ("name", "tables", "table_inputs", "input_names", "names", "dense_transform")
"""What an export says of the network, for those who write its inputs."""


def check(target: Target) -> None:
    """OutputError where no file can be written at the target; ExportError without the library."""
    check_target(target.path, force=target.force)
    require("onnx")


def write(subject: Subject, target: Target) -> Sequence[Path]:
    """Writes one file; ExportError where a form does not fit, or the file would be larger than ONNX allows."""
    write_file(target.path, [build_model(subject)])
    return [target.path]


def build_model(subject: Subject) -> bytes:
    """The bytes of the file: the graph, checked, with the artifact's digest and golden samples in its metadata."""
    import onnx
    from onnx import helper

    from memrec_convert.exports.onnx_graph.model import build_graph

    if subject.nbytes > _MOST_BYTES:
        raise ExportError(
            f"{subject.path} has {subject.nbytes} bytes, and an ONNX file holds {_MOST_BYTES} at most; convert with a "
            "smaller budget, or serve with load() or the C library."
        )
    model = build_graph(subject)
    said = {
        "artifact": subject.digest,
        "artifact_bytes": subject.nbytes,
        "graph": _digest_graph(model),
        "inputs": subject.inputs,
        "network": {name: subject.architecture[name] for name in _SHOWN if name in subject.architecture},
        "golden": subject.golden.to_json(),
    }
    helper.set_model_props(model, {METADATA_NAME: json.dumps(said, separators=(",", ":"))})
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def recognise_start(path: Path) -> bool:
    """Whether a file begins as those that `write` makes."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as stream:
            return stream.read(len(_START)) == _START
    except (OSError, ValueError):  # whoever reads it next says what is the matter
        return False


def prove(path: Path) -> Proved:
    """Checks every byte of the graph against its digest, then runs the golden samples in ONNX Runtime."""
    return prove_bytes(path.read_bytes(), path, "onnx")


def prove_bytes(content: bytes, path: Path, place: str) -> Proved:
    """`prove` of a file's content."""
    require("onnx")
    require("onnxruntime")
    import onnxruntime

    said = read_metadata(content, path)
    try:
        golden = golden_from_json(said["golden"])
        digest = str(said["artifact"])
    except UNREADABLE as error:
        raise ExportError(f"{path}: what it says about itself is damaged; export the artifact again.") from error
    outputs = run(content, golden.feeds, path)
    worst = golden.compare(outputs, str(path))
    runtime = f"ONNX Runtime {onnxruntime.__version__}"
    return Proved(str(path), place, len(content), digest, SAMPLES, worst, runtime)


def read_metadata(content: bytes, path: Path) -> dict[str, Any]:
    """What an export says about itself; ExportError where the file is damaged."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_model_from_string(content)
        said: dict[str, Any] = json.loads(next(p.value for p in model.metadata_props if p.key == METADATA_NAME))
        sound = said["graph"] == _digest_graph(model)
    except (DecodeError, StopIteration, ValueError, LookupError, TypeError) as error:
        raise ExportError(f"{path} is no readable export; export the artifact again.") from error
    if not _stands_alone(model):
        raise ExportError(
            f"{path} refers to other files or operators, which no export does; export the artifact again."
        )
    if not sound:
        raise ExportError(f"{path}: its graph does not match its digest: the file was changed; export it again.")
    return said


def run(content: bytes, feeds: Mapping[str, np.ndarray], path: Path) -> dict[str, np.ndarray]:
    """The outputs of a model by name, on one thread of the CPU; ExportError where the runtime refuses it."""
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    refusals = (state.Fail, state.InvalidArgument, state.InvalidGraph, state.NotImplemented, state.RuntimeException)
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, dict(feeds)), strict=True))
    except (*refusals, ValueError) as error:  # the latter where an input is missing
        said = str(error).splitlines()[0][:200]
        raise ExportError(f"{path}: ONNX Runtime {onnxruntime.__version__} does not run it ({said}).") from error


def _stands_alone(model: onnx.ModelProto) -> bool:
    """Whether a model holds standard operators and its own numbers alone: no other file, function or subgraph."""
    numbers = [*model.graph.initializer, *(a.t for node in model.graph.node for a in node.attribute if a.HasField("t"))]
    return not (
        any(tensor.data_location or tensor.external_data for tensor in numbers)
        or any(node.domain or any(a.HasField("g") or a.graphs for a in node.attribute) for node in model.graph.node)
        or model.functions
        or model.graph.sparse_initializer
    )


def _digest_graph(model: onnx.ModelProto) -> str:
    return hashlib.blake2b(model.graph.SerializeToString(deterministic=True), digest_size=16).hexdigest()


def require(library: str) -> None:
    """ExportError unless a library of the extra is installed."""
    if find_spec(library) is None:
        raise ExportError(f"{library} is not installed; pip install 'memrec-convert[onnx]'.")


ONNX = Place(check, write, recognise_start, prove)
