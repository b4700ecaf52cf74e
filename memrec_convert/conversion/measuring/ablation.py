"""What each table's compression alone costs: the original with one table replaced, and the next, on the same rows."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import nn

from memrec_convert.conversion.inputs.from_checkpoint import LogBatches, run_on_batch
from memrec_convert.evaluation.delong import AucDifference, compare_auc
from memrec_convert.evaluation.scoring import score_batches
from memrec_convert.lookup import CompressedTable


@dataclass(frozen=True)
class Ablation:
    """The AUC of the original with this table alone compressed, against the original's."""

    table: str
    difference: AucDifference


def ablate(
    original: nn.Module,
    converted: nn.Module,
    batches: LogBatches,
    labels: np.ndarray,
    before: np.ndarray,
    *,
    workers: int = 1,
) -> tuple[Ablation, ...]:
    """One entry for each replaced table of `converted`, in their order; `before` are the original's logits.

    The table is as it is in the artifact, fine-tuned where that was; all other tables and the dense part are the
    original's. Nothing where the labels hold one class only.
    """
    found = []
    for number, table in replaced_tables(converted):
        model = with_one_table(original, table, number)
        after = score_batches(model, batches.stream(), run_on_batch, workers=workers)
        difference = compare_auc(labels, before, after)
        if difference is None:
            return ()
        found.append(Ablation(table.name, difference))
    return tuple(found)


def replaced_tables(converted: nn.Module) -> Iterator[tuple[int, CompressedTable]]:
    """(number, table) of every table that is not kept as rows."""
    for number, module in enumerate(converted.get_submodule("tables").children()):
        if isinstance(module, CompressedTable) and module.spec.form == "replaced":
            yield number, module


def with_one_table(original: nn.Module, table: nn.Module, number: int) -> nn.Module:
    """The original with this module as one of its tables; the other tables are shared with it, not copied."""
    own = list(original.get_submodule("tables").children())
    memo: dict[int, object] = {id(module): module for module in own}
    memo[id(own[number])] = table
    return copy.deepcopy(original, memo).eval()
