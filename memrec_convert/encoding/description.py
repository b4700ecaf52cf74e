"""A table's form in words, and the plain values that an artifact records of it."""

from __future__ import annotations

from typing import Any

from memrec_convert.encoding.spec import TableSpec


def describe_table(
    spec: TableSpec,
    *,
    name: str,
    oov: str,
    mode: str = "",
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> dict[str, Any]:
    """All that it takes to build an empty module, as plain values; `mode` "" is an nn.Embedding's place."""
    plain: dict[str, Any] = {"name": name, "oov": oov} | spec.to_json()
    if padding_idx is not None:
        plain["padding_idx"] = padding_idx
    if mode:
        plain["mode"] = mode
    if include_last_offset:
        plain["include_last_offset"] = True
    return plain


def describe_form(spec: TableSpec) -> str:
    """The form in a few words: "int8 rows", "4-bit codes + 812 ids at 44 bits"."""
    if spec.form == "kept":
        return f"{spec.codec} rows"
    if spec.hashing is not None:
        weights = f", {spec.hashing.k_weights} weights" if spec.hashing.k_weights else ""
        parts = [f"{spec.hashing.k} hashed tokens{weights}"]
    else:
        parts = [f"{spec.base_bits()}-bit codes" if spec.base_depth else "mean row"]
    for level in spec.levels:
        what = f"{level.codec} rows" if level.kind == "rows" else f"{spec.base_bits() + spec.level_bits(level)} bits"
        parts.append(f"{level.index.count} ids at {what}")
    return " + ".join(parts)
