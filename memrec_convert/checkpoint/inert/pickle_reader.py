"""Read a pickle without running it: our own walk over its opcodes, which imports nothing and calls only our functions.

Only the opcode parser is the standard library's (`pickletools.genops`, which disassembles and executes nothing).
Names outside `allowlist.REBUILDERS` become placeholders. The walk is a loop, not a recursion, and its work is bounded,
so a hostile pickle ends in one CheckpointError.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, BinaryIO, cast

from memrec_convert.checkpoint.inert.allowlist import REBUILDERS, as_key, canonical, fill_array, is_known, storage_dtype
from memrec_convert.checkpoint.inert.stand_ins import (
    Global,
    MalformedPickle,
    NumpyArray,
    NumpyDtype,
    Placeholder,
    Storage,
    check_sizes,
    printable,
)
from memrec_convert.errors import CheckpointError

MOST_BYTES = 32 * 2**20
"""The largest pickle that is walked; tensors lie outside it, so real ones are kilobytes."""

MOST_OPCODES = 1_000_000
"""The longest pickle that is walked: some thirty opcodes are a tensor."""

_ENTRY_BYTES = 128
_SET_BYTES = 256
_MOST_NAMES = 20_000
_LARGEST_MEMO_KEY = 2**32
_DEEPEST_MARKS = 10_000
_LONGEST_NAME = 1_000
_MOST_UNRUN = 1_000

StorageLoader = Callable[[str, str, int], Storage]
"""(key, dtype, number of elements) -> the storage, checked by the container."""


@dataclass(frozen=True)
class Unpickled:
    """What a pickle holds, as inert objects, and the class names that were met and not run."""

    root: object
    unrun_classes: tuple[str, ...]


def read_pickle(
    stream: BinaryIO, where: str, *, load_storage: StorageLoader | None = None, most_opcodes: int | None = None
) -> Unpickled:
    """Walk the pickle at the stream's position up to its STOP; `where` names it in errors (file > member).

    Raises CheckpointError for anything damaged, truncated, too large or impossible.
    """
    limit = MOST_OPCODES if most_opcodes is None else most_opcodes
    machine = _Machine(load_storage)
    position: int | None = 0
    bounded = cast("IO[bytes]", _Bounded(stream))  # genops uses read, readline and tell alone
    try:
        for count, (opcode, argument, at) in enumerate(pickletools.genops(bounded)):
            position = at
            if count >= limit:
                raise MalformedPickle(f"more than {limit:,} opcodes")
            machine.step(opcode.name, argument)
        return Unpickled(machine.stack[-1], tuple(machine.unrun))
    except MalformedPickle as error:
        raise CheckpointError(f"{where}: damaged pickle: {error} (byte {position}).") from None
    except (ValueError, IndexError, KeyError, TypeError, OverflowError):
        # What a damaged pickle makes of the opcode parser and of the stack machine; neither message is for people.
        raise CheckpointError(
            f"{where}: damaged or truncated pickle: what follows byte {position} cannot be read; "
            "download or copy the file again."
        ) from None


class _Bounded:
    """A stream that refuses to hand out more than `MOST_BYTES` in all, whatever a length field asks for."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.left = stream, MOST_BYTES

    def tell(self) -> int:
        return MOST_BYTES - self.left

    def read(self, size: int) -> bytes:
        if size > self.left:
            raise MalformedPickle(f"it asks for more than {MOST_BYTES >> 20} MiB")
        self.left -= size
        return self.stream.read(size)

    def readline(self) -> bytes:
        line = self.stream.readline(self.left)
        self.left -= len(line)
        if (
            b"\\" in line
        ):  # the standard parser warns of unknown escapes; only protocol 0, which torch never writes, has any
            raise MalformedPickle("text with escapes; save it with pickle protocol 2 or later")
        return line


_PUSHED = frozenset(
    {
        "INT",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG",
        "LONG1",
        "LONG4",
        "FLOAT",
        "BINFLOAT",
        "STRING",
        "BINSTRING",
        "SHORT_BINSTRING",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINBYTES8",
        "UNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE",
        "BINUNICODE8",
    }
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_IGNORED = frozenset({"PROTO", "FRAME", "STOP"})


class _Machine:
    """The pickle virtual machine over inert values."""

    def __init__(self, load_storage: StorageLoader | None) -> None:
        self.stack: list[object] = []
        self.marks: list[list[object]] = []
        self.memo: dict[int, object] = {}
        self.unrun: dict[str, None] = {}
        self.globals: dict[tuple[str, str], Global] = {}
        self.storages: dict[str, tuple[object, object, Storage]] = {}
        self.load_storage = load_storage
        self.work_left = MOST_BYTES
        self.steps: dict[str, Callable[[], None]] = {
            "MARK": self.mark,
            "POP": self.pop,
            "POP_MARK": self.pop_mark_only,
            "DUP": self.dup,
            "MEMOIZE": lambda: self.put(len(self.memo)),
            "EMPTY_LIST": lambda: self.push([]),
            "EMPTY_DICT": lambda: self.push({}),
            "EMPTY_SET": self.make_set,
            "LIST": lambda: self.push(self.to_mark()),
            "TUPLE": lambda: self.push(tuple(self.to_mark())),
            "DICT": self.make_dict,
            "FROZENSET": lambda: self.push(frozenset(map(as_key, self.to_mark()))),
            "APPEND": lambda: self.append([self.stack.pop()]),
            "APPENDS": lambda: self.append(self.to_mark()),
            "SETITEM": self.set_item,
            "SETITEMS": lambda: self.set_items(self.to_mark()),
            "ADDITEMS": self.add_items,
            "BUILD": self.build,
            "REDUCE": self.reduce,
            "NEWOBJ": self.reduce,
            "NEWOBJ_EX": self.new_object_ex,
            "OBJ": self.old_object,
            "STACK_GLOBAL": self.stack_global,
            "BINPERSID": lambda: self.persistent(self.stack.pop()),
        }

    def step(self, name: str, argument: object) -> None:
        """Carry out one opcode."""
        if name in _PUSHED:
            self.push(argument)
        elif name in _CONSTANTS:
            self.push(_CONSTANTS[name])
        elif name in _TUPLES:
            count = _TUPLES[name]
            if len(self.stack) < count:
                raise MalformedPickle("a tuple of more values than there are")
            self.stack[-count:] = [tuple(self.stack[-count:])]
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.put(argument)
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self.push(self.memo[argument])  # type: ignore[index]
        elif name == "BYTEARRAY8":
            self.push(bytes(argument))  # type: ignore[call-overload]
        elif name == "GLOBAL":
            self.push_global(*str(argument).split(" ", 1))
        elif name == "INST":
            self.call(self.make_global(*str(argument).split(" ", 1)), tuple(self.to_mark()))
        elif name in self.steps:
            self.steps[name]()
        elif name not in _IGNORED:
            raise MalformedPickle(f"the opcode {name}, which torch.save never writes")

    def push(self, value: object) -> None:
        self.stack.append(value)

    def put(self, key: object) -> None:
        if not isinstance(key, int) or not 0 <= key < _LARGEST_MEMO_KEY:
            raise MalformedPickle("it numbers its values past 2^32")
        self.memo[key] = self.stack[-1]

    def dup(self) -> None:
        self.stack.append(self.stack[-1])

    def mark(self) -> None:
        if len(self.marks) >= _DEEPEST_MARKS:
            raise MalformedPickle(f"it nests deeper than {_DEEPEST_MARKS:,} levels")
        self.marks.append(self.stack)
        self.stack = []

    def to_mark(self) -> list[object]:
        """The values above the last mark, which goes."""
        values, self.stack = self.stack, self.marks.pop()
        return values

    def pop(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.to_mark()

    def pop_mark_only(self) -> None:
        self.to_mark()

    def make_dict(self) -> None:
        pairs = self.to_mark()
        self.push({})
        self.set_items(pairs)

    def make_set(self) -> None:
        self.work_left -= _SET_BYTES
        self.spend(())
        self.push(set())

    def append(self, values: list[object]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(values)
        elif isinstance(target, Placeholder):
            target.items.extend(values)
        else:
            raise MalformedPickle("values are appended to something that is not a list")

    def add_items(self) -> None:
        values, target = self.to_mark(), self.stack[-1]
        if isinstance(target, set):
            target.update(map(as_key, values))
        elif isinstance(target, Placeholder):
            target.items.extend(values)
        else:
            raise MalformedPickle("values are added to something that is not a set")

    def set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.set_items([key, value])

    def set_items(self, pairs: list[object]) -> None:
        target = self.stack[-1]
        if len(pairs) % 2:
            raise MalformedPickle("a mapping has a key without a value")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if isinstance(target, dict):
                target[as_key(key)] = value
            elif isinstance(target, Placeholder):
                target.items.append((key, value))
            else:
                raise MalformedPickle("keys are set on something that is not a mapping")

    def make_global(self, module: str, name: str) -> Global:
        known = self.globals.get((module, name))
        if known is not None:
            return known
        if len(module) + len(name) > _LONGEST_NAME:
            raise MalformedPickle("a class's name is longer than any name")
        if len(self.globals) >= _MOST_NAMES:
            raise MalformedPickle(f"it names more than {_MOST_NAMES:,} classes")
        reference = self.globals[module, name] = Global(module, name)
        if not is_known(reference) and len(self.unrun) < _MOST_UNRUN:
            self.unrun[printable(reference.qualified)] = None
        return reference

    def push_global(self, module: str, name: str) -> None:
        self.push(self.make_global(module, name))

    def stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise MalformedPickle("a class is named by something that is not text")
        self.push_global(module, name)

    def reduce(self) -> None:
        """A callable and its arguments: one of ours, or a placeholder. The file's own callable is never called."""
        args, target = self.stack.pop(), self.stack.pop()
        if not isinstance(args, tuple):
            raise MalformedPickle("a call's arguments are not a tuple")
        self.call(target, args)

    def call(self, target: object, args: tuple[object, ...]) -> None:
        self.spend(args)
        if isinstance(target, Global):
            rebuild = REBUILDERS.get(canonical(target))
            self.push(rebuild(args) if rebuild is not None else Placeholder(printable(target.qualified), args))
        elif isinstance(target, Placeholder):
            self.push(Placeholder(printable(f"{target.name}()"), args))
        else:
            raise MalformedPickle("it calls something that is not a class or function")

    def spend(self, args: tuple[object, ...]) -> None:
        """Count what a call may copy: the memo could hand one long value to millions of calls."""
        self.work_left -= sum(len(arg) for arg in args if isinstance(arg, (str, bytes)))
        self.work_left -= sum(_ENTRY_BYTES * len(arg) for arg in args if isinstance(arg, (list, tuple, dict)))
        if self.work_left < 0:
            raise MalformedPickle(f"its calls copy more than {MOST_BYTES >> 20} MiB")

    def new_object_ex(self) -> None:
        keywords = self.stack.pop()
        self.reduce()
        made = self.stack[-1]
        if isinstance(made, Placeholder):
            made.items.append(keywords)

    def old_object(self) -> None:
        target, *args = self.to_mark()
        self.call(target, tuple(args))

    def build(self) -> None:
        """Give an object its state: kept for placeholders, read for numpy's, without meaning for the others."""
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Placeholder):
            target.state = state
        elif isinstance(target, NumpyDtype):
            if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
                raise MalformedPickle("a numpy dtype has an unknown byte order")
            target.order = str(state[1])
        elif isinstance(target, NumpyArray):
            if not isinstance(state, tuple) or len(state) != 5:
                raise MalformedPickle("a numpy array has other than five parts")
            self.spend(state)
            target.values = fill_array(shape=state[1], dtype=state[2], fortran=state[3] is True, data=state[4])

    def persistent(self, identity: object) -> None:
        """A torch storage: ("storage", class, key, location, elements[, view]); of a module's class, its name alone.

        The old form wraps a module's class as ("module", class, file, source): the source is never looked at.
        """
        if isinstance(identity, tuple) and len(identity) == 4 and identity[0] == "module":
            if not isinstance(identity[1], Global):
                raise MalformedPickle("a module's class is something other than a name")
            return self.push(identity[1])
        if not isinstance(identity, tuple) or len(identity) not in (5, 6) or identity[0] != "storage":
            raise MalformedPickle("it refers to something outside that is not a storage")
        _, kind, key, _, elements, *view = identity
        if self.load_storage is None or not isinstance(key, str):
            raise MalformedPickle("it refers to a storage where none can be")
        if view not in ([], [None]):
            raise MalformedPickle("its storages are views of each other; save it again with a current torch")
        if key not in self.storages:
            loaded = self.load_storage(key, storage_dtype(kind), check_sizes((elements,), "storage")[0])
            self.storages[key] = (kind, elements, loaded)
        first_kind, first_elements, storage = self.storages[key]
        if first_kind != kind or type(elements) is not int or first_elements != elements:
            raise MalformedPickle(f"the storage {printable(key)!r} has two types or lengths")
        self.push(storage)
