"""Which precision the dense part takes, and what that alone costs in AUC."""

from __future__ import annotations

from typing import Any

from torch import nn

from memrec_convert.artifact.dense import choose_compute
from memrec_convert.artifact.metadata import Metadata
from memrec_convert.conversion.inputs.subject import BatchSource, Subject
from memrec_convert.conversion.measuring.prediction import measure_drop
from memrec_convert.conversion.options import Options
from memrec_convert.conversion.steps.assembly import round_dense
from memrec_convert.lookup.copying import copy_model
from memrec_convert.models import settle_compute
from memrec_convert.models.narrow import list_fast

MOST_DROP = 1e-4
"""The AUC that `--dense auto` may give for a narrower dense part."""


def settle_dense(subject: Subject, options: Options) -> Options:
    """The options with `dense="auto"` decided: the narrowest that is fast and loses at most MOST_DROP on the hold-out.

    Without labels to judge by, bf16 where that is fast.
    """
    if options.dense != "auto":
        return options
    fast, hold_out = list_fast(), subject.hold_out
    if hold_out is None or not hold_out.has_labels:
        return options.change(dense="bf16" if "bf16" in fast else "fp32")
    for dense in fast:
        drop = None if dense == "fp32" else drop_of_dense(subject, hold_out, dense, workers=options.workers)
        if drop is not None and drop <= MOST_DROP:
            return options.change(dense=dense)
    return options.change(dense="fp32")


def describe_dense(
    subject: Subject, metadata: Metadata, source: BatchSource | None, options: Options
) -> dict[str, dict[str, Any]]:
    """What a report says of a dense part that is not in fp32: {"dense": {"stored", "compute", "bytes", "bytes_fp32",
    "auc_drop"}}, the drop on `source` by this alone and None without it; {} for fp32.
    """
    stored = metadata.dense
    if stored == "fp32":
        return {}
    measured = source if subject.goal.is_plain else None
    drop = None if measured is None else drop_of_dense(subject, measured, stored, workers=options.workers)
    sizes = {"bytes": subject.dense_bytes(stored), "bytes_fp32": subject.dense_bytes("fp32")}
    return {"dense": {"stored": stored, "compute": metadata.compute, **sizes, "auc_drop": drop}}


def drop_of_dense(subject: Subject, source: BatchSource, dense: str, *, workers: int) -> float | None:
    """The AUC that the original loses if its dense part alone is stored and computed so; None if there is none."""
    return measure_drop(subject, narrow_original(subject, dense), source, workers=workers)


def narrow_original(subject: Subject, dense: str) -> nn.Module:
    """A copy of the original with its dense part as a file would have it; the tables are the original's own."""
    memo: dict[int, Any] = {id(one): one for one in subject.uncopied}
    tables = [subject.model.get_submodule(path) for site in subject.sites for path in site.paths]
    shared = {id(parameter): parameter for table in tables for parameter in table.parameters()}
    model = copy_model(subject.model, memo | shared).eval()
    round_dense(model, dense, kept=shared)
    settle_compute(model, choose_compute(subject.architecture, dense), asked=False)
    return model


def settle_precision(model: nn.Module, metadata: Metadata) -> None:
    """Rounds and computes a converted model's dense part as its file will say, so that this is what is measured."""
    round_dense(model, metadata.dense)
    settle_compute(model, metadata.compute, asked=False)
