"""Sound files whose tensors cannot be the network that their names say."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Mapping

import numpy as np

from hostile.building import Case, archived, directory_of, entry, file_of, safetensors_bytes

_SIZES = {"F32": 4, "F16": 2, "F64": 8, "I64": 8, "I32": 4, "U8": 1, "BOOL": 1}
Shapes = Mapping[str, tuple[int, ...]]


def tensors(shapes: Shapes, dtypes: Mapping[str, str] | None = None) -> bytes:
    """A safetensors file of tensors of these shapes, floats unless told otherwise."""
    header, start = dict[str, object](), 0
    for name, shape in shapes.items():
        dtype, size = (dtypes or {}).get(name, "F32"), 1
        for length in shape:
            size *= length
        stop = start + size * _SIZES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}
        start = stop
    return safetensors_bytes(header, bytes(start))


DLRM: Shapes = {
    "emb_l.0.weight": (7, 4),
    "emb_l.1.weight": (5, 4),
    "bot_l.0.weight": (4, 2),
    "bot_l.0.bias": (4,),
    "top_l.0.weight": (1, 7),
    "top_l.0.bias": (1,),
}
_EBC = "sparse_arch.embedding_bag_collection.embedding_bags."
DCN: Shapes = {
    f"{_EBC}t_a.weight": (7, 4),
    f"{_EBC}t_b.weight": (5, 4),
    "dense_arch.model._mlp.0._linear.weight": (4, 2),
    "dense_arch.model._mlp.0._linear.bias": (4,),
    "over_arch.model.1.weight": (1, 12),
    "over_arch.model.1.bias": (1,),
    "inter_arch.crossnet.W_kernels.0": (12, 3),
    "inter_arch.crossnet.V_kernels.0": (3, 12),
    "inter_arch.crossnet.bias.0": (12,),
}


def _lie(
    shapes: Shapes,
    sentence: str,
    *,
    without: str = "",
    dtypes: Mapping[str, str] | None = None,
    **changes: tuple[int, ...],
) -> Case:
    kept = {key: value for key, value in shapes.items() if key != without}
    named = {key.replace("__", "."): value for key, value in changes.items()}
    return file_of(tensors(kept | named, dtypes), sentence, called="m.safetensors")


def _cross(part: str, shape: tuple[int, ...], sentence: str, dtype: str = "F32") -> Case:
    key = f"inter_arch.crossnet.{part}.0"
    return _lie(DCN, sentence, dtypes={key: dtype}, **{key.replace(".", "__"): shape})


def _pickled(value: object) -> bytes:
    return pickle.dumps(value, 2)


def _nested(depth: int) -> object:
    value: object = {}
    for _ in range(depth):
        value = {"model": value}
    return value


def _npy(array: np.ndarray | None = None) -> bytes:
    file = io.BytesIO()
    np.save(file, np.ones((5, 2)) if array is None else array, allow_pickle=True)
    return file.getvalue()


def _bin_index(name: str) -> dict[str, bytes]:
    index = json.dumps({"weight_map": {"emb_l.0.weight": name}}).encode()
    return {"pytorch_model.bin.index.json": index, "a.bin": bytes(64)}


_FITS, _CROSS = "do not form one linear layer", "cross layers: some are missing"
CASES: dict[str, Case] = {
    "table of one dimension": _lie(DLRM, "a table has rows and columns", emb_l__0__weight=(28,)),
    "table of three dimensions": _lie(DLRM, "a table has rows and columns", emb_l__0__weight=(7, 2, 2)),
    "table of no rows": _lie(DLRM, "a table has rows and columns", emb_l__0__weight=(0, 4)),
    "table of no columns": _lie(DLRM, "a table has rows and columns", emb_l__0__weight=(7, 0)),
    "layer of no dimensions": _lie(DLRM, _FITS, bot_l__0__weight=()),
    "layer of three dimensions": _lie(DLRM, _FITS, bot_l__0__weight=(4, 2, 1)),
    "layer whose bias is a matrix": _lie(DLRM, _FITS, bot_l__0__bias=(4, 1)),
    "layer of no inputs": _lie(DLRM, _FITS, bot_l__0__weight=(4, 0)),
    "layer of integers": _lie(DLRM, _FITS, dtypes={"bot_l.0.weight": "I32"}),
    "layer without its bias": _lie(DLRM, "lacks its weight or its bias", without="bot_l.0.bias"),
    "layers that do not follow": _lie(DLRM, _FITS, top_l__2__weight=(1, 9), top_l__2__bias=(1,)),
    "layers with a gap": _lie(DLRM, "some are missing", top_l__6__weight=(1, 1), top_l__6__bias=(1,)),
    "no bottom": _lie({key: shape for key, shape in DLRM.items() if key[:3] != "bot"}, "bottom MLP: not in the file"),
    "two outputs": _lie(DLRM, "ends in 2 outputs", top_l__0__weight=(2, 7), top_l__0__bias=(2,)),
    "a layer under two names": _lie(DLRM, "under two names", bot_l__module__0__bias=(4,)),
    "a table under two names": _lie(DLRM, "under two names", emb_l__module__0__weight=(7, 4)),
    "a name that is another's with its prefix": _lie(DLRM, "without their prefixes", module__emb_l__0__weight=(7, 4)),
    "a quotient without its remainder": _lie(
        DLRM, "its other part", without="emb_l.0.weight", emb_l__0__weight_q=(3, 4)
    ),
    "a quotient wider than its remainder": _lie(
        DLRM, "do not fit", without="emb_l.0.weight", emb_l__0__weight_q=(3, 4), emb_l__0__weight_r=(3, 2)
    ),
    "a quotient of a vector": _lie(
        DLRM, "rows and columns", without="emb_l.0.weight", emb_l__0__weight_q=(3, 4), emb_l__0__weight_r=(4,)
    ),
    "a quotient for 2^32 ids": _lie(
        DLRM, "too many", without="emb_l.0.weight", emb_l__0__weight_q=(65_536, 1), emb_l__0__weight_r=(65_536, 1)
    ),
    "a projection that does not fit": _lie(
        DLRM, "does not fit", without="emb_l.0.weight", emb_l__0__embs__weight=(7, 2), emb_l__0__proj__weight=(4, 3)
    ),
    "weights per row of no table": _lie(DLRM, "of no table", v_W_l__9=(7,)),
    "weights per row of another length": _lie(DLRM, "do not fit", v_W_l__0=(6,)),
    "weights per row as a matrix": _lie(DLRM, "do not fit", v_W_l__0=(7, 1)),
    "weights per row of integers": _lie(DLRM, "of no table", v_W_l__0=(7,), dtypes={"v_W_l.0": "I32"}),
    "cross layers of no dimensions": _cross("V_kernels", (), _CROSS),
    "cross layers of integers": _cross("V_kernels", (3, 12), _CROSS, "I32"),
    "cross layers without a bias": _lie(DCN, _CROSS, without="inter_arch.crossnet.bias.0"),
    "cross layers with a gap": _lie(DCN, _CROSS, inter_arch__crossnet__bias__5=(12,)),
    "cross layers alone of no part": _lie({key: shape for key, shape in DCN.items() if "kernels" not in key}, _CROSS),
    "no tensors": file_of(safetensors_bytes({}, b""), "no embedding table", called="m.safetensors"),
    "nothing but an unknown type": file_of(
        safetensors_bytes(entry(dtype="F4", data_offsets=[0, 6]), bytes(6)),
        "no table that can be read",
        called="m.safetensors",
    ),
    "lists in a list, a quarter of a million": archived(_pickled([[[]] for _ in range(125_000)]), "holds a list"),
    "mappings below each other": archived(_pickled(_nested(200)), "holds 1 entries and no embedding table|deeper than"),
    "an optimizer of very many parameters": archived(
        _pickled({"optimizer": {"state": {n: {"step": 1} for n in range(60_000)}, "param_groups": []}, "emb": 1}),
        "no embedding table",
    ),
    "groups of an optimizer that name what is not there": archived(
        _pickled({"optim": {"state": {2**30: {"sum": 1}}, "param_groups": [{"params": [2**30, "x", None]}]}}),
        "no embedding table",
    ),
    "an array whose header lies": file_of(_npy()[:-8], "bytes for an array of shape", called="m.npy"),
    "an array of objects": file_of(_npy(np.array([{}], dtype=object)), "a table has rows", called="m.npy"),
    "an array of no header": file_of(_npy()[:12], "not an array of numpy", called="m.npy"),
    "an index of .bin that leads up": directory_of(_bin_index("../outside"), "outside of its directory"),
    "an index of .bin of no torch file": directory_of(_bin_index("a.bin"), "not a file of torch.save"),
    "weights of a directory that are a web page": directory_of({"pytorch_model.bin": b"<html>"}, "an HTML page"),
}
