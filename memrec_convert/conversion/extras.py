"""What a caller may want measured beyond the AUC difference: groups, single tables, and a control run."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from memrec_convert.conversion.controlling import Control
from memrec_convert.conversion.from_checkpoint import LogBatches
from memrec_convert.conversion.judging import Judgement, judge
from memrec_convert.conversion.options import Options
from memrec_convert.conversion.recoding import find_mapped
from memrec_convert.conversion.shrink import Shrunk
from memrec_convert.conversion.stopwatch import Stopwatch
from memrec_convert.conversion.subject import Progress, Subject
from memrec_convert.conversion.teaching import teach_control
from memrec_convert.errors import LogError, RecipeError
from memrec_convert.parallel import single_threaded_torch


@dataclass(frozen=True)
class Extras:
    """group: the evaluation log's column that says which rows belong together; ablation: every replaced table alone;
    control: the original fine-tuned as the converted model is.
    """

    group: str | None = None
    ablation: bool = False
    control: bool = False

    def check(self, options: Options, *, data: bool, val: bool, evaluation: bool) -> None:
        """LogError where a measurement lacks its data, RecipeError for a control run of no training."""
        for wanted, name in ((self.group, "--group"), (self.ablation, "--ablation"), (self.control, "--control")):
            if wanted and not evaluation:
                raise LogError(f"{name} says what to measure, and there is no evaluation data; add --eval.")
        if not self.control:
            return
        missing = [name for name, given in (("--data", data), ("--val", val)) if not given]
        if missing:
            raise LogError(
                f"--control repeats the fine-tuning on the original, and that needs {' and '.join(missing)}; add it."
            )
        if not options.epochs:
            raise RecipeError("--control repeats the fine-tuning on the original, and --epochs 0 asks for none.")


NO_EXTRAS = Extras()


def judge_outcome(
    subject: Subject, shrunk: Shrunk, judged: LogBatches | None, options: Options, extras: Extras, *,
    progress: Progress, watch: Stopwatch,
) -> Judgement | None:  # fmt: skip
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
                subject.model, shrunk.model, judged, subject.counts, workers=options.workers,
                ablation=extras.ablation, control=control, seed=options.seed,
            )  # fmt: skip
        progress("evaluate", 1, 1)
    return found


def _run_control(subject: Subject, shrunk: Shrunk, options: Options, progress: Progress) -> Control:
    mapped = find_mapped(subject, shrunk.chosen)
    model, training = teach_control(subject, options, progress=progress, mapped=mapped)
    untrained = copy.deepcopy(shrunk.model)
    if shrunk.fine_tuning is not None and shrunk.fine_tuning.start:
        untrained.load_state_dict(shrunk.fine_tuning.start)
    return Control(model, untrained, training)
