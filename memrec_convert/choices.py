"""What can be chosen, once: recipes, options, the command line, facts and the file format take values from here."""

from __future__ import annotations

from typing import Any, Literal, Union, get_args, get_origin

Method = Literal["auto", "memrec", "codes", "int8", "sample-pooled"]
Weights = Literal["auto", "log", "optimizer", "displacement", "uniform"]
Targets = Literal["mixed", "soft", "labels"]
DensePrecision = Literal["fp32", "bf16"]
PlaceName = Literal["pt2", "onnx", "web"]
Inputs = Literal["ids", "bags", "weighted-bags"]
"""What an export takes per input: one id, or bags of ids, whose lookups may have weights."""

Oov = Literal["error", "clip", "hash", "zero"]
"""For an id outside its table: refuse it, take the nearest id, take it modulo the rows, or give a zero vector."""

Pairs = Literal["lower", "upper"]
DenseTransform = Literal["log1p", "log(x+3)", "identity"]
QrOperation = Literal["mult", "add", "concat"]
Interaction = Literal["dot", "dot-with-itself", "cat"]
Pooling = Literal["sum", "mean"]


def values_of(choice: Any) -> tuple[str, ...]:  # noqa: ANN401 - a Literal of texts has no type of its own
    """The values of one of the choices above, also where it may be None; () for any other type."""
    if get_origin(choice) is Literal:
        return get_args(choice)
    inner = get_args(choice) if get_origin(choice) is Union or type(choice).__name__ == "UnionType" else ()
    return next((found for one in inner if (found := values_of(one))), ())
