"""The closed list of pickled callables that are understood, each as a function of ours over inert arguments."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np

from memrec_convert.checkpoint.inert.stand_ins import (
    Global,
    MalformedPickle,
    NumpyArray,
    NumpyDtype,
    Placeholder,
    Storage,
    check_sizes,
    view_storage,
)
from memrec_convert.checkpoint.tensor_ref import DTYPES, Array, TensorRef, itemsize

Arguments = tuple[object, ...]

_SCALARS = (str, bytes, type(None))
TURNED = "torch.Tensor (negative view)"
"""How a tensor is called whose sign is turned on reading."""

_WIDEST_KEY_BITS = 31
_NUMPY_CODE = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248])", re.ASCII)
_STORAGE_MODULE = re.compile(r"torch(?:\.storage|\.cuda|\.xpu|\.mps)?", re.ASCII)
_STORAGE_DTYPES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "UntypedStorage": "uint8",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "QInt8Storage": "qint8",
    "QUInt8Storage": "quint8",
    "QInt32Storage": "qint32",
}


def storage_dtype(kind: object) -> str:
    """The element type that a torch storage class stands for."""
    if isinstance(kind, Global) and _STORAGE_MODULE.fullmatch(kind.module) and kind.name in _STORAGE_DTYPES:
        return _STORAGE_DTYPES[kind.name]
    raise MalformedPickle("a storage is of an unknown type")


def is_known(reference: Global) -> bool:
    """Whether a name is understood: a rebuilt callable, a storage class, a torch dtype, numpy's array class."""
    return (
        canonical(reference) in REBUILDERS
        or (reference.module == "torch" and reference.name in DTYPES)
        or reference.qualified == "numpy.ndarray"
        or (_STORAGE_MODULE.fullmatch(reference.module) is not None and reference.name in _STORAGE_DTYPES)
    )


def canonical(reference: Global) -> str:
    """The name under which `REBUILDERS` lists it: Python 2's and numpy 1's module names become today's."""
    module = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(reference.module, reference.module)
    if module.startswith("numpy.core."):
        module = "numpy._core." + module.removeprefix("numpy.core.")
    return f"{module}.{reference.name}"


def as_key(value: object) -> object:
    """A dictionary key: text, bytes and small integers as they are, anything else by identity.

    Only hashes that a file cannot foresee, or cannot choose freely, are taken: a million keys of one hash would keep a
    dictionary busy for hours, and a nested key's hash would recurse as deep as the file wishes.
    """
    return value if isinstance(value, (Global, Placeholder)) or _is_plain(value) else Placeholder("key", (value,))


def _is_plain(value: object) -> bool:
    return isinstance(value, _SCALARS) or (isinstance(value, int) and value.bit_length() <= _WIDEST_KEY_BITS)


def rebuild_dict(args: Arguments) -> object:
    """A mapping from nothing, a mapping, or a list of pairs; a default factory in front is ignored."""
    source = args[-1] if args and isinstance(args[-1], (dict, list)) else None
    if isinstance(source, dict):
        return dict(source)
    result: dict[object, object] = {}
    for pair in source or ():
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise MalformedPickle("a mapping is built from something other than pairs")
        result[as_key(pair[0])] = pair[1]
    return result


def rebuild_set(args: Arguments) -> object:
    """A set of scalars."""
    members = args[0] if args else []
    if not isinstance(members, (list, tuple)):
        raise MalformedPickle("a set is built from something other than a list")
    return {as_key(member) for member in members}


def encode_text(args: Arguments) -> object:
    """`_codecs.encode(text, "latin1")`: how protocol 2 writes bytes."""
    if len(args) != 2 or not isinstance(args[0], str) or args[1] not in ("latin1", "latin-1"):
        raise MalformedPickle("bytes are encoded in an unknown way")
    return args[0].encode("latin-1")


def rebuild_numpy_dtype(args: Arguments) -> object:
    """A numpy dtype of booleans, integers or floats; others stay placeholders."""
    match = _NUMPY_CODE.fullmatch(args[0]) if args and isinstance(args[0], str) else None
    return Placeholder("numpy.dtype", args) if match is None else NumpyDtype(match[1])


def rebuild_numpy_scalar(args: Arguments) -> object:
    """A numpy scalar as a Python number."""
    if len(args) != 2 or not isinstance(args[0], NumpyDtype):
        return Placeholder("numpy.scalar", args)
    dtype, data = args[0].dtype, as_bytes(args[1])
    if len(data) != dtype.itemsize:
        raise MalformedPickle(f"a numpy {dtype} scalar has {len(data)} bytes")
    return np.frombuffer(data, dtype)[0].item()


def rebuild_empty_array(_: Arguments) -> object:
    """An array whose content comes as its state."""
    return NumpyArray()


def rebuild_array_from_buffer(args: Arguments) -> object:
    """An array of protocol 5: (buffer, dtype, shape, order)."""
    if len(args) != 4:
        raise MalformedPickle("a numpy array has other than four parts")
    return NumpyArray(fill_array(shape=args[2], dtype=args[1], fortran=args[3] == "F", data=args[0]))


def fill_array(*, shape: object, dtype: object, fortran: bool, data: object) -> Array | None:
    """The values of a pickled array; None where its dtype is not numeric."""
    if not isinstance(dtype, NumpyDtype):
        return None
    sizes, raw = check_sizes(shape, "shape"), as_bytes(data)
    if math.prod(sizes) * dtype.dtype.itemsize != len(raw):
        raise MalformedPickle(f"a numpy array of shape {sizes} has {len(raw)} bytes")
    return np.frombuffer(raw, dtype.dtype).reshape(sizes, order="F" if fortran else "C")


def as_bytes(value: object) -> bytes:
    """Bytes of a pickle; Python 2 wrote them as text."""
    if isinstance(value, str):
        return value.encode("latin-1")
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    raise MalformedPickle("a numpy object's content is not bytes")


def rebuild_tensor(args: Arguments) -> object:
    """`_rebuild_tensor(_v2)`: (storage, offset, shape, strides, ...) as a checked view; nothing is read."""
    if len(args) < 4:
        raise MalformedPickle("a tensor has fewer than four parts")
    storage = args[0]
    if not isinstance(storage, Storage):
        return Placeholder("torch.Tensor", args)
    if storage.dtype not in DTYPES:
        return Placeholder(f"torch.Tensor of {storage.dtype}", args)
    if any(args[6:]):  # {"neg": True}: what is stored is not what is meant
        return Placeholder(TURNED, args)
    return view_storage(storage, *args[1:4])


def rebuild_typed_tensor(args: Arguments) -> object:
    """`_rebuild_tensor_v3`: an untyped storage and the dtype beside it."""
    if len(args) < 7 or not isinstance(args[0], Storage) or not isinstance(args[6], Global):
        return Placeholder("torch.Tensor", args)
    if args[6].name not in DTYPES:
        return Placeholder(f"torch.Tensor of {args[6].name}", args)
    if args[0].nbytes % itemsize(args[6].name):
        raise MalformedPickle(f"a storage of {args[0].nbytes} bytes is no whole number of {args[6].name}")
    if any(args[7:]):
        return Placeholder(TURNED, args)
    return view_storage(args[0].retyped(args[6].name), *args[1:4])


def rebuild_parameter(args: Arguments) -> object:
    """A parameter is its tensor here."""
    return args[0] if args and isinstance(args[0], (TensorRef, Placeholder)) else Placeholder("torch.Parameter", args)


def rebuild_subclass(args: Arguments) -> object:
    """`_rebuild_from_type_v2(function, type, args, state)` of a plain tensor with attributes; others stay inert."""
    if len(args) >= 3 and args[0] == Global("torch._utils", "_rebuild_tensor_v2") and isinstance(args[2], tuple):
        return rebuild_tensor(args[2])
    kind = args[1].qualified if len(args) > 1 and isinstance(args[1], Global) else "torch.Tensor"
    return Placeholder(kind, args)


def rebuild_size(args: Arguments) -> object:
    """torch.Size as a tuple."""
    return check_sizes(args[0] if args else (), "size")


def rebuild_old_object(args: Arguments) -> object:
    """`copyreg._reconstructor(class, base, state)` of protocols 0 and 1: a placeholder of the class."""
    return Placeholder(args[0].qualified if args and isinstance(args[0], Global) else "object", args)


REBUILDERS: dict[str, Callable[[Arguments], object]] = {
    "collections.OrderedDict": rebuild_dict,
    "collections.defaultdict": rebuild_dict,
    "builtins.dict": rebuild_dict,
    "builtins.set": rebuild_set,
    "builtins.frozenset": rebuild_set,
    "_codecs.encode": encode_text,
    "copyreg._reconstructor": rebuild_old_object,
    "numpy.dtype": rebuild_numpy_dtype,
    "numpy._core.multiarray.scalar": rebuild_numpy_scalar,
    "numpy._core.multiarray._reconstruct": rebuild_empty_array,
    "numpy._core.numeric._frombuffer": rebuild_array_from_buffer,
    "torch.Size": rebuild_size,
    "torch._utils._rebuild_tensor": rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": rebuild_typed_tensor,
    "torch._utils._rebuild_parameter": rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": rebuild_parameter,
    "torch._tensor._rebuild_from_type_v2": rebuild_subclass,
}
"""Name -> what it builds from inert arguments. Every other name becomes a `Placeholder`."""
