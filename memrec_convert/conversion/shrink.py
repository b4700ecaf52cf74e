"""The main path, shared by checkpoint files and live models: fit -> candidates -> confirm -> fine-tune."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from memrec_convert.artifact.dense import choose_compute
from memrec_convert.artifact.metadata import Metadata
from memrec_convert.conversion.inputs.metering import Stopwatch
from memrec_convert.conversion.inputs.subject import Progress, Subject
from memrec_convert.conversion.measuring.carried import find_harm
from memrec_convert.conversion.measuring.precision import settle_precision
from memrec_convert.conversion.measuring.worth import describe_idle, leave_idle
from memrec_convert.conversion.options import Options
from memrec_convert.conversion.steps.candidates import confirm, find_candidates
from memrec_convert.conversion.steps.carrying import carry_over
from memrec_convert.conversion.steps.fitting import Fitted, fit_subject, without_tables
from memrec_convert.conversion.steps.outcome import Candidate, Shrunk, TakenOver, describe_wish
from memrec_convert.conversion.steps.recoding import Taught, teach_rows
from memrec_convert.conversion.steps.sizing import complete_metadata, make_counter
from memrec_convert.conversion.steps.weighting import NO_DATA_WARNING, warn_of_untrained
from memrec_convert.conversion.steps.yesterday import Yesterday
from memrec_convert.errors import OptionError
from memrec_convert.finetune.loop import FineTuning
from memrec_convert.parallel import single_threaded_torch
from memrec_convert.units import Budget


def shrink(
    subject: Subject,
    budget: Budget,
    options: Options,
    *,
    profile: dict[str, object],
    progress: Progress,
    watch: Stopwatch,
    train: bool = True,
    fitted: Fitted | None = None,
    rivals: bool = True,
    refine: bool = True,
    like: Yesterday | None = None,
    spare: bool = True,
) -> Shrunk:
    """The subject's model within the budget. `profile` goes into the metadata.

    like: an earlier artifact whose plan, codebooks and codes are taken over where they serve; nothing is then trained.
    train=False stops before fine-tuning; `fitted` is reused where it is at hand; rivals=False plans one candidate only;
    refine=False leaves the codes as they were fitted, which tells what a budget leads to in a fraction of the time;
    spare=False codes tables too that the hold-out does not miss.
    """
    _refuse_pooled(options)
    with single_threaded_torch():
        budget_bytes = budget.resolve(table_bytes=subject.table_bytes, dense_bytes=subject.dense_bytes("fp32"))
        trained = train and _can_train(subject, options)
        describe = partial(_describe, subject, budget, budget_bytes, options, profile)
        rank = partial(_rank, progress=progress, watch=watch, rivals=rivals, refine=refine, spare=spare)
        fitted, ranked, taken = rank(subject, like, fitted, budget_bytes, options, describe)
        (chosen, *lost), blank = ranked, describe(fitted.source)
        with watch.stage("compare plans"):
            model = chosen.as_model(subject)
            settle_precision(model, blank)
        taught = Taught(model, chosen)
        if trained and (taken is None or taken.reason):
            with watch.stage("fine-tune"):
                taught = _teach(subject, fitted, chosen, model, options, blank, progress)
                gained = not fitted.left_out or subject.crew.decide("whether training gains", taught.has_gained)
            if not gained:  # so nothing made up for the tables that were left out
                shared: dict[str, Any] = {"profile": profile, "progress": progress, "watch": watch, "rivals": rivals}
                whole = shrink(subject, budget, options, fitted=fitted.whole, refine=refine, spare=False, **shared)
                return replace(whole, taken=taken)
        metadata = complete_metadata(subject, blank, taught.candidate.specs, oov=options.oov)
    return Shrunk(
        taught.model,
        metadata,
        taught.candidate,
        tuple(lost),
        budget_bytes,
        fitted.source,
        fitted,
        taught.told,
        _warn(subject, fitted, chosen, options, budget_bytes, train=train, told=taught.told, taken=taken),
        taken,
        taught.before,
        taught.mapped,
    )


def _teach(
    subject: Subject,
    fitted: Fitted,
    chosen: Candidate,
    model: nn.Module,
    options: Options,
    blank: Metadata,
    progress: Progress,
) -> Taught:
    """The candidate's model after its training; as it is at ranks that do not lead, which need no trained state."""
    if not subject.crew.leads:
        return Taught(model, chosen)
    count, budget_bytes = make_counter(subject, blank, oov=options.oov), int(blank.plan["budget_bytes"])
    taught = teach_rows(subject, fitted, chosen, model, options, budget_bytes, count, progress=progress)
    settle_precision(taught.model, blank)
    return taught


def _rank(
    subject: Subject,
    like: Yesterday | None,
    fitted: Fitted | None,
    budget_bytes: int,
    options: Options,
    describe: Callable[[str], Metadata],
    *,
    progress: Progress,
    watch: Stopwatch,
    rivals: bool,
    refine: bool,
    spare: bool,
) -> tuple[Fitted, list[Candidate], TakenOver | None]:
    """The fit, the candidates from it, best first, and what came of an earlier artifact.

    That alone is taken where it serves and a fit reads large tables; else it is one candidate among others.
    """
    carried = None
    if like is not None:
        carried = carry_over(subject, like, options, describe, budget_bytes, progress=progress, watch=watch)
    if carried is not None and carried.candidate is not None and subject.large_bytes:
        with watch.stage("compare plans"):
            ranked = confirm(subject, [carried.candidate], options, progress=progress, measure_alone=rivals)
            reason = find_harm(subject, ranked[0], None, carried.told, options)
        if not reason:
            return carried.fitted, ranked, carried.told
        carried = replace(carried, told=replace(carried.told, reason=reason), candidate=None)
    fitted = fitted or fit_subject(subject, options, progress, watch, budget_bytes=budget_bytes)
    with watch.stage("tables not missed"):
        fitted = leave_idle(subject, fitted, options, budget_bytes) if spare else without_tables(fitted, ())
    count = make_counter(subject, describe(fitted.source), oov=options.oov)
    candidates = find_candidates(
        subject, fitted, budget_bytes, options, count, progress=progress, watch=watch, rivals=rivals, refine=refine
    )
    candidates += [] if carried is None else carried.beside(fitted)
    with watch.stage("compare plans"):
        ranked = confirm(subject, candidates, options, progress=progress, measure_alone=rivals)
        if carried is None:
            return fitted, ranked, None
        told = carried.told
        return fitted, *carried.settle(ranked, lambda own, fresh: find_harm(subject, own, fresh, told, options))


def _can_train(subject: Subject, options: Options) -> bool:
    """Whether there is something to train with."""
    return subject.hold_out is not None and subject.train is not None and options.epochs > 0


def _refuse_pooled(options: Options) -> None:
    if options.method == "sample-pooled":
        raise OptionError(
            "the method sample-pooled makes a new top too: only memrec-convert convert takes it, on the command line."
        )


def _describe(
    subject: Subject, budget: Budget, budget_bytes: int, options: Options, profile: dict[str, object], source: str
) -> Metadata:
    """The metadata of a file whose rows are weighted by `source`, but for its tables."""
    return Metadata(
        modules={},
        architecture=subject.architecture,
        dense=options.dense,
        compute=choose_compute(subject.architecture, options.dense),
        seed=options.seed,
        profile={"weights": source} | profile,
        plan=describe_wish(budget.text, budget_bytes, options.method),
    )


def _warn(
    subject: Subject,
    fitted: Fitted,
    chosen: Candidate,
    options: Options,
    budget_bytes: int,
    *,
    train: bool,
    told: FineTuning | None,
    taken: TakenOver | None,
) -> tuple[str, ...]:
    warnings = []
    if fitted.source == "displacement":
        warnings.append(NO_DATA_WARNING.format(fitted.fault or "no Adagrad state"))
        for site, fit, spec in zip(subject.sites, fitted.fits, chosen.specs, strict=False):
            if spec.form != "kept":
                warnings += warn_of_untrained(site.name, fit.survey.weights, fit.survey.centre)
    bare = [spec.form == "replaced" and not spec.stages and not spec.levels for spec in chosen.specs]
    warnings += describe_idle(subject, [one for one in fitted.idle or () if bare[one.number]])
    if all(spec.form == "kept" and spec.codec == "fp32" for spec in chosen.specs):
        warnings.append(f"the original fits the budget of {budget_bytes} bytes: every table stays at fp32")
    elif all(spec.form == "kept" for spec in chosen.specs):
        warnings.append("all tables fit the budget as plain rows: none is replaced")
    needed = {"training data (--data)": subject.train, "a hold-out (--val)": subject.hold_out}
    missing = [name for name, source in needed.items() if source is None]
    if train and options.epochs and taken is not None and not taken.reason:
        warnings.append(f"not fine-tuned: rows taken over from {taken.path} keep their codes")
    elif train and options.epochs and missing:
        warnings.append(f"no fine-tuning: it needs {' and '.join(missing)}")
    if told is not None and told.refused and not told.best_step:
        warnings.append(f"fine-tuning is not used, since its gain may be luck: on the hold-out, {told.refused}")
    return tuple(warnings)
