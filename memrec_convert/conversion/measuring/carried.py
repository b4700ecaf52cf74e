"""Whether what was taken over from an earlier artifact ranks as a fresh conversion would, by the hold-out's labels."""

from __future__ import annotations

from memrec_convert.conversion.inputs.subject import Subject, read_truth
from memrec_convert.conversion.options import Options
from memrec_convert.conversion.steps.outcome import Candidate, TakenOver
from memrec_convert.evaluation.delong import compare_auc

MOST_AUC_LOST = 0.0002
"""What a fresh conversion may have more of AUC before it is preferred."""


def find_harm(subject: Subject, own: Candidate, fresh: Candidate | None, told: TakenOver, options: Options) -> str:
    """Why a fresh conversion ranks better than `own`; "" where it does not, or where labels do not tell.

    Without one, a fit of samples stands for it: of the AUC that `own` has lost it would lose the share that it loses of
    the distortion. In either case the 95 % interval of the difference has to be above zero.
    """
    source, workers = subject.hold_out, options.workers
    truth = read_truth(source) if source is not None and subject.goal.is_plain else None
    if source is None or truth is None:
        return ""
    other = subject.model if fresh is None else fresh.as_model(subject)
    outputs = [subject.score(model, source.stream(), workers) for model in (own.as_model(subject), other)]
    found = compare_auc(truth.labels, *outputs)
    share = 1.0 if fresh is not None else 1 - told.fresh_loss / max(told.loss, 1e-30)
    if found is None or found.ci95[0] <= 0 or found.delta * share <= MOST_AUC_LOST:
        return ""
    if fresh is None:
        return f"of an AUC drop of {found.delta:.5f} on the hold-out, a fresh fit of a sample loses {share:.1%} less"
    return f"the AUC of a fresh conversion is {found.delta:.5f} higher on the hold-out"
