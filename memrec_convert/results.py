"""Results of the verbs as JSON, and back: frozen dataclasses in, plain values out."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

import numpy as np

from memrec_convert.errors import ReportError

Made = TypeVar("Made")


class Result:
    """What a frozen dataclass inherits to be the result of a verb."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values (dict, list, str, int, finite float, bool, None), properties included."""
        values = to_plain(self)
        assert isinstance(values, dict)
        return values


def to_plain(value: object) -> Any:  # noqa: ANN401  (any JSON value)
    """A value as JSON can hold it: dataclasses with their properties as dicts, numpy as Python, NaN as None."""
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_plain(item) for item in value]
    if isinstance(value, (np.generic, np.ndarray)):
        return to_plain(value.tolist())
    if hasattr(value, "__dataclass_fields__"):
        names = [entry.name for entry in fields(value)]  # type: ignore[arg-type]
        derived = [name for cls in type(value).__mro__ for name in vars(cls) if isinstance(vars(cls)[name], property)]
        return {name: to_plain(getattr(value, name)) for name in [*names, *derived]}
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (str, int)) else str(value)


def read_as(kind: type[Made], values: object, what: str, expected: str) -> Made:
    """JSON values as a dataclass; ReportError, which names the place, where they are of another kind."""
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_json(json.dumps(to_plain(values)), strict=True)
    except ValidationError as error:
        detail = error.errors(include_url=False, include_context=False)[0]
        place = " > ".join(str(part) for part in detail["loc"]) or "the whole"
        found = "nothing" if detail["type"] == "missing" else f"a {type(detail['input']).__name__}"
        raise ReportError(
            f"{what} cannot be read: {place}: found {found} ({detail['msg']}); give {expected}."
        ) from None
