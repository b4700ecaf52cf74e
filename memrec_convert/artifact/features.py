"""What a file may require of its reader beyond format 1: features by name, in format 2's field `requires`.

A file is of format 2 exactly where it needs a feature, so files that need none keep the bytes of format 1. A feature
is added here together with its section in docs/artifact.md, which also reserves the names of those to come.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from memrec_convert.artifact.quoting import show_value
from memrec_convert.encoding.codecs import FINE_CODECS
from memrec_convert.errors import ArtifactError

NEWEST_FORMAT = 2


def _keeps_modules(fields: Mapping[str, Any]) -> bool:
    """Whether a table's module stays, so that nothing else could stand for it."""
    return any("place" in plain for plain in fields["modules"].values())


def _ties_outputs(fields: Mapping[str, Any]) -> bool:
    """Whether a tensor's name stands for the rows of a table."""
    ends = {source.removesuffix(".weight") for source in fields["aliases"].values() if source.endswith(".weight")}
    return not ends.isdisjoint(fields["modules"])


def _computes_narrowly(fields: Mapping[str, Any]) -> bool:
    """Whether products of the dense part are taken in less than F32."""
    return bool(fields.get("compute", "fp32") != "fp32")


def _stores_int8(fields: Mapping[str, Any]) -> bool:
    """Whether matrices of the dense part are stored in int8, with scales of their own."""
    return bool(fields["dense"] == "int8")


def _has_trellis_rows(fields: Mapping[str, Any]) -> bool:
    """Whether a table, or a level of one, holds rows of a few bits per value."""
    forms = list[Any]()
    for plain in fields["modules"].values():
        levels = plain.get("levels")
        forms += [plain, *(levels if isinstance(levels, list) else ())]
    return any(isinstance(form, dict) and form.get("codec") in FINE_CODECS for form in forms)


FEATURES: dict[str, Callable[[Mapping[str, Any]], bool]] = {
    "compute": _computes_narrowly,
    "int8-dense": _stores_int8,
    "kept-module": _keeps_modules,
    "tied-output": _ties_outputs,
    "trellis-rows": _has_trellis_rows,
}
"""The features that this release reads and writes: a name -> whether metadata with these fields needs it.

The function answers for a forged file's fields too: they are of the right kinds, and nothing inside them is checked.
"""


def list_features(fields: Mapping[str, Any]) -> list[str]:
    """The features that a reader of a file with these metadata fields must know, sorted."""
    return sorted(name for name, is_needed in FEATURES.items() if is_needed(fields))


def take_requires(plain: dict[str, Any], version: object, where: str) -> list[str]:
    """Takes `requires` out of a text's fields, [] for format 1; ArtifactError unless this release knows everything."""
    if type(version) is not int or not 1 <= version <= NEWEST_FORMAT:
        raise ArtifactError(
            f"{where} has format version {show_value(version)}; this release reads up to {NEWEST_FORMAT}: install a "
            "newer memrec-convert."
        )
    if version == 1:
        return []
    requires = plain.pop("requires", None)
    names: list[Any] = requires if isinstance(requires, list) else []
    if not names or not all(isinstance(name, str) for name in names) or names != sorted(set(names)):
        raise ArtifactError(
            f"{where}: its metadata is damaged (requires: expected a sorted list of distinct names, at least one); "
            "convert the source again."
        )
    for name in names:
        if name not in FEATURES:
            raise ArtifactError(
                f"{where} requires the feature {show_value(name)}, which this release does not know: install a newer "
                "memrec-convert, or convert the source again with this one."
            )
    return names
