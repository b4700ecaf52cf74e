"""What a caller may want measured beyond the AUC difference: groups, single tables, and a control run."""

from __future__ import annotations

from memrec_convert.conversion.inputs.from_checkpoint import LogBatches
from memrec_convert.conversion.inputs.metering import Stopwatch
from memrec_convert.conversion.inputs.subject import Progress, Subject
from memrec_convert.conversion.measuring.control import Control
from memrec_convert.conversion.measuring.judging import Judgement, judge
from memrec_convert.conversion.options import Extras, Options
from memrec_convert.conversion.steps.outcome import Shrunk
from memrec_convert.conversion.steps.teaching import teach_control
from memrec_convert.parallel import single_threaded_torch


def judge_outcome(
    subject: Subject,
    shrunk: Shrunk,
    judged: LogBatches | None,
    options: Options,
    extras: Extras,
    *,
    progress: Progress,
    watch: Stopwatch,
) -> Judgement | None:
    """The outcome measured on the evaluation data, with what was asked for besides; None without such data."""
    if judged is None:
        return None
    with single_threaded_torch():
        control = None
        if extras.control:
            with watch.stage("control"):
                control = _run_control(subject, shrunk, options, progress)
        progress("evaluate", 0, 1)
        with watch.stage("evaluate"):
            found = judge(
                subject.model,
                shrunk.model,
                judged,
                subject.counts,
                workers=subject.scoring_workers(options.workers),
                forward=subject.forward,
                ablation=extras.ablation,
                control=control,
                seed=options.seed,
            )
        progress("evaluate", 1, 1)
    return found


def _run_control(subject: Subject, shrunk: Shrunk, options: Options, progress: Progress) -> Control:
    model, training = teach_control(subject, options, progress=progress, mapped=shrunk.mapped)
    return Control(model, shrunk.untrained(), training)
