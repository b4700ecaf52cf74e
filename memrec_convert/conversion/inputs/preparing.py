"""The inputs of a conversion of files, opened and checked against each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from memrec_convert.checkpoint import READINGS, SourceModel, digest_files
from memrec_convert.clicklog import LogSchema, Profile, load_profile, refuse_leak, save_profile, take_profile
from memrec_convert.conversion.inputs.from_checkpoint import (
    LogBatches,
    LogChoices,
    LogPaths,
    facts_of,
    make_schema,
    make_subject,
    open_batches,
    read_checked,
    require_labels,
    settle_stated,
)
from memrec_convert.conversion.inputs.from_class import OwnClass, OwnModel, make_own_subject, own_names, read_own_source
from memrec_convert.conversion.inputs.readings import refuse_doubtful
from memrec_convert.conversion.inputs.stopwatch import Stopwatch
from memrec_convert.conversion.inputs.subject import Progress, Subject
from memrec_convert.conversion.inputs.workspace import Workspace
from memrec_convert.conversion.options import NO_EXTRAS, Extras, Options
from memrec_convert.errors import LogError, ProfileLeakError, RecipeError
from memrec_convert.recipe import Recipe, read_recipe
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


def prepare(
    path: Path,
    budget: str | int | None,
    recipe: str | Path | None,
    data: LogPaths | None,
    val: LogPaths | None,
    eval: LogPaths | None,
    profile: str | Path | None,
    choices: Mapping[str, Any],
    progress: Progress,
    needs_budget: bool = True,
    extras: Extras = NO_EXTRAS,
    space: Workspace | None = None,
    own: OwnClass | None = None,
) -> Job:
    """Opens everything. Without `space`, all tables are held in memory, and nothing is kept.

    `own`: the class of the network, where its layout is none that is known.
    """
    watch = Stopwatch()
    read = read_recipe(recipe) if recipe is not None else Recipe()
    budget = budget if budget is not None else read.budget
    if budget is None and needs_budget:
        raise RecipeError("no budget was given; add --budget, such as 48MB, 100x or llc.")
    if budget is not None:
        parse_budget(budget)
    options, log_choices, pairs = resolve(read, choices)
    if options.tables_only and (val is not None or eval is not None):
        raise LogError("tables alone have no logits to measure; leave out --val and --eval, or --tables-only.")
    if own is not None:
        _refuse_beside_class(options, pairs, profile, extras)
    extras.check(options, data=data is not None, val=val is not None, evaluation=eval is not None)
    with watch.stage("read"):
        source, model = _read_source(path, own, options, log_choices, pairs)
        names = own_names(source) if own is not None else [table.name for table in source.tables]
        schema = make_schema(source.architecture, names, log_choices)
        grouped = replace(schema, group=extras.group)
        train, hold_out, judged = (
            open_batches(one, wanted, options.batch_size) if one is not None else None
            for one, wanted in ((data, schema), (val, schema), (eval, grouped))
        )
        if judged is not None:
            require_labels(judged)
        doubts: tuple[str, ...] = ()
        if own is None:  # of an own class nothing is assumed that another value could be tried for
            source, doubts = refuse_doubtful(source, log_choices, pairs, hold_out, judged, workers=options.workers)
    with watch.stage("profile"):
        counted = _find_profile(train, schema, profile, options, progress)
        _refuse_leaks(counted, train, hold_out, judged)
    with watch.stage("read"):
        shared: dict[str, Any] = {"hold_out": hold_out, "allow_nonfinite": options.allow_nonfinite}
        if model is not None:
            subject, warnings = make_own_subject(model, train=train, judged=judged, **shared)
        else:
            placed = space.make_choices(source, train, counted, options, progress) if space is not None else {}
            learned = None if options.tables_only else train
            subject, warnings = make_subject(source, train=learned, profile=counted, **shared, **placed)
    return Job(source, subject, counted, judged, options, budget, (*source.warnings, *warnings, *doubts), watch)


def _read_source(
    path: Path, own: OwnClass | None, options: Options, choices: LogChoices, pairs: str | None
) -> tuple[SourceModel, OwnModel | None]:
    """The checkpoint, checked; and the instance that it fills, where the network is of the caller's own class."""
    if own is not None:
        return read_own_source(path, own, choices)
    transform, facts = choices.dense_transform, choices.facts
    return read_checked(
        path, pairs=pairs, dense_transform=transform, facts=facts, tables_only=options.tables_only
    ), None


def _refuse_beside_class(options: Options, pairs: str | None, profile: str | Path | None, extras: Extras) -> None:
    """RecipeError for choices that say how a known network is read."""
    for given, name in (
        (options.tables_only, "--tables-only"),
        (pairs, "--pairs"),
        (profile, "--profile"),
        (extras.ablation, "--ablation"),
    ):
        if given:
            raise RecipeError(f"{name} is for networks that are read from the file alone; leave it out, or --model.")


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


def resolve(recipe: Recipe, choices: Mapping[str, Any]) -> tuple[Options, LogChoices, str | None]:
    """Options and log choices: what the caller gave, else what the recipe says, else the defaults."""
    known = {f.name for f in fields(Options)} | {"columns", "id_map", "modulus", *READINGS}
    for name in choices:
        if name not in known | {"assume"}:
            near = get_close_matches(name, known, n=1)
            raise RecipeError(f"there is no option {name!r}" + (f"; did you mean {near[0]!r}?" if near else "."))
    given = {name: value for name, value in choices.items() if value is not None}
    from_recipe = {name: value for name in known if (value := getattr(recipe, name, None)) not in (None, {})}
    from_recipe |= {name: value for name in ("modulus", "id_map") if (value := getattr(recipe.data, name)) is not None}
    merged = from_recipe | given
    merged |= settle_stated(given, given.pop("assume", None))
    merged["threshold"] = str(merged.get("threshold", Options.threshold))
    options = Options(**{f.name: merged[f.name] for f in fields(Options) if f.name in merged})
    log_choices = LogChoices(
        columns=merged.get("columns", {}),
        oov=options.oov,
        dense_transform=merged.get("dense_transform"),
        id_map=Path(merged["id_map"]) if "id_map" in merged else None,
        modulus=merged.get("modulus"),
        facts=facts_of(merged),
    )
    return options, log_choices, merged.get("pairs")


def _find_profile(
    train: LogBatches | None, schema: LogSchema, path: str | Path | None, options: Options, progress: Progress
) -> Profile | None:
    if path is not None and Path(path).exists():
        return load_profile(path, schema)
    if train is None:
        if path is not None:
            raise LogError(f"there is no profile {path}, and no training data to take it from; add --data.")
        return None
    progress("profile", 0, 1)
    profile = take_profile(train.log, workers=options.workers)
    progress("profile", 1, 1)
    if path is not None:
        save_profile(profile, path)
    return profile


def profile_facts(profile: Profile | None) -> dict[str, object]:
    """What an artifact says of the profile that its plan came from."""
    if profile is None:
        return {"digest": None, "files": [], "samples": 0}
    files = list(profile.digest.files) if len(profile.digest.files) <= MOST_FILE_DIGESTS else []
    return {"digest": profile.digest.combined, "files": files, "samples": profile.samples}


def source_facts(source: SourceModel, watch: Stopwatch) -> dict[str, Any]:
    """What a report says of the checkpoint."""
    with watch.stage("digest"):
        digest = digest_files(source.files)
    return {
        "layout": source.layout,
        "container": source.container,
        "file_bytes": source.file_bytes,
        "digest": digest,
        "assumed": source.assumed,
    }


def plain_options(options: Options) -> dict[str, Any]:
    """Options that differ from their defaults, threads left out: they change nothing."""
    return {
        f.name: getattr(options, f.name)
        for f in fields(Options)
        if f.name != "threads" and getattr(options, f.name) != f.default
    }
