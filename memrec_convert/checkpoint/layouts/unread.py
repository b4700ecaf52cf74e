"""What looks like a table and was not read, by name and with the reason: nothing vanishes without a word."""

from __future__ import annotations

from collections.abc import Iterable

from memrec_convert.checkpoint.inert.stand_ins import NumpyArray, Placeholder, printable
from memrec_convert.checkpoint.layouts.quantised import is_part
from memrec_convert.checkpoint.state_dict import NO_TABLE_WORDS, TABLE_WORDS, StateDict, shape_of_unread
from memrec_convert.checkpoint.tensor_ref import FLOATING, StoredTensor

_MOST_NAMED = 20
_TALL = 4
_MANY_ROWS = 1000
_REASONS = (
    ("sparse", "a sparse tensor; save it dense (.to_dense())"),
    ("meta", "on the meta device, which holds no numbers; load the model before it is saved"),
    ("complex", "complex numbers, which no table of rows stands for"),
    ("negative view", "a view that turns the sign of what is stored; save a copy (.clone())"),
    ("qtensor", "a quantised tensor of torch; save it dequantised (.dequantize())"),
)


def name_unread_tables(state: StateDict, used: Iterable[StoredTensor]) -> list[str]:
    """A sentence for each entry that is named or shaped like a table and is none of the tensors in use."""
    pieces = {piece for tensor in used for piece in tensor.pieces}
    found = []
    for name, value in state.items():
        if isinstance(value, StoredTensor) and (
            pieces.issuperset(value.pieces) or not _resembles_table(state, name, value)
        ):
            continue
        reason = _find_reason(name, value)
        if reason and (isinstance(value, StoredTensor) or _is_named(name) or _is_shaped(name, value)):
            found.append(f"{printable(name)} was not read: {reason}")
    more = [f"{len(found) - _MOST_NAMED} more entries like these were not read"] if len(found) > _MOST_NAMED else []
    return found[:_MOST_NAMED] + more


def name_unapplied(state: StateDict, keys: Iterable[str]) -> list[str]:
    """A sentence for each of these tables of plain floats that has a scale, a mask or a bias beside it."""
    stems = {key.removesuffix("weight"): key for key in keys if key.endswith("weight")}
    keys = set(stems.values())
    found: dict[str, list[str]] = {}
    for name, value in state.items():
        stem = f"{name.rpartition('.')[0]}." if "." in name else ""
        part = is_part(name) or name == f"{stem}bias"
        if part and stem in stems and name not in keys and isinstance(value, StoredTensor):
            found.setdefault(stems[stem], []).append(printable(name))
    return [
        f"{', '.join(names[:4])} beside {printable(key)} was not applied to its rows" for key, names in found.items()
    ][:_MOST_NAMED]


def name_unused(state: StateDict, used: Iterable[StoredTensor]) -> list[str]:
    """One sentence for floats in the file that a known network has no use for: perhaps it is another network."""
    pieces = {piece for tensor in used for piece in tensor.pieces}
    names = [
        printable(name)
        for name, value in state.items()
        if isinstance(value, StoredTensor)
        and value.dtype in FLOATING
        and value.shape
        and not pieces.issuperset(value.pieces)
    ]
    if not names:
        return []
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return [
        f"the network as it is known has no use for {', '.join(names[:4])}{more}: where the model's forward uses them, "
        "the figures are not the model's; give its own class with --model then"
    ]


def _is_named(name: str) -> bool:
    return TABLE_WORDS.search(name) is not None and NO_TABLE_WORDS.search(name.lower()) is None and not is_part(name)


def _is_shaped(name: str, value: object) -> bool:
    """Whether an unread entry is an array of an .npz, torch's own quantised table, or as tall as tables are."""
    if isinstance(value, Placeholder) and value.name.startswith("numpy array"):
        return True
    rows, columns, *_ = *(shape_of_unread(value) or ()), 0, 0
    tall = rows >= max(_MANY_ROWS, _TALL * columns) and NO_TABLE_WORDS.search(name.lower()) is None
    return name.endswith("._packed_weight") or (tall and columns > 0 and not is_part(name))


def _resembles_table(state: StateDict, name: str, value: StoredTensor) -> bool:
    """Whether a tensor that is no table in use is named as one, or is a tall matrix without a bias."""
    if len(value.shape) < 2 or (is_part(name) and not _is_lone_adapter(state, name)):
        return False
    return _is_named(name) or is_tall(state, name) or _is_lone_adapter(state, name)


def _is_lone_adapter(state: StateDict, name: str) -> bool:
    """Whether a tensor is a LoRA part of a table that is not in the file."""
    stem, found, _ = name.partition("lora_embedding_")
    return bool(found) and f"{stem}weight" not in state and f"{stem}base_layer.weight" not in state


def is_tall(state: StateDict, name: str) -> bool:
    """Whether an entry is a matrix of many rows, many more than columns, without a bias: a table by its shape."""
    value, stem = state[name], name.removesuffix("weight")
    if not isinstance(value, StoredTensor) or len(value.shape) != 2 or value.dtype not in FLOATING:
        return False
    tall = value.rows >= max(_MANY_ROWS, _TALL * value.shape[1]) and value.shape[1] > 0
    return tall and f"{stem}bias" not in state and NO_TABLE_WORDS.search(name.lower()) is None and not is_part(name)


def _find_reason(name: str, value: object) -> str:
    """Why an entry is no table; "" for what is no tensor of rows at all."""
    if isinstance(value, StoredTensor):
        if len(value.shape) > 2:
            return f"it has {len(value.shape)} dimensions, {list(value.shape)}; a table has rows and columns"
        if 0 in value.shape:
            return f"it is empty, {list(value.shape)}"
        if "lora_" in name:
            return "it is an adapter (LoRA) whose table is not in the file; save the merged model"
        if value.dtype not in FLOATING:
            return (
                f"it is stored as {value.dtype} {list(value.shape)} without what makes rows of it (packed or quantised)"
            )
        return f"it is a matrix {list(value.shape)} that is named or placed otherwise than tables are"
    shape = shape_of_unread(value)
    if shape is None or (len(shape) < 2 and shape != (0, 0)):
        return ""
    kind = "numpy array" if isinstance(value, NumpyArray) else value.name if isinstance(value, Placeholder) else ""
    return next((f"it is {reason}" for word, reason in _REASONS if word in kind), f"it is stored as {printable(kind)}")
