"""Tables that the hold-out does not miss: where rows are trained on labels, those would only be overfitted.

What the rows of a table add to the answers is then noise that the original learnt by heart. Coding it costs bytes, and
training goes on learning it.
"""

from __future__ import annotations

import numpy as np
from torch import nn

from memrec_convert.conversion.inputs.subject import Subject, read_truth
from memrec_convert.conversion.options import Options
from memrec_convert.conversion.steps.assembly import frame_of, make_module, swap_tables
from memrec_convert.conversion.steps.fitting import Fitted, IdleTable, without_tables
from memrec_convert.encoding import TableSpec
from memrec_convert.encoding.build import join_replaced
from memrec_convert.evaluation.delong import SAME_MARGIN, auc_gain, standard_error
from memrec_convert.evaluation.metrics import Float64
from memrec_convert.evaluation.scoring import mean_divergence
from memrec_convert.models import ordered_products

LEAST_SHARE = 0.05
"""Of the bytes of all tables: to leave less out frees too little to be worth a doubt."""

MOST_LOST = 0.0005
"""Of the original's log loss: what it may rise by without a table, at the upper end of the 95 % interval. It must not
rise at all by the estimate itself; and the AUC must fall by no more than SAME_MARGIN at the lower end of its own.
"""

FIRST_LOOK, MOST_MOVED = 16_384, 4 * MOST_LOST
"""On so many samples first: whatever moves the answers by a larger share of the log loss is no table to be left out."""

_TWO_SIDED = 1.96


def leave_idle(subject: Subject, fitted: Fitted, options: Options, budget_bytes: int | None = None) -> Fitted:
    """The fit, with the tables left at their mean row that the hold-out does not miss.

    Only where rows will be trained on labels, for the AUC of clicks, and where the budget cannot hold the original.
    """
    fits = budget_bytes is not None and subject.table_bytes + subject.dense_bytes("fp32") <= budget_bytes
    if fitted.idle is not None or fits or not _learns_labels(subject, options):
        return fitted
    found = subject.crew.decide(
        "tables that are not missed", lambda: _find_idle(subject, fitted, options), (IdleTable,)
    )
    return without_tables(fitted, found)


def describe_idle(subject: Subject, idle: IdleTable) -> str:
    """One sentence for the report."""
    site = subject.sites[idle.number]
    return (
        f"{site.name} is left at its mean row: without its {site.rows:,} rows the original's log loss on the hold-out "
        f"changes by {idle.rise:+.5f} ({idle.rise - _TWO_SIDED * idle.error:+.5f} to "
        f"{idle.rise + _TWO_SIDED * idle.error:+.5f}), and training would overfit them; --targets soft keeps them"
    )


def _learns_labels(subject: Subject, options: Options) -> bool:
    train, hold_out = subject.train, subject.hold_out
    learns = options.epochs > 0 and options.targets != "soft" and options.method == "auto"
    labelled = train is not None and hold_out is not None and train.has_labels and hold_out.has_labels
    return learns and labelled and subject.goal.is_plain


def _find_idle(subject: Subject, fitted: Fitted, options: Options) -> list[IdleTable]:
    """The tables, the largest first; each is tried beside those that are left out already."""
    large = [
        number
        for number, (site, fit) in enumerate(zip(subject.sites, fitted.fits, strict=True))
        if fit.curves.lists and site.nbytes >= LEAST_SHARE * subject.table_bytes
    ]
    hold_out, found = subject.hold_out, list[IdleTable]()
    truth = read_truth(hold_out) if hold_out is not None and large else None
    if hold_out is None or truth is None or len(np.unique(truth.labels)) < 2:
        return []
    clicked = truth.labels.astype(np.bool_)

    def score(model: nn.Module, limit: int | None = None) -> Float64:
        with ordered_products(model):
            outputs = subject.score(model, hold_out.stream(limit=limit), options.workers)
        return outputs.astype(np.float64)

    def judge(before: Float64, after: Float64) -> tuple[float, float, bool]:
        """The rise of the log loss, its standard error, and whether the table is not missed."""
        losses = np.logaddexp(0, before) - clicked * before
        rises = np.logaddexp(0, after) - clicked * after - losses
        rise = float(rises.mean())
        error = standard_error((rises - rise) / len(rises), truth.groups)
        gain, doubt = auc_gain(clicked, before, after, groups=truth.groups)
        small = rise + _TWO_SIDED * error <= MOST_LOST * losses.mean(), gain - _TWO_SIDED * doubt >= -SAME_MARGIN
        return rise, error, rise <= 0 and all(small)

    first, before = score(subject.model, FIRST_LOOK), None
    usual = float((np.logaddexp(0, first) - clicked[: len(first)] * first).mean())
    for number in sorted(large, key=lambda one: -subject.sites[one].nbytes):
        model = _without(subject, fitted, [*(one.number for one in found), number])
        if mean_divergence(first, score(model, FIRST_LOOK)) > MOST_MOVED * usual:
            continue
        before = score(subject.model) if before is None else before
        rise, error, spared = judge(before, score(model))
        if spared:
            found.append(IdleTable(number, rise, error))
    return found


def _without(subject: Subject, fitted: Fitted, numbers: list[int]) -> nn.Module:
    """The original with these tables at their mean row."""
    modules = {}
    for number in numbers:
        site, survey = subject.sites[number], fitted.fits[number].survey
        spec = TableSpec(site.rows, site.dim, "replaced")
        tensors = join_replaced(spec, **frame_of(survey, ()), base=np.zeros((0,), dtype=np.uint8), levels=())
        modules[number] = make_module(site, spec, tensors, oov="error")
    return swap_tables(subject, subject.model, modules)
