"""The exact bytes of a file before it exists, for the planner to search with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from memrec_convert.artifact.dense import narrow_shapes
from memrec_convert.artifact.metadata import Metadata
from memrec_convert.artifact.writer import KEPT_MODULE, count_model_bytes, predict_shapes
from memrec_convert.conversion.inputs.subject import Subject
from memrec_convert.encoding import TableSpec, describe_table


def complete_metadata(subject: Subject, metadata: Metadata, specs: Sequence[TableSpec], *, oov: str) -> Metadata:
    """The metadata with the description of every table and the names of shared tensors."""
    by_path = {site.paths[0]: spec for site, spec in zip(subject.sites, specs, strict=True)}
    _, aliases = predict_shapes({}, by_path)
    aliases |= subject.dense_aliases
    modules: dict[str, dict[str, Any]] = {}
    for site, spec in zip(subject.sites, specs, strict=True):
        modules[site.paths[0]] = describe_table(
            spec,
            name=site.name,
            oov=oov,
            mode=site.pooling,
            include_last_offset=site.include_last_offset,
            padding_idx=site.padding_idx,
        ) | (KEPT_MODULE if site.kept_module else {})
        names = [*spec.tensors(), *(f"group.{name}" for name in (spec.hashing.tensors() if spec.hashing else ()))]
        for path in site.paths[1:]:
            modules[path] = {"same_as": site.paths[0]}
            for name in names:
                first = f"{site.paths[0]}.{name}"
                aliases[f"{path}.{name}"] = aliases.get(first, first)
    return replace(metadata, modules=modules, aliases=aliases)


def make_counter(subject: Subject, metadata: Metadata, *, oov: str) -> Callable[[Sequence[TableSpec]], int]:
    """Counts the exact bytes of the file that specs lead to."""

    def count(specs: Sequence[TableSpec]) -> int:
        by_path = {site.paths[0]: spec for site, spec in zip(subject.sites, specs, strict=True)}
        shapes, _ = predict_shapes(narrow_shapes(subject.dense_shapes, metadata.dense), by_path)
        return count_model_bytes(shapes, complete_metadata(subject, metadata, specs, oov=oov))

    return count
