"""A graph under construction: nodes, constants, and pools in which the tensors of all tables lie side by side."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

OPSET = 18
"""The first one with BitwiseAnd and with ScatterElements that adds."""
BFLOAT16 = TensorProto.BFLOAT16
KINDS = {
    "bool": TensorProto.BOOL,
    "uint8": TensorProto.UINT8,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "uint64": TensorProto.UINT64,
    "float32": TensorProto.FLOAT,
}


class Graph:
    """Adds nodes and hands out the names of their results.

    Nodes of the preamble read constants alone. A runtime computes them once, when it loads the file: that is how packed
    tensors stay packed in the file. Pools become one initializer each when `finish` makes the model.
    `key_bits` is the width of the widest keys in any index.
    """

    def __init__(self, *, key_bits: int = 0) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._preamble: list[onnx.NodeProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._initializers: list[onnx.TensorProto] = []
        self._pools: dict[str, Pool] = {}
        self._made: dict[str, str] = {}
        self._count = 0
        self._zeros: dict[int, Tensor] = {}
        self.key_bits = key_bits
        self._target = self._nodes

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:  # noqa: ANN401 - what ONNX takes
        """A node of one result; its name."""
        result = self._name()
        self._target.append(helper.make_node(kind, inputs, [result], name=result, **attributes))
        return result

    def name(self, name: str, value: str) -> None:
        """Gives a result the name of an output."""
        self._target.append(helper.make_node("Identity", [value], [name], name=name))

    def cast(self, value: str, kind: str) -> str:
        """A value as one of KINDS."""
        return self.op("Cast", value, to=KINDS[kind])

    def ints(self, *values: int) -> str:
        """A constant int64 [n]."""
        return self.const(np.array(values, dtype=np.int64))

    def unsqueeze(self, value: str, axis: int) -> str:
        """A value with one more dimension, of length 1."""
        return self.op("Unsqueeze", value, self.ints(axis))

    def const(self, value: np.ndarray) -> str:
        """A constant; equal ones are stored once."""
        plain = np.ascontiguousarray(value).reshape(value.shape)
        key = (str(plain.dtype), plain.shape, plain.tobytes())
        if key not in self._constants:
            self._constants[key] = self._name()
            self._initializers.append(numpy_helper.from_array(plain, self._constants[key]))
        return self._constants[key]

    def tensor(self, value: Tensor) -> str:
        """A constant from torch, in its own type; bfloat16 too."""
        if value.dtype != torch.bfloat16:
            return self.const(value.detach().cpu().numpy())
        key = ("bfloat16", tuple(value.shape), value.detach().contiguous().view(torch.uint8).numpy().tobytes())
        if key not in self._constants:
            self._constants[key] = self._name()
            self._initializers.append(helper.make_tensor(self._constants[key], BFLOAT16, key[1], key[2], raw=True))
        return self._constants[key]

    def pool(self, name: str) -> Pool:
        """The pool of this name, made when it is first asked for."""
        return self._pools.setdefault(name, Pool(name))

    def zero_token(self, dim: int) -> Tensor:
        """An int8 token [1, dim] of zeros, the same one each time."""
        return self._zeros.setdefault(dim, torch.zeros(1, dim, dtype=torch.int8))

    @contextmanager
    def once(self) -> Iterator[None]:
        """Nodes added inside go into the preamble."""
        before, self._target = self._target, self._preamble
        try:
            yield
        finally:
            self._target = before

    def made(self, what: str) -> str | None:
        """The result that was kept under this name."""
        return self._made.get(what)

    def keep(self, what: str, result: str) -> str:
        """Keeps a result for those who need it too."""
        return self._made.setdefault(what, result)

    def finish(
        self, inputs: dict[str, tuple[str, list[int | str]]], outputs: dict[str, tuple[str, list[int | str]]]
    ) -> onnx.ModelProto:
        """The model; inputs and outputs are {name: (one of KINDS, shape)}."""
        sides = [
            [helper.make_tensor_value_info(name, KINDS[kind], shape) for name, (kind, shape) in side.items()]
            for side in (inputs, outputs)
        ]
        pools = [
            helper.make_tensor(pool.name, pool.kind, pool.shape, pool.tobytes(), raw=True)
            for pool in self._pools.values()
            if pool.length
        ]
        graph = helper.make_graph(
            self._preamble + self._nodes, "memrec", sides[0], sides[1], initializer=self._initializers + pools
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="memrec-convert")
        model.ir_version = 8
        return model

    def _name(self) -> str:
        self._count += 1
        return f"v{self._count}"


class Pool:
    """Tensors of one type and width, joined along the first axis; each is stored once, however many tables share it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.kind = TensorProto.UINT8
        self.length = 0
        self._width: tuple[int, ...] = ()
        self._parts: list[bytes] = []
        self._starts: dict[tuple[int, ...], int] = {}
        self._held: list[Tensor] = []
        self._counts: dict[int, int] = {}
        self._total = 0

    @property
    def shape(self) -> list[int]:
        """Of what was added so far."""
        return [self.length, *self._width]

    def add(self, owner: Tensor, part: Tensor | None = None) -> int:
        """Where a tensor lies in the pool, or what is made of it, its part; it is added unless it is there."""
        known = (owner.data_ptr(), owner.numel())
        if known not in self._starts:
            part = (owner if part is None else part).detach().contiguous()
            kind = BFLOAT16 if part.dtype == torch.bfloat16 else helper.np_dtype_to_tensor_dtype(part.numpy().dtype)
            if not self._parts:
                self.kind, self._width = kind, tuple(part.shape[1:])
            assert (self.kind, self._width) == (kind, tuple(part.shape[1:]))
            self._starts[known] = self.length
            self._held.append(owner)  # so that its address is not given to another
            self._parts.append(part.view(torch.uint8).numpy().tobytes())
            self.length += len(part)
        return self._starts[known]

    def count_before(self, start: int, count: int) -> int:
        """The counts of all parts before the one that starts here and has this count; parts are asked in their order.

        For parts that hold other things than they have entries, such as bits.
        """
        if start not in self._counts:
            self._counts[start] = self._total
            self._total += count
        return self._counts[start]

    def tobytes(self) -> bytes:
        """The bytes of all parts."""
        return b"".join(self._parts)
