"""The published form of MEM-REC: all tables hashed but the smallest, fitted to the original rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from memrec_convert.conversion.inputs.subject import Progress
from memrec_convert.conversion.steps.assembly import make_module
from memrec_convert.conversion.steps.coding.search import Search
from memrec_convert.conversion.steps.outcome import Candidate
from memrec_convert.distill.curves import SAMPLE_ROWS
from memrec_convert.distill.hashed import HashedTable, fit_hashed
from memrec_convert.distill.rows import TensorRows, read_chunks
from memrec_convert.distill.survey import Sample, draw_sample
from memrec_convert.encoding import TableSpec
from memrec_convert.encoding.build import keep_rows
from memrec_convert.errors import OptionError
from memrec_convert.lookup import CompressedModule, HashGroup
from memrec_convert.planning.hashed import KEPT_SHARES, TableShape, plan_hashed, refuse_budget

HASHED_ELEMENTS = 1 << 26
"""Numbers (rows times dim) that hashed tokens are fitted to at most: beyond, a sample that is held in memory."""


def find_published_form(search: Search, progress: Progress) -> list[Candidate]:
    """All tables hashed but the smallest, with and without a centre; one candidate per share of kept tables."""
    subject, options, budget_bytes, count = search.subject, search.options, search.budget_bytes, search.count
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
    found = list[Candidate]()
    for done, specs in enumerate(plans):
        progress("fit hashed tokens", done, len(plans))
        distortion, modules, centred = fit_published(search, specs)
        kept = sum(spec.form == "kept" for spec in specs)
        name = f"MEM-REC, {len(specs) - kept} tables hashed, {'with' if centred else 'no'} centre"
        found.append(Candidate(name, modules, count(specs), distortion))
    progress("fit hashed tokens", len(plans), len(plans))
    return sorted(found, key=lambda candidate: candidate.distortion)[:2]


def fit_published(search: Search, specs: Sequence[TableSpec]) -> tuple[float, tuple[CompressedModule, ...], bool]:
    """Predicted distortion and modules of one hashed plan, and whether a centre is under them: whichever loses less."""
    samples = _sample_tables(search)
    fits = [_fit_tables(search, specs, samples, centred=centred) for centred in (False, True)]
    return min(fits, key=lambda fit: fit[0])


def _fit_tables(
    search: Search, specs: Sequence[TableSpec], samples: Mapping[int, Sample], *, centred: bool
) -> tuple[float, tuple[CompressedModule, ...], bool]:
    """Predicted distortion and modules of one hashed plan, fitted to these samples of large tables."""
    subject, fitted, options = search.subject, search.fitted, search.options
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


def _sample_tables(search: Search) -> dict[int, Sample]:
    """Where all rows together are too many, samples of the tables that stand for them, by number; else nothing."""
    sites, seed = search.subject.sites, search.options.seed
    share = HASHED_ELEMENTS / max(1, sum(site.rows * site.dim for site in sites))
    return {
        number: draw_sample(site.reader, fit.survey, size=max(SAMPLE_ROWS, int(site.rows * share)), seed=seed)
        for number, (site, fit) in enumerate(zip(sites, search.fitted.fits, strict=True))
        if share < 1 and site.rows > SAMPLE_ROWS
    }
