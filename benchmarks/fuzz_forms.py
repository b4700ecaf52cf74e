"""The forms of file that `fuzz.py` mutates: seeds of the part that is parsed, and how the rest is built around it."""

from __future__ import annotations

import hashlib
import io
import json
import math
import struct
import sys
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch.distributed import checkpoint

from memrec_convert import load, verify
from memrec_convert.checkpoint import read_source, verify_storage

_MOST_ROWS = 1 << 16
_MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class Form:
    """A form of file: seeds of the part that is mutated, how the rest is built around it, and how it is read.

    `read` gives a digest of all numbers. In a `checked` form these have checksums: no mutation may change them unseen.
    """

    name: str
    seeds: tuple[bytes, ...]
    build: Callable[[Path, bytes], Path]
    read: Callable[[Path], str]
    checked: bool = False


def read_checkpoint(path: Path) -> str:
    """Inspects, verifies and reads the rows, as far as the file allows; the digest of what was read."""
    source = read_source(path, for_conversion=False)
    verify_storage(source)
    digest = hashlib.blake2b(digest_size=16)
    for tensor in (*(table.weight for table in source.tables), *source.dense.values()):
        digest.update(tensor.read_rows(0, _MOST_ROWS).tobytes())
    return digest.hexdigest()


def read_artifact(path: Path) -> str:
    """Verifies, then loads and asks for logits; the digest of the file."""
    verify(path)
    load(path)(torch.zeros(2, 1), torch.zeros(2, 4, dtype=torch.int64))
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()


def make_forms(work: Path) -> list[Form]:
    """Seeds of every form, made with torch and this package alone."""
    torch.manual_seed(0)
    state = _dlrm_state()
    forms = _pickled_forms(work, state) + _header_forms(work, state) + _directory_forms(work, state)
    return [*forms, _shapes_form(), *_artifact_forms(work)]


def _dlrm_state() -> dict[str, torch.Tensor]:
    return {
        "emb_l.0.weight": torch.randn(7, 4),
        "emb_l.1.weight": torch.randn(5, 4),
        "bot_l.0.weight": torch.randn(4, 2),
        "bot_l.0.bias": torch.randn(4),
        "top_l.0.weight": torch.randn(1, 7),
        "top_l.0.bias": torch.randn(1),
    }


def _saved(work: Path, value: object, **options: Any) -> bytes:  # noqa: ANN401 - torch.save's own
    torch.save(value, work / "seed", **options)
    return (work / "seed").read_bytes()


def _repacked(archive: bytes, member: str) -> tuple[bytes, Callable[[Path, bytes], Path]]:
    """A member of an archive, and how the archive is built around another content of it, checksums right."""
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        members = {name: opened.read(name) for name in opened.namelist()}
    (key,) = (name for name in members if name.endswith(member))

    def build(folder: Path, content: bytes) -> Path:
        with zipfile.ZipFile(folder / "m.pt", "w") as written:
            for name, held in members.items():
                written.writestr(name, content if name == key else held)
        return folder / "m.pt"

    return members[key], build


def _file(called: str) -> Callable[[Path, bytes], Path]:
    def build(folder: Path, content: bytes) -> Path:
        (folder / called).write_bytes(content)
        return folder / called

    return build


def _pickled_forms(work: Path, state: dict[str, torch.Tensor]) -> list[Form]:
    training = {"state_dict": state, "epoch": 1, "opt_state_dict": {"state": {0: {"sum": torch.ones(7, 4)}}}}
    module = torch.nn.ModuleDict({"emb": torch.nn.EmbeddingBag(7, 4), "top": torch.nn.Linear(4, 1)})
    kinds = {"state dict": training, "whole module": module}
    zips = {kind: _saved(work, value) for kind, value in kinds.items()}
    olds = tuple(_saved(work, value, _use_new_zipfile_serialization=False) for value in kinds.values())
    forms = []
    for kind, archive in zips.items():
        pickled, build = _repacked(archive, "data.pkl")
        forms.append(Form(f"pickle of a {kind} in a zip", (pickled,), build, read_checkpoint))
    forms.append(Form("zip .pt", tuple(zips.values()), _file("m.pt"), read_checkpoint, checked=True))
    return [*forms, Form("legacy .pt", olds, _file("m.pt"), read_checkpoint)]


def _header_forms(work: Path, state: dict[str, torch.Tensor]) -> list[Form]:
    whole = save(state)
    length = int.from_bytes(whole[:8], "little")
    np.savez(work / "seed.npz", **{name: value.numpy() for name, value in state.items()})

    def around_header(folder: Path, content: bytes) -> Path:
        (folder / "m.safetensors").write_bytes(struct.pack("<Q", len(content)) + content + whole[8 + length :])
        return folder / "m.safetensors"

    def with_index(folder: Path, content: bytes) -> Path:
        (folder / "a.safetensors").write_bytes(whole)
        (folder / "m.safetensors.index.json").write_bytes(content)
        return folder

    index = json.dumps({"weight_map": dict.fromkeys(state, "a.safetensors")}).encode()
    return [
        Form("safetensors", (whole,), _file("m.safetensors"), read_checkpoint),
        Form("safetensors header", (whole[8 : 8 + length],), around_header, read_checkpoint),
        Form("safetensors index", (index,), with_index, read_checkpoint),
        Form("npz", ((work / "seed.npz").read_bytes(),), _file("m.npz"), read_checkpoint, checked=True),
    ]


def _with_file(tree: Path, called: str) -> Callable[[Path, bytes], Path]:
    """A directory of these files, one of which has another content."""
    held = {file.relative_to(tree): file.read_bytes() for file in tree.rglob("*") if file.is_file()}

    def build(folder: Path, content: bytes) -> Path:
        for name, own in held.items():
            (folder / "d" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "d" / name).write_bytes(content if name == Path(called) else own)
        return folder / "d"

    return build


def _directory_forms(work: Path, state: dict[str, torch.Tensor]) -> list[Form]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        checkpoint.save({"model": state}, checkpoint_id=work / "dcp", no_dist=True)
    snapshot, nvidia = work / "snapshot", work / "nvidia"
    snapshot.mkdir()
    nvidia.mkdir()
    (snapshot / ".snapshot_metadata").write_text(json.dumps(_write_blobs(snapshot, state)))
    _write_nvidia(nvidia)
    forms = []
    for kind, tree, names in (
        ("distributed checkpoint", work / "dcp", (".metadata", "__0_0.distcp")),
        ("snapshot", snapshot, (".snapshot_metadata",)),
        ("NVIDIA directory", nvidia, ("metadata.pt", "embeddings.0.meta.pt", "top_model.mlp.pt")),
    ):
        for name in names:
            content, build = (tree / name).read_bytes(), _with_file(tree, name)
            if name.endswith(".pt"):
                content, build = _inside(content, build)
            checked = name.endswith(".distcp")
            forms.append(Form(f"{name} of a {kind}", (content,), build, read_checkpoint, checked=checked))
    return forms


def _inside(archive: bytes, build: Callable[[Path, bytes], Path]) -> tuple[bytes, Callable[[Path, bytes], Path]]:
    """The pickle of an archive in a directory, and how the directory is built around another one."""
    pickled, repack = _repacked(archive, "data.pkl")
    return pickled, lambda folder, content: build(folder, repack(folder, content).read_bytes())


def _write_blobs(folder: Path, state: dict[str, torch.Tensor]) -> dict[str, object]:
    manifest: dict[str, object] = {"0/model": {"type": "OrderedDict", "keys": list(state)}}
    for number, (name, value) in enumerate(state.items()):
        (folder / str(number)).write_bytes(value.numpy().tobytes())
        blob = {
            "type": "Tensor",
            "location": str(number),
            "serializer": "buffer_protocol",
            "dtype": "torch.float32",
            "shape": list(value.shape),
            "byte_range": None,
        }
        shard = {"offsets": [0] * value.dim(), "sizes": list(value.shape), "tensor": blob}
        cut = name == "emb_l.0.weight"
        manifest[f"0/model/{name}"] = {"type": "ShardedTensor", "shards": [shard]} if cut else blob
    return {"version": "0.1.0", "manifest": manifest}


def _write_nvidia(folder: Path) -> None:
    order = {"data": {"device_mapping": {"embedding": [[1, 0]]}}, "config": {"interaction_op": "dot"}}
    torch.save(order, folder / "metadata.pt")
    for part, (inputs, outputs) in {"bottom_model": (2, 4), "top_model": (8, 2)}.items():
        layer = {"weights": [torch.randn(outputs, inputs)], "biases": [torch.randn(outputs)]}
        torch.save(layer, folder / f"{part}.mlp.pt")
    torch.save({"weight": torch.randn(1, 2), "bias": torch.randn(1)}, folder / "top_model.out.pt")
    for number, rows in enumerate((7, 5)):
        (folder / f"bottom_model.embeddings.{number}.bin").write_bytes(torch.randn(rows, 4).numpy().tobytes())
        torch.save({"shape": torch.Size((rows, 4))}, folder / f"embeddings.{number}.meta.pt")


def _artifact_forms(work: Path) -> list[Form]:
    """The artifact as a whole, and its metadata with a digest that a forger made fit."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "artifact"))
    from small_models import join, save_dlrm, split

    content = save_dlrm(work).read_bytes()
    header, body = split(content)
    text = header["__metadata__"]["memrec_convert"]

    def around(folder: Path, changed: bytes) -> Path:
        try:
            plain = json.loads(changed) | {"self": "0" * 32}
            blank = json.dumps(plain, sort_keys=True, separators=(",", ":"))
            digest = hashlib.blake2b(blank.encode(), digest_size=16).hexdigest()
            forged = json.dumps(plain | {"self": digest}, sort_keys=True, separators=(",", ":"))
        except (ValueError, TypeError, RecursionError):
            forged = changed.decode("utf-8", "replace")
        (folder / "m.safetensors").write_bytes(join(header | {"__metadata__": {"memrec_convert": forged}}, body))
        return folder / "m.safetensors"

    return [
        Form("artifact", (content,), _file("m.safetensors"), read_artifact, checked=True),
        Form("artifact's metadata, forged to fit", (text.encode(),), around, read_artifact),
    ]


_EBC = "sparse_arch.embedding_bag_collection.embedding_bags"
_DCN = {
    f"{_EBC}.t_a.weight": [7, 4],
    f"{_EBC}.t_b.weight": [5, 4],
    "dense_arch.model._mlp.0._linear.weight": [4, 2],
    "dense_arch.model._mlp.0._linear.bias": [4],
    "over_arch.model.1.weight": [1, 12],
    "over_arch.model.1.bias": [1],
    "inter_arch.crossnet.W_kernels.0": [12, 3],
    "inter_arch.crossnet.V_kernels.0": [3, 12],
    "inter_arch.crossnet.bias.0": [12],
}
_QUANTISED = {key: value for key, value in _DCN.items() if "crossnet" not in key} | {
    f"{_EBC}.t_a.weight": [7, 16, "U8"],
    f"{_EBC}.t_b.weight": [5, 16, "U8"],
    "tbes.0.D_offsets": [3, "I32"],
    "tbes.0.weights_tys": [2, "U8"],
    "tbes.0.rows_per_table": [2, "I64"],
}
_MLP = {
    "mlp.mlp.0.weight": [3, 8],
    "mlp.mlp.0.bias": [3],
    "mlp.mlp.1.weight": [3],
    "mlp.mlp.1.bias": [3],
    "mlp.mlp.1.running_mean": [3],
    "mlp.mlp.1.running_var": [3],
    "mlp.mlp.4.weight": [1, 3],
    "mlp.mlp.4.bias": [1],
}
_STATES: tuple[dict[str, list[Any]], ...] = (
    _DCN,
    _QUANTISED,
    {
        "emb_l.0.weight_q": [3, 4],
        "emb_l.0.weight_r": [4, 4],
        "emb_l.1.embs.weight": [5, 2],
        "emb_l.1.proj.weight": [4, 2],
        "emb_l.2.weight": [9, 4],
        "v_W_l.2": [9],
        "bot_l.0.weight": [4, 2],
        "bot_l.0.bias": [4],
        "top_l.0.weight": [1, 10],
        "top_l.0.bias": [1],
    },
    {
        "embedding.embed_dict.a.weight": [7, 4],
        "embedding.embed_dict.b.weight": [5, 4],
        "linear.fc.weight": [1, 8],
        "linear.fc.bias": [1],
        **_MLP,
    },
    {"embedding.embedding.weight": [12, 4], "linear.fc.weight": [12, 1], "linear.bias": [1], **_MLP},
    {
        "embedding_dict.a.weight": [7, 4],
        "embedding_dict.b.weight": [5, 4],
        "linear_model.weight": [2, 1],
        "linear_model.embedding_dict.a.weight": [7, 1],
        "linear_model.embedding_dict.b.weight": [5, 1],
        "dnn.linears.0.weight": [3, 10],
        "dnn.linears.0.bias": [3],
        "dnn_linear.weight": [1, 3],
        "out.bias": [1],
    },
    {"token_embedding_table.weight": [12, 4], "mlp.0.weight": [1, 4], "mlp.0.bias": [1]},
)


_BYTES = {"U8": 1, "I32": 4, "I64": 8}
_TOLD = {"D_offsets": (0, 12, 24), "weights_tys": (2, 2), "rows_per_table": (7, 5)}


def _fill(name: str, dtype: str, nbytes: int) -> bytes:
    """Some bytes; for what describes quantised tables, the numbers of a sound file as far as they fit."""
    told = b"".join(value.to_bytes(_BYTES.get(dtype, 4), "little") for value in _TOLD.get(name.split(".")[-1], ()))
    return (told + bytes(number % 7 for number in range(nbytes)))[:nbytes]


def _shapes_form() -> Form:
    """State dicts of every layout, whose names, shapes and types are mutated: the file around them is sound."""

    def build(folder: Path, content: bytes) -> Path:
        try:
            plain = json.loads(content)
        except (ValueError, RecursionError):
            plain = {}
        header, values = dict[str, object](), b""
        for name, spec in plain.items() if isinstance(plain, dict) else ():
            own = spec if isinstance(spec, list) else []
            dtype = own[-1] if own and isinstance(own[-1], str) else "F32"
            shape = [size for size in own if type(size) is int and size >= 0]
            stop = len(values) + math.prod(shape) * _BYTES.get(dtype, 4)
            if stop > _MOST_BYTES:
                continue
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(values), stop]}
            values += _fill(name, dtype, stop - len(values))
        text = json.dumps(header).encode()
        (folder / "m.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + values)
        return folder / "m.safetensors"

    return Form("names and shapes", tuple(json.dumps(one).encode() for one in _STATES), build, read_checkpoint)
