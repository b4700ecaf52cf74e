"""Tables that the hold-out does not miss: where rows are trained on labels, those would only be overfitted.

What the rows of a table add to the answers is then noise that the original learnt by heart. Coding it costs bytes, and
training goes on learning it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import nn

from memrec_convert.conversion.inputs.batches import count_rows
from memrec_convert.conversion.inputs.subject import Subject, read_truth
from memrec_convert.conversion.options import Options
from memrec_convert.conversion.steps.assembly import frame_of, make_module, swap_tables
from memrec_convert.conversion.steps.fitting import Fitted, IdleTable, without_tables
from memrec_convert.encoding import TableSpec
from memrec_convert.encoding.build import join_replaced
from memrec_convert.evaluation.delong import SAME_MARGIN, Z95, auc_gain, standard_error
from memrec_convert.evaluation.metrics import Float64
from memrec_convert.evaluation.scoring import mean_divergence
from memrec_convert.models import ordered_products

LEAST_SHARE = 0.05
"""Of the bytes of all tables: to leave less out frees too little to be worth a doubt."""

MOST_LOST = 0.0005
"""Of the original's log loss: what it may rise by without a table, at the upper end of the 95 % interval. It must not
rise at all by the estimate itself; and the AUC must not have fallen beyond doubt, nor by more than SAME_MARGIN at the
lower end of its own interval.
"""

LEAST_MOVED = 0.5
"""Of what the training log predicts for the answers' change: where the hold-out sees less, it does not ask for the
table's rows as the log does, and cannot tell whether they are missed.
"""

FIRST_LOOK, MOST_MOVED = 16_384, 4 * MOST_LOST
"""On so many samples first: whatever moves the answers by a larger share of the log loss is no table to be left out."""


def leave_idle(subject: Subject, fitted: Fitted, options: Options, budget_bytes: int | None = None) -> Fitted:
    """The fit, with the tables left at their mean row that the hold-out does not miss.

    Only where rows will be trained on labels, for the AUC of clicks, with weights from the log, and where the budget
    cannot hold the original.
    """
    fits = budget_bytes is not None and subject.table_bytes + subject.dense_bytes("fp32") <= budget_bytes
    if fitted.idle is not None or fits or fitted.source != "log" or not _learns_labels(subject, options):
        return fitted
    found = subject.crew.decide(
        "tables that are not missed", lambda: _find_idle(subject, fitted, options), (IdleTable,)
    )
    return without_tables(fitted, found)


def describe_idle(subject: Subject, idle: Sequence[IdleTable]) -> list[str]:
    """A sentence for the report; none where no table is left out."""
    if not idle:
        return []
    sites, last = [subject.sites[one.number] for one in idle], idle[-1]
    names, rows = " and ".join(site.name for site in sites), sum(site.rows for site in sites)
    low, high = (last.rise + sign * Z95 * last.error for sign in (-1, 1))
    is_left = "is left at its mean row: without its" if len(idle) == 1 else "are left at their mean rows: without their"
    return [
        f"{names} {is_left} {rows:,} rows the original's log loss on the hold-out changes by {last.rise:+.5f} "
        f"({low:+.5f} to {high:+.5f}), and training on labels would overfit them; soft targets, or no epochs, keep them"
    ]


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
    if hold_out is None or truth is None or np.unique(truth.labels).tolist() != [0, 1]:
        return []
    clicked = truth.labels.astype(np.bool_)

    def score(model: nn.Module, limit: int | None = None) -> Float64:
        with ordered_products(model):
            outputs = subject.score(model, hold_out.stream(limit=limit), options.workers)
        return outputs.astype(np.float64)

    def judge(before: Float64, after: Float64) -> tuple[float, float, bool]:
        """The rise of the log loss, its standard error, and whether the table is not missed."""
        losses = _losses(clicked, before)
        rises = _losses(clicked, after) - losses
        rise = float(rises.mean())
        error = standard_error((rises - rise) / len(rises), truth.groups)
        gain, doubt = auc_gain(clicked, before, after, groups=truth.groups)
        same = gain + Z95 * doubt >= 0 and gain - Z95 * doubt >= -SAME_MARGIN
        return rise, error, same and rise <= 0 and rise + Z95 * error <= MOST_LOST * float(losses.mean())

    first, before = score(subject.model, FIRST_LOOK), None
    usual = float(_losses(clicked[: len(first)], first).mean())
    for number in sorted(large, key=lambda one: -subject.sites[one].nbytes):
        numbers = [*(one.number for one in found), number]
        model = _without(subject, fitted, numbers)
        if mean_divergence(first, score(model, FIRST_LOOK)) > MOST_MOVED * usual:
            continue
        before = score(subject.model) if before is None else before
        after = score(model)
        rise, error, spared = judge(before, after)
        if spared and _measure_spread(before, after) >= LEAST_MOVED * _predict_spread(subject, fitted, numbers) > 0:
            found.append(IdleTable(number, rise, error))
    return found


def _losses(clicked: np.ndarray, logits: Float64) -> Float64:
    """The log loss of every sample."""
    losses: Float64 = np.logaddexp(0, logits) - clicked * logits
    return losses


def _measure_spread(before: Float64, after: Float64) -> float:
    """What outputs [n] diverge by, to second order, but for what all of them change alike: in nats per sample."""
    change, chance = after - before, np.exp(-np.logaddexp(0, -before))
    return float((chance * (1 - chance) * np.square(change - change.mean())).mean()) / 2


def _predict_spread(subject: Subject, fitted: Fitted, numbers: Sequence[int]) -> float:
    """The same for tables at their mean rows by the training log; distortion sums 4 p (1 - p) times the square."""
    assert subject.train is not None
    samples = subject.samples or sum(count_rows(batch) for batch in subject.train.stream())
    distortion = sum(float(fitted.fits[number].curves.lists[0].distortion[0].sum()) for number in numbers)
    return distortion / 8 / max(1, samples)


def _without(subject: Subject, fitted: Fitted, numbers: list[int]) -> nn.Module:
    """The original with these tables at their mean row."""
    modules = {}
    for number in numbers:
        site, survey = subject.sites[number], fitted.fits[number].survey
        spec = TableSpec(site.rows, site.dim, "replaced")
        tensors = join_replaced(spec, **frame_of(survey, ()), base=np.zeros((0,), dtype=np.uint8), levels=())
        modules[number] = make_module(site, spec, tensors, oov="error")
    return swap_tables(subject, subject.model, modules)
