"""Finished alternatives within a budget, and which of them changes the model's answers least."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import nn

from memrec_convert.conversion.inputs.stopwatch import Stopwatch
from memrec_convert.conversion.inputs.subject import Progress, Subject
from memrec_convert.conversion.options import Options
from memrec_convert.conversion.steps.assembly import (
    CodeStore,
    assign_members,
    build_tables,
    make_module,
    replace_tables,
)
from memrec_convert.conversion.steps.fitting import Fitted
from memrec_convert.conversion.steps.hashed_base import NAME as HASHED_BASE
from memrec_convert.conversion.steps.hashed_base import HashedBase, try_hashed_base
from memrec_convert.distill.curves import SAMPLE_ROWS
from memrec_convert.distill.hashed import HashedTable, fit_hashed
from memrec_convert.distill.rows import TensorRows, read_chunks
from memrec_convert.distill.survey import Sample, draw_sample
from memrec_convert.encoding import TableSpec
from memrec_convert.encoding.build import keep_rows
from memrec_convert.errors import BudgetTooSmallError, OptionError
from memrec_convert.evaluation.scoring import mean_divergence, score_batches
from memrec_convert.lookup import CompressedModule, HashGroup
from memrec_convert.planning.hashed import KEPT_SHARES, TableShape, plan_hashed, refuse_budget
from memrec_convert.planning.membership import Membership
from memrec_convert.planning.search import CountFile, TablePlan, plan_tables

CONFIRM_SAMPLES = 131_072
"""Samples on which candidates are compared by their logits."""

HASHED_ELEMENTS = 1 << 26
"""Numbers (rows times dim) that hashed tokens are fitted to at most: beyond, a sample that is held in memory."""

PASSES_TO_CODE = 2
"""Passes over a large table for one candidate: what its likely ids lose, and the codes of all rows."""

_NAMES = {"auto": "rate-distortion plan", "codes": "codes alone", "int8": "int8 rows of hot ids + mean row"}


@dataclass(frozen=True)
class Candidate:
    """A finished alternative: its modules, exact bytes, predicted distortion and, given data, measured divergence.

    One that has no modules was planned only; `note` then says why it was not built.

    distortion is the summed weight * (change of the logit)**2 that the fit predicts; planned is what it was before ids
    were placed one by one and codes refined; price is that of a byte in the plan.
    """

    name: str
    modules: tuple[CompressedModule, ...]
    nbytes: int
    distortion: float
    price: float = 0.0
    planned: float = 0.0
    divergence: float | None = None
    note: str = ""
    members: Membership | None = field(default=None, compare=False, repr=False)

    @property
    def specs(self) -> tuple[TableSpec, ...]:
        """The spec of every table."""
        return tuple(module.spec for module in self.modules)

    def as_model(self, subject: Subject) -> nn.Module:
        """The subject's model with these modules in place."""
        return replace_tables(subject, self.modules)


def find_candidates(
    subject: Subject,
    fitted: Fitted,
    budget_bytes: int,
    options: Options,
    count: CountFile,
    *,
    progress: Progress,
    watch: Stopwatch,
    rivals: bool = True,
    refine: bool = True,
) -> list[Candidate]:
    """Finished alternatives within the budget; BudgetTooSmallError where the wanted method has none.

    refine=False leaves codes and codebooks as the fit made them: the same bytes, for somewhat more distortion; hashed
    tokens for ids at the mean row are then not tried.
    """
    if options.method == "memrec":
        with watch.stage("hashed fit"):
            return _fit_published_form(subject, fitted, budget_bytes, options, count, progress)
    methods = ("auto", "int8") if options.method == "auto" and rivals else (options.method,)
    store, found = CodeStore(options.workers, subject.work, refine), list[Candidate]()
    without_data = subject.hold_out is None and subject.train is None
    sparing = without_data and subject.large_bytes > 0
    reading = PASSES_TO_CODE * subject.large_bytes * (1 if sparing else len(methods))
    with subject.meter.stage("plan and code", reading, progress):
        for done, method in enumerate(methods):
            if not reading:
                progress("plan and code", done, len(methods))
            try:
                with watch.stage("plan"):
                    plan = plan_tables(
                        [fit.curves for fit in fitted.fits], budget_bytes, count, methods=method, memo=fitted.forms
                    )
            except BudgetTooSmallError:
                if not found:
                    raise
                continue
            if sparing and found:  # nothing can be measured, so the plan that predicts least is the one to build
                found.append(Candidate(_NAMES[method], (), plan.nbytes, plan.distortion, plan.price, plan.distortion))
                continue
            with watch.stage("code"):
                made = _make_candidate(subject, fitted, plan, store, budget_bytes, count, method, oov=options.oov)
            found += [made] if made is not None else []
            if method == "auto" and made is not None and rivals and refine:
                with watch.stage("hashed base"):
                    base = try_hashed_base(subject, fitted, plan, store, budget_bytes, options, count)
                found += [_name_base(base)] if base is not None else []
    if not reading:
        progress("plan and code", len(methods), len(methods))
    return found


def _make_candidate(
    subject: Subject,
    fitted: Fitted,
    plan: TablePlan,
    store: CodeStore,
    budget_bytes: int,
    count: CountFile,
    method: str,
    *,
    oov: str,
) -> Candidate | None:
    """The plan's tables, finished; None where the budget has no room for them."""
    members = assign_members(subject, fitted.fits, plan, store, budget_bytes, count)
    if members is None:
        return None
    modules, distortion = build_tables(subject, fitted.fits, members, store, oov=oov)
    return Candidate(
        _NAMES[method], tuple(modules), members.nbytes, distortion, plan.price, plan.distortion, members=members
    )


def _name_base(base: HashedBase) -> Candidate:
    note = "" if base.modules else f"not built: predicted to lose {base.ratio:.3f} times what the plan loses"
    return Candidate(
        HASHED_BASE,
        base.modules,
        base.nbytes,
        base.distortion,
        base.price,
        base.distortion,
        note=note,
        members=base.members,
    )


def confirm(
    subject: Subject,
    candidates: Sequence[Candidate],
    options: Options,
    *,
    progress: Progress,
    measure_alone: bool = True,
) -> list[Candidate]:
    """The candidates by divergence from the original on the hold-out (else a sample of the training log), best first.

    Without data, by the distortion that the fit predicts.
    """
    source = subject.hold_out or subject.train
    if source is None or (len(candidates) == 1 and not measure_alone):
        return sorted(candidates, key=lambda candidate: (not candidate.modules, candidate.distortion))
    # Held, since a caller's loader may shuffle anew each time, and the logits are compared sample by sample.
    batches = list(source.stream(limit=CONFIRM_SAMPLES))
    if source.mark:
        original = subject.score_original(source, options.workers, limit=CONFIRM_SAMPLES)
    else:
        workers = subject.scoring_workers(options.workers)
        original = score_batches(subject.model, batches, subject.forward, workers=workers)
    scored, planned = list[Candidate](), [candidate for candidate in candidates if not candidate.modules]
    for number, candidate in enumerate(candidates):
        if not candidate.modules:
            continue
        progress("compare plans", number, len(candidates))
        logits = score_batches(
            candidate.as_model(subject), batches, subject.forward, workers=subject.scoring_workers(options.workers)
        )
        scored.append(replace(candidate, divergence=mean_divergence(original, logits)))
    progress("compare plans", len(candidates), len(candidates))
    return [*sorted(scored, key=lambda candidate: candidate.divergence or 0.0), *planned]


def _fit_published_form(
    subject: Subject, fitted: Fitted, budget_bytes: int, options: Options, count: CountFile, progress: Progress
) -> list[Candidate]:
    """All tables hashed but the smallest, with and without a centre; one candidate per share of kept tables."""
    shapes = [TableShape(s.rows, s.dim, options.may_replace(s.rows, s.nbytes)) for s in subject.sites]
    if not any(shape.replaceable for shape in shapes):
        raise OptionError(
            f"the method memrec hashes tables of at least {options.threshold}, and none of the {len(shapes)} tables "
            "is so large; lower the threshold, or choose another method."
        )
    sizes = {"k": options.k, "k_weights": options.k_weights}
    plans = {
        specs: share
        for share in reversed(KEPT_SHARES)
        if (specs := plan_hashed(shapes, budget_bytes, count, kept_share=share, **sizes)) is not None
    }
    if not plans:
        raise refuse_budget(shapes, budget_bytes, count, **sizes)
    found, samples = [], _sample_tables(subject, fitted, options)
    for done, specs in enumerate(plans):
        progress("fit hashed tokens", done, len(plans))
        fits = [
            _fit_hashed_tables(subject, fitted, specs, options, samples, centred=centred) for centred in (False, True)
        ]
        distortion, modules, centred = min(fits, key=lambda fit: fit[0])
        kept = sum(spec.form == "kept" for spec in specs)
        name = f"MEM-REC, {len(specs) - kept} tables hashed, {'with' if centred else 'no'} centre"
        found.append(Candidate(name, modules, count(specs), distortion))
    progress("fit hashed tokens", len(plans), len(plans))
    return sorted(found, key=lambda candidate: candidate.distortion)[:2]


def _fit_hashed_tables(
    subject: Subject,
    fitted: Fitted,
    specs: Sequence[TableSpec],
    options: Options,
    samples: Mapping[int, Sample],
    *,
    centred: bool,
) -> tuple[float, tuple[CompressedModule, ...], bool]:
    """Predicted distortion and modules of one hashed plan, fitted to these samples of large tables."""
    tables: dict[int, HashedTable] = {}
    for number, (site, spec, fit, weight) in enumerate(
        zip(subject.sites, specs, fitted.fits, fitted.weights, strict=True)
    ):
        if spec.hashing is not None:
            sensitivity = float(weight.metric.square().sum()) / site.dim  # mean diagonal of G = A A^T
            centre = fit.survey.centre if centred else torch.zeros(site.dim)
            if number in samples:
                sample = samples[number]
                rows, weights = TensorRows(sample.rows.residual + fit.survey.centre), sample.rows.weights.numpy()
                tables[number] = HashedTable(
                    rows, spec.hash_seed, centre, weights * np.float32(sensitivity), ids=sample.numbers
                )
            else:
                weights = (weight.rows[: site.rows] * np.float32(sensitivity)).astype(np.float32)
                tables[number] = HashedTable(site.reader, spec.hash_seed, centre, weights)
    groups: dict[str, HashGroup] = {}
    distortion = 0.0
    for hashing in {spec.hashing.group: spec.hashing for spec in specs if spec.hashing is not None}.values():
        members = [n for n in tables if specs[n].hashing == hashing]
        hashed = fit_hashed(hashing, [tables[n] for n in members])
        groups[hashing.group] = HashGroup(hashing)
        for name, tensor in hashed.tensors.items():
            setattr(groups[hashing.group], name, tensor)
        for n, distances in zip(members, hashed.distances, strict=True):
            distortion += float((tables[n].weights.astype(np.float64) * distances).sum())
    modules = list[CompressedModule]()
    for number, (site, spec) in enumerate(zip(subject.sites, specs, strict=True)):
        if spec.hashing is None:
            distortion += fitted.fits[number].curves.kept["int8"]
            modules.append(make_module(site, spec, keep_rows(spec, read_chunks(site.reader)), oov=options.oov))
        else:
            frame = torch.cat([torch.ones(1), tables[number].centre])
            group = groups[spec.hashing.group]
            modules.append(make_module(site, spec, {"frame": frame}, oov=options.oov, group=group))
    return distortion, tuple(modules), centred


def _sample_tables(subject: Subject, fitted: Fitted, options: Options) -> dict[int, Sample]:
    """Where all rows together are too many, samples of the tables that stand for them, by number; else nothing."""
    share = HASHED_ELEMENTS / max(1, sum(site.rows * site.dim for site in subject.sites))
    return {
        number: draw_sample(site.reader, fit.survey, size=max(SAMPLE_ROWS, int(site.rows * share)), seed=options.seed)
        for number, (site, fit) in enumerate(zip(subject.sites, fitted.fits, strict=True))
        if share < 1 and site.rows > SAMPLE_ROWS
    }
