"""The inputs of a conversion of files, opened and checked against each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from memrec_convert.checkpoint import READINGS, Facts, SourceModel
from memrec_convert.clicklog import (
    LogSchema,
    Profile,
    Sensitivity,
    load_profile,
    read_counts,
    refuse_leak,
    save_profile,
    take_profile,
)
from memrec_convert.conversion.inputs.from_checkpoint import (
    LogBatches,
    LogChoices,
    make_schema,
    make_subject,
    open_batches,
    read_checked,
    read_choices,
    require_labels,
)
from memrec_convert.conversion.inputs.from_class import OwnClass, OwnModel, make_own_subject, own_names, read_own_source
from memrec_convert.conversion.inputs.metering import Stopwatch
from memrec_convert.conversion.inputs.readings import refuse_doubtful
from memrec_convert.conversion.inputs.subject import Progress, Subject
from memrec_convert.conversion.inputs.workspace import Workspace, mark_model
from memrec_convert.conversion.options import (
    NO_BUDGET,
    NO_EXTRAS,
    Extras,
    InputChoices,
    LogPaths,
    Options,
    ReadingChoices,
    make_options,
    names_of,
    refuse_unknown,
)
from memrec_convert.conversion.ranks.joining import look_at_files
from memrec_convert.errors import LogError, OptionError, ProfileLeakError
from memrec_convert.evaluation.goal import CLICKS, Goal
from memrec_convert.evaluation.objectives import BINARY
from memrec_convert.models import read_table_inputs
from memrec_convert.parallel import ALONE
from memrec_convert.recipe import read_recipe
from memrec_convert.remote import RemotePath, as_source, at_hand
from memrec_convert.units import parse_budget

MOST_FILE_DIGESTS = 64
"""Digests of single log files that an artifact carries; beyond that it carries the joint one alone."""


def stay_silent(_stage: str, _done: int, _total: int) -> None:
    """The progress of callers who want none."""


@dataclass(frozen=True)
class Job:
    """A conversion, its inputs opened and checked against each other."""

    source: SourceModel
    subject: Subject
    profile: Profile | None
    judged: LogBatches | None
    options: Options
    budget: str | int | None
    warnings: tuple[str, ...]
    watch: Stopwatch
    progress: Progress


@contextmanager
def source_at_hand(
    path: str | Path, budget: str | int | None, choices: Mapping[str, Any], beside: Path | None
) -> Iterator[Path]:
    """The checkpoint's local path. A URL is copied (see `at_hand`), once it is known that the options can be."""
    if isinstance(as_source(path), RemotePath):
        resolve(cast("InputChoices", {name: one for name, one in choices.items() if name in names_of(InputChoices)}))
        if budget is not None:
            parse_budget(budget)
    with at_hand(path, choices.get("work"), beside, choices.get("progress") or stay_silent) as local:
        yield local


def prepare(
    path: str | Path,
    budget: str | int | None,
    choices: InputChoices,
    *,
    eval: LogPaths | None = None,
    needs_budget: bool = True,
    extras: Extras = NO_EXTRAS,
    space: Workspace | None = None,
    own: OwnClass | None = None,
    goal: Goal = CLICKS,
    centres: Mapping[str, Tensor] | None = None,
) -> Job:
    """Opens everything. Without `space`, all tables are held in memory, and nothing is kept.

    `own`: the class of the network, where its layout is none that is known; `goal`: what that is for; `centres` of
    large tables, as `make_subject` has them.
    """
    watch, progress = Stopwatch(), choices.get("progress") or stay_silent
    data, val = choices.get("data"), choices.get("val")
    options, log_choices, stated = resolve(choices)
    _check_counts(choices)
    budget = stated if budget is None else budget
    _check_budget(budget, needed=needs_budget)
    if options.tables_only and (val is not None or eval is not None):
        raise LogError("tables alone have no logits to measure; leave out --val and --eval, or --tables-only.")
    if own is not None:
        _refuse_beside_class(options, log_choices.facts, choices, extras)
    if extras.control and not goal.is_plain:
        raise OptionError("--control measures the AUC of clicks; leave it out, or --objective and --metric.")
    extras.check(options, data=data is not None, val=val is not None, evaluation=eval is not None)
    with watch.stage("read"):
        source, model = _read_source(path, own, options, log_choices, space)
        names = own_names(source) if own is not None else [table.name for table in source.tables]
        schema = make_schema(source.architecture, names, log_choices)
        schema = replace(schema, any_labels=goal.objective is not BINARY)
        train, hold_out, judged = _open_logs(data, val, eval, schema, extras.group, options.batch_size)
        doubts: tuple[str, ...] = ()
        if own is None:  # of an own class nothing is assumed that another value could be tried for
            source, doubts = refuse_doubtful(source, log_choices, hold_out, judged, workers=options.workers)
    with watch.stage("profile"):
        inputs = dict(zip(names, read_table_inputs(source.architecture, len(names)), strict=True))
        counted = _find_profile(train, schema, inputs, choices, options, progress, space)
        _refuse_leaks(counted, train, hold_out, judged)
    with watch.stage("read"):
        shared: dict[str, Any] = {"hold_out": hold_out, "allow_nonfinite": options.allow_nonfinite}
        if model is not None:
            subject, warnings = make_own_subject(model, train=train, judged=judged, goal=goal, **shared)
        else:
            placed = space.make_choices(source, train, counted, options, progress) if space is not None else {}
            learned = None if options.tables_only else train
            shared |= {"workers": options.workers, "centres": centres}
            subject, warnings = make_subject(source, train=learned, profile=counted, **shared, **placed)
        watch.meter = subject.meter
        subject = _keep_felt(subject, source, counted, choices.get("profile"))
    warnings = (*source.warnings, *warnings, *doubts, *_warn_of_counts(counted))
    return Job(source, subject, counted, judged, options, budget, warnings, watch, progress)


def _check_budget(budget: str | int | None, *, needed: bool) -> None:
    """OptionError where it is missing, or no budget."""
    if budget is not None:
        parse_budget(budget)
    elif needed:
        raise OptionError(NO_BUDGET)


def _read_source(
    path: str | Path, own: OwnClass | None, options: Options, choices: LogChoices, space: Workspace | None
) -> tuple[SourceModel, OwnModel | None]:
    """The checkpoint, checked; and the instance that it fills, where the network is of the caller's own class."""
    model = None
    if own is not None:
        source, model = read_own_source(Path(path), own, choices)
    else:
        crew = ALONE if space is None else space.crew
        shared: dict[str, Any] = {"tables_only": options.tables_only, "workers": options.workers, "crew": crew}
        source = read_checked(path, facts=choices.facts, **shared)
    if space is not None:
        space.begin_digest(source)
    return source, model


def _open_logs(
    data: LogPaths | None,
    val: LogPaths | None,
    eval: LogPaths | None,
    schema: LogSchema,
    group: str | None,
    batch_size: int,
) -> tuple[LogBatches | None, LogBatches | None, LogBatches | None]:
    """The training data, the hold-out and the evaluation data, of which the last two may have groups."""
    grouped = replace(schema, group=group)
    train = None if data is None else open_batches(data, schema, batch_size)
    hold_out = None if val is None else _open_hold_out(val, schema, grouped, batch_size, alone=eval is None)
    judged = None if eval is None else open_batches(eval, grouped, batch_size)
    if judged is not None:
        require_labels(judged)
    return train, hold_out, judged


def _open_hold_out(val: LogPaths, schema: LogSchema, grouped: LogSchema, batch_size: int, *, alone: bool) -> LogBatches:
    """The hold-out with the groups of its rows; it may lack the column only beside evaluation data that has it."""
    try:
        return open_batches(val, grouped, batch_size)
    except LogError:
        if alone:
            raise
        return open_batches(val, schema, batch_size)


def _refuse_beside_class(options: Options, facts: Facts, choices: InputChoices, extras: Extras) -> None:
    """OptionError for choices that say how a known network is read."""
    for given, name in (
        (options.tables_only, "--tables-only"),
        (facts.pairs, "--assume pairs"),
        (choices.get("profile"), "--profile"),
        (choices.get("counts"), "--counts"),
        (extras.ablation, "--ablation"),
    ):
        if given:
            raise OptionError(f"{name} is for networks that are read from the file alone; leave it out, or --model.")


def _refuse_leaks(
    counted: Profile | None, train: LogBatches | None, hold_out: LogBatches | None, judged: LogBatches | None
) -> None:
    """ProfileLeakError where what must be held out was trained on, or what measures has chosen."""
    for seen in {digest for digest in (counted and counted.digest, train and train.log.digest()) if digest}:
        for one in (hold_out, judged):
            if one is not None:
                refuse_leak(seen, one.log.digest())
    if hold_out is not None and judged is not None:
        shared = set(hold_out.log.digest().files) & set(judged.log.digest().files)
        if shared:
            raise ProfileLeakError(
                f"the evaluation and the hold-out share {len(shared)} of their files: what chose the plan cannot "
                "measure it; give --val and --eval different files."
            )


def resolve(choices: InputChoices) -> tuple[Options, LogChoices, str | int | None]:
    """Options, log choices and the recipe's budget: what the caller gave, else what the recipe says, else defaults."""
    refuse_unknown(choices, InputChoices)
    recipe = choices.get("recipe")
    said = read_recipe(recipe).said() if recipe is not None else {}
    given = said | {name: value for name, value in choices.items() if value is not None}
    options = make_options({name: given[name] for name in Options.model_fields if name in given})
    reading = cast("ReadingChoices", {name: given[name] for name in names_of(ReadingChoices) if name in given})
    facts = Facts(**{name: said[name] for name in READINGS if name in said})
    return options, read_choices(reading, oov=options.oov, facts=facts), said.get("budget")


def _check_counts(choices: InputChoices) -> None:
    """OptionError where counts come without the samples that they were counted in, or these without counts."""
    counts, samples = choices.get("counts"), choices.get("samples")
    if (counts is None) != (samples is None):
        given, missing = ("--samples", "--counts PATH") if counts is None else ("--counts", "--samples N")
        raise OptionError(
            f"{given} needs {missing}: lookups, and the rows of the log that they were counted in; add it."
        )
    if samples is not None and (type(samples) is not int or not 0 < samples < 1 << 62):
        raise OptionError(f"samples is {samples!r}; expected the rows of the log that was counted, 1 to 2^62 - 1.")


def _find_profile(
    train: LogBatches | None,
    schema: LogSchema,
    inputs: Mapping[str, int],
    choices: InputChoices,
    options: Options,
    progress: Progress,
    space: Workspace | None,
) -> Profile | None:
    """The stored profile, else that of the counts, else the log's, which is then stored; None without any."""
    path, counts, samples = choices.get("profile"), choices.get("counts"), choices.get("samples")
    crew = ALONE if space is None else space.crew
    if train is not None:
        crew.agree("the logs", lambda: look_at_files(train.log.paths))
        train.log.digest(crew)
    if path is not None and Path(path).exists():
        return load_profile(path, schema)
    if counts is None and train is None:
        if path is not None:
            raise LogError(f"there is no profile {path}, and nothing to take it from; add --data or --counts.")
        return None
    progress("profile", 0, 1)
    if counts is not None:
        profile = read_counts(counts, schema, inputs, samples=samples or 0)
    elif train is not None:
        profile = take_profile(train.log, workers=options.workers, crew=crew)
    progress("profile", 1, 1)
    if path is not None:
        save_profile(profile, path)
    return profile


def _warn_of_counts(profile: Profile | None) -> tuple[str, ...]:
    """A warning where nothing can tell test data from what was counted."""
    if profile is None or profile.digest.files:
        return ()
    return (
        "the lookups were counted elsewhere (--counts), and counts hold no digest of their log: evaluation data that "
        "they count cannot be refused; evaluate on rows that they leave out",
    )


def _keep_felt(subject: Subject, source: SourceModel, profile: Profile | None, path: str | Path | None) -> Subject:
    """The subject with what the profile knows of this model's sensitivities, or as one that will tell the profile.

    As it is without one, or where none is kept.
    """
    if profile is None or path is None:
        return subject
    fits = [len(one.squares) for one in profile.sensitivities] == [site.rows for site in subject.sites]
    if fits and profile.model == mark_model(source):
        return replace(subject, felt=profile.sensitivities)

    def keep(found: Sequence[Sensitivity]) -> None:
        save_profile(replace(profile, sensitivities=tuple(found), model=mark_model(source)), Path(path))

    return replace(subject, keep_felt=keep)


def profile_facts(profile: Profile | None) -> dict[str, object]:
    """What an artifact says of the profile that its plan came from."""
    if profile is None:
        return {"digest": None, "files": [], "samples": 0}
    files = list(profile.digest.files) if len(profile.digest.files) <= MOST_FILE_DIGESTS else []
    return {"digest": profile.digest.combined, "files": files, "samples": profile.samples}


def source_facts(source: SourceModel, watch: Stopwatch) -> dict[str, Any]:
    """What a report says of the checkpoint."""
    with watch.stage("digest"):
        digest = source.digest.hex()
    return {
        "layout": source.layout,
        "container": source.container,
        "file_bytes": source.file_bytes,
        "digest": digest,
        "assumed": source.assumed,
    }
