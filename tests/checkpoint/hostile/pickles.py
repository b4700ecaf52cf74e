"""Pickles that call, lie, or would never end."""

from __future__ import annotations

import os
import pickle
import struct
import subprocess
from collections.abc import Callable
from itertools import count, islice
from pathlib import Path

from hostile.building import Case, archived, name, ops, state, storage, tensor

SENTINEL = Path("sentinel-of-a-call-that-was-made")
"""What every call would leave in the directory it is made in."""


class Reduced:
    """Pickles as a call of a function that this process would run if it unpickled it."""

    def __init__(self, function: Callable[..., object], *args: object) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


_COMMAND = f"touch {SENTINEL}"
_CODE = f"open({str(SENTINEL)!r}, 'w')"
_TRICKS: dict[str, object] = {
    "os.system": Reduced(os.system, _COMMAND),
    "eval": Reduced(eval, _CODE),
    "exec": Reduced(exec, _CODE),
    "open": Reduced(open, str(SENTINEL), "w"),
    "subprocess": Reduced(subprocess.Popen, _COMMAND.split()),
    "getattr": Reduced(getattr, Reduced(__import__, "os"), "system"),
    "in a list": [1, {"a": (Reduced(os.system, _COMMAND),)}],
}
_CALLABLES = (
    ("importlib", "import_module"),
    ("builtins", "compile"),
    ("builtins", "breakpoint"),
    ("runpy", "_run_code"),
    ("pty", "spawn"),
    ("code", "interact"),
    ("timeit", "timeit"),
    ("marshal", "loads"),
    ("types", "FunctionType"),
    ("functools", "partial"),
    ("operator", "methodcaller"),
    ("shutil", "rmtree"),
    ("socket", "create_connection"),
    ("webbrowser", "open"),
    ("ctypes", "CDLL"),
    ("torch", "load"),
    ("torch.hub", "load"),
    ("torch.jit", "load"),
    ("numpy", "load"),
    ("pickle", "loads"),
    ("_pickle", "loads"),
    ("cloudpickle.cloudpickle", "_builtin_type"),
    ("torch._inductor.codecache", "compile_file"),
    ("numpy.testing._private.utils", "runstring"),
    ("torch.serialization", "_maybe_decode_ascii"),
    ("pip._internal", "main"),
    ("asyncio", "run"),
    ("_posixsubprocess", "fork_exec"),
    ("bdb", "Bdb.run"),
    ("builtins", "getattr.__self__.exec"),
)


def calls() -> dict[str, bytes]:
    """Pickles that would write the sentinel file, or do worse, by the trick that they use."""
    pickles = {
        f"{trick}, protocol {protocol}": pickle.dumps(value, protocol)
        for trick, value in _TRICKS.items()
        for protocol in (0, 2, 4, 5)
    }
    call, system = ops(_COMMAND), name("os", "system")
    pickles |= {
        f"{module}.{function}": ops(module) + ops(function) + b"\x93(" + call + b"tR."
        for module, function in _CALLABLES
    }
    return pickles | {
        "INST": b"(" + call + b"ios\nsystem\n.",
        "OBJ": b"(" + system + call + b"o.",
        "NEWOBJ": system + b"(" + call + b"t\x81.",
        "NEWOBJ_EX": system + b"(" + call + b"t}\x92.",
        "STACK_GLOBAL": ops("os") + ops("system") + b"\x93(" + call + b"tR.",
        "STACK_GLOBAL from the memo": ops("system") + b"q\x000" + ops("os") + b"h\x00\x93(" + call + b"tR.",
        "STACK_GLOBAL of a class": name("os", "x") + ops("system") + b"\x93.",
        "dotted name": ops("os") + ops("path.os.system") + b"\x93(" + call + b"tR.",
        "name with a line end": ops("os\nsystem") + ops("x") + b"\x93(" + call + b"tR.",
        "name in full-width letters": ops("\uff4f\uff53") + ops("system") + b"\x93(" + call + b"tR.",
        "called result": name("operator", "attrgetter") + b"(" + ops("system") + b"tR(" + name("os", "x") + b"tR.",
        "chain of calls": system + b"(" + call + b"tR" + b")R" * 50 + b".",
        "BUILD with __setstate__": name("os", "x") + b")\x81}" + ops("__setstate__") + system + b"sb" + call + b"b.",
        "BUILD with __class__": name("os", "x") + b")\x81}" + ops("__class__") + system + b"sb.",
        "BUILD with __reduce__": name("os", "x") + b")\x81}" + ops("__reduce__") + system + b"sb.",
        "nested pickle": name("torch.storage", "_load_from_bytes") + b"(" + ops(b"cos\nsystem\n.") + b"tR.",
        "subclass rebuild": name("torch._tensor", "_rebuild_from_type_v2")
        + b"("
        + system
        + name("os", "x")
        + b"("
        + call
        + b"t}tR.",
        "dict factory": name("collections", "defaultdict") + b"(" + system + b"tR" + ops("k") + b"Ns.",
        "code object": name("types", "CodeType") + b"(" + call + b"tR.",
        "hook of a tensor": name("torch._utils", "_rebuild_tensor_v2") + b"(" + system + call + b"))tR.",
        "parameter of a call": name("torch._utils", "_rebuild_parameter") + b"(" + system + b"(" + call + b"tRtR.",
        "copyreg of a function": name("copyreg", "_reconstructor")
        + b"("
        + system
        + name("builtins", "object")
        + b"NtR.",
    }


F8 = name("numpy", "dtype") + b"(" + ops("f8") + b"tR"
_PERSISTENT = b"(" + ops("storage") + name("torch", "FloatStorage") + ops("0") + ops("cpu") + ops(6)
DAMAGED: dict[str, bytes] = {
    "empty": b"",
    "without its end": b"\x80\x02}",
    "cut inside a string": b"\x80\x02X\x10\x00\x00\x00abc",
    "not an opcode": b"\x80\x02\xff.",
    "empty stack": b"\x80\x02.",
    "pop from nothing": b"\x80\x020.",
    "tuple from nothing": b"\x80\x02\x87.",
    "mark from nothing": b"\x80\x02Nt.",
    "memo without entry": b"\x80\x02h\x05.",
    "memo past 2^32": b"\x80\x02Np" + str(2**61 - 1).encode() + b"\n.",
    "memo before 0": b"\x80\x02Np-1\n.",
    "put from nothing": b"\x80\x02q\x00.",
    "text of 2^62 bytes": b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"a.",
    "bytes of 2^62 bytes": b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"a.",
    "bytearray of 2^62 bytes": b"\x80\x05\x96" + struct.pack("<Q", 2**62) + b"a.",
    "text of 2^32 bytes": b"\x80\x02X" + struct.pack("<I", 2**32 - 1) + b"a.",
    "text of minus 1 byte": b"\x80\x02T" + struct.pack("<i", -1) + b"a.",
    "frame of 2^62 bytes": b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"\xff.",
    "integer of 2^31 bytes": b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"a.",
    "integer of minus 5 bytes": b"\x80\x02\x8b" + struct.pack("<i", -5) + b"a.",
    "escape that is none": b"\x80\x02ca\\S\nb\n.",
    "decimal that is none": b"Ix\n.",
    "decimal of a million digits": b"L" + b"9" * 1_000_000 + b"L\n.",
    "text in no encoding": b"\x80\x02X\x02\x00\x00\x00\xff\xfe.",
    "extension registry": b"\x80\x02\x82\x01.",
    "buffer outside": b"\x80\x05\x97.",
    "persistent id as text": b"P0\n.",
    "marks without end": b"\x80\x02" + b"(" * 20_000 + b".",
    "call of a number": b"\x80\x02K\x01)R.",
    "call with a number": b"\x80\x02" + name("os", "system") + b"K\x01R.",
    "append to a number": b"\x80\x02K\x01K\x02a.",
    "add to a list": b"\x80\x04](K\x01\x90.",
    "key of a number": b"\x80\x02K\x01K\x02K\x03s.",
    "key without value": b"\x80\x02}(K\x01K\x02K\x03u.",
    "class with a number for a name": b"\x80\x04K\x01K\x02\x93.",
    "class with an endless name": b"\x80\x02c" + b"a" * 5000 + b"\nb\n.",
    "persistent id that is no storage": b"\x80\x02" + ops(("module", "os")) + b"Q.",
    "persistent id that is a list": b"\x80\x02]Q.",
    "storage key that is a list": state(tensor(storage(key=["0"]))),
    "storage key outside": state(tensor(storage(key="../../0"))),
    "storage key that is absolute": state(tensor(storage(key="/0"))),
    "storage key with a null": state(tensor(storage(key="0\0"))),
    "storage that is missing": state(tensor(storage(key="7"))),
    "storage of an unknown type": state(tensor(storage(kind="EvilStorage"))),
    "storage longer than its bytes": state(tensor(storage(elements=7))),
    "storage shorter than its bytes": state(tensor(storage(elements=5))),
    "storage of negative length": state(tensor(storage(elements=-6))),
    "storage of 2^62 elements": state(tensor(storage(elements=2**62))),
    "storage of text length": state(tensor(storage(elements="6"))),
    "storage of true elements": state(tensor(storage(elements=True))),
    "storage of doubles in the bytes of floats": state(tensor(storage(kind="DoubleStorage"))),
    "storage of halves in the bytes of floats": state(tensor(storage(kind="HalfStorage"))),
    "storage under two types": b"\x80\x02}("
    + ops("emb_l.0.weight")
    + tensor()
    + ops("emb_l.1.weight")
    + tensor(storage(kind="IntStorage"))
    + b"u.",
    "storage under two lengths": b"\x80\x02}("
    + ops("emb_l.0.weight")
    + tensor()
    + ops("emb_l.1.weight")
    + tensor(storage(elements=5))
    + b"u.",
    "storage that is a view": state(tensor(_PERSISTENT + ops(("v", 0, 3)) + b"tQ")),
    "tensor past its storage": state(tensor(shape=(4, 2))),
    "tensor past its storage by offset": state(tensor(offset=1)),
    "tensor past its storage by strides": state(tensor(strides=(3, 1))),
    "tensor past its storage by one wide stride": state(tensor(strides=(2, 2**62))),
    "tensor at offset 2^63": state(tensor(offset=2**63)),
    "tensor of negative rows": state(tensor(shape=(-3, 2))),
    "tensor of negative strides": state(tensor(offset=4, strides=(-2, 1))),
    "tensor of negative offset": state(tensor(offset=-1)),
    "tensor of 2^64 elements": state(tensor(shape=(2**32, 2**32), strides=(0, 0))),
    "tensor of 2^62 floats": state(tensor(shape=(2**31, 2**31), strides=(0, 0))),
    "tensor of 2^40 rows that are one": state(tensor(shape=(2**40, 2), strides=(0, 1))),
    "tensor of 2^100 rows": state(tensor(shape=(2**100, 2))),
    "tensor of fractional rows": state(tensor(shape=(1.5, 2))),
    "tensor of true rows": state(tensor(shape=(True, 2))),
    "tensor with one stride": state(tensor(strides=(1,))),
    "tensor of a thousand dimensions": state(tensor(shape=(1,) * 1000, strides=(1,) * 1000)),
    "tensor without parts": state(name("torch._utils", "_rebuild_tensor_v2") + b")R"),
    "size that is no size": b"\x80\x02" + name("torch", "Size") + b"(" + ops([-1]) + b"tR.",
    "numpy scalar of wrong length": b"\x80\x02"
    + name("numpy.core.multiarray", "scalar")
    + b"("
    + F8
    + ops("abc")
    + b"tR.",
    "numpy dtype of unknown order": b"\x80\x02" + F8 + ops((3, "@")) + b"b.",
    "numpy array of too few bytes": b"\x80\x02"
    + name("numpy._core.numeric", "_frombuffer")
    + b"("
    + ops(b"abc")
    + F8
    + ops((2**40,))
    + ops("C")
    + b"tR.",
    "bytes in an unknown encoding": b"\x80\x02" + name("_codecs", "encode") + b"(" + ops("a") + ops("rot13") + b"tR.",
    "set of a number": b"\x80\x02" + name("builtins", "set") + b"(K\x01tR.",
    "mapping of numbers": b"\x80\x02" + name("collections", "OrderedDict") + b"(" + ops([1, 2]) + b"tR.",
}

_ORDERED = name("collections", "OrderedDict")


def colliding_integers() -> bytes:
    """A mapping of 100,000 integers of one hash: Python's is the value modulo 2^61 - 1."""
    keys = b"".join(
        b"\x8a\x0a" + (place * (2**61 - 1)).to_bytes(10, "little", signed=True) + b"N" for place in range(1, 100_001)
    )
    return b"\x80\x02}(" + keys + b"u."


def colliding_tuples() -> bytes:
    """A mapping of pairs of integers that all have one hash, found by running the hash of tuples backwards."""
    mask, first, second, fifth = 2**64 - 1, 11400714785074694791, 14029467366897019727, 2870177450012600261
    inverse = pow(second, -1, 2**64)
    target, keys = 0x1234_5678_9ABC_DEF0, []
    for number in islice(count(1), 120_000):
        mixed = (fifth + number * second) & mask
        mixed = (((mixed << 31) | (mixed >> 33)) & mask) * first & mask
        lane = ((target - mixed) * inverse) & mask
        if lane < 2**61 - 1:
            pair = b"\x8a\x09" + number.to_bytes(9, "little") + b"\x8a\x09" + lane.to_bytes(9, "little")
            keys.append(pair + b"\x86N")
    return b"\x80\x02}(" + b"".join(keys) + b"u."


EXHAUSTING: dict[str, Callable[[], bytes]] = {
    "tuples a million deep": lambda: b"\x80\x02}" + b")" + b"\x85" * 1_000_000 + b"K\x01s.",
    "tuples deep in a set": lambda: b"\x80\x04\x8f(" + b")" + b"\x85" * 900_000 + b"\x90.",
    "lists deep in each other": lambda: b"\x80\x02" + b"]" * 490_000 + b"a" * 489_999 + b".",
    "tuples that double": lambda: b"\x80\x02})" + b"2\x86" * 200 + b"K\x01s.",
    "a list in itself": lambda: b"\x80\x02]q\x00h\x00a.",
    "a mapping in itself": lambda: b"\x80\x02}q\x00" + ops("state_dict").replace(b"q\x00", b"q\x01") + b"h\x00s.",
    "a module in itself": lambda: b"\x80\x02" + name("a", "B") + b")\x81q\x00}U\x08_modules}U\x01xh\x00ssb.",
    "modules that double": lambda: (
        b"\x80\x02"
        + name("a", "B")
        + b")\x81}U\x08_modules}sb"
        + b"q\x00"
        + (name("a", "B") + b")\x81}U\x08_modules}(U\x01xh\x00U\x01yh\x00usb" + b"q\x00") * 40
        + b"."
    ),
    "mappings that double": lambda: b"\x80\x02}" + b"q\x000}(U\x01ah\x00U\x01bh\x00u" * 60 + b".",
    "long text encoded again and again": lambda: (
        b"\x80\x02"
        + name("_codecs", "encode")
        + b"q\x000"
        + b"X"
        + struct.pack("<I", 2**20)
        + b"a" * 2**20
        + b"q\x010U\x06latin1q\x020"
        + b"h\x00(h\x01h\x02tR0" * 400
        + b"N."
    ),
    "a mapping copied again and again": lambda: (
        b"\x80\x02"
        + _ORDERED
        + b"q\x000}("
        + b"".join(ops(number) + b"N" for number in range(20_000))
        + b"u\x85q\x010"
        + b"h\x00h\x01R" * 20_000
        + b"."
    ),
    "keys of one hash": colliding_integers,
    "pairs of one hash": colliding_tuples,
    "memo of one hash": lambda: (
        b"\x80\x02N" + b"".join(b"p%d\n" % (place * (2**61 - 1)) for place in range(1, 100_000)) + b"."
    ),
    "a million sets": lambda: b"\x80\x04" + b"\x8f" * 999_990 + b".",
    "a million mappings": lambda: b"\x80\x02" + b"}" * 999_990 + b".",
    "a million objects": lambda: b"\x80\x02" + name("a", "B") + b"q\x00" + b"h\x00)\x81" * 333_000 + b".",
    "a million names": lambda: b"\x80\x02" + b"".join(b"ca\n%x\n" % number for number in range(999_990)) + b".",
    "two million opcodes": lambda: b"\x80\x02" + b"N" * 2_000_000 + b".",
    "a million calls of many dimensions": lambda: (
        b"\x80\x02"
        + name("torch", "Size")
        + b"q\x000"
        + ops(((1,) * 16,)).replace(b"q\x00", b"").replace(b"q\x01", b"")
        + b"q\x010"
        + b"h\x00h\x01R" * 330_000
        + b"."
    ),
    "thirty MiB of text with one wide letter": lambda: (
        b"\x80\x02X" + struct.pack("<I", 30 * 2**20 + 4) + b"a" * (30 * 2**20) + "\U0001f600".encode() + b"."
    ),
}

CASES: dict[str, Case] = {
    **{
        f"calls {trick}": archived(pickled, r"not a model|not a state dict|data\.pkl|no embedding table")
        for trick, pickled in calls().items()
    },
    **{kind: archived(pickled) for kind, pickled in DAMAGED.items()},
    **{kind: ((lambda folder, make=make: archived(make())[0](folder)), ".") for kind, make in EXHAUSTING.items()},
}
