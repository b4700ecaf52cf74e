"""The Report of a conversion, from what its stages found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from memrec_convert.artifact.metadata import Metadata, format_measured
from memrec_convert.conversion.inputs.metering import Stopwatch
from memrec_convert.conversion.inputs.preparing import Job
from memrec_convert.conversion.inputs.readings import warn_of_auc
from memrec_convert.conversion.inputs.subject import Subject
from memrec_convert.conversion.measuring.figures import compare_figures, report_ablation, report_control, report_groups
from memrec_convert.conversion.measuring.judging import Judgement
from memrec_convert.conversion.steps.outcome import Candidate, GateResult, Shrunk
from memrec_convert.encoding import count_bytes, count_table_bytes, describe_form
from memrec_convert.finetune.loop import FineTuning
from memrec_convert.lookup import CompressedModule, find_tables, spread_state
from memrec_convert.lookup.key_lines import count_line_bytes
from memrec_convert.report import (
    Alternative,
    ArtifactFile,
    ArtifactSizes,
    Provenance,
    Report,
    Sizes,
    SourceSizes,
    TableReport,
)
from memrec_convert.results import to_plain
from memrec_convert.version import __version__


def make_report(
    subject: Subject,
    shrunk: Shrunk,
    *,
    path: Path | None,
    nbytes: int,
    source: Mapping[str, Any],
    options: Mapping[str, Any],
    figures: Mapping[str, Any],
    evaluation: Mapping[str, Any] | None,
    watch: Stopwatch,
    warnings: Sequence[str],
    gate: GateResult | None = None,
) -> Report:
    """Everything worth saying. `source` holds layout, container, file bytes, digest and what was assumed; `figures` the
    report's fields that an evaluation fills.
    """
    dense = subject.dense_bytes(shrunk.metadata.dense)
    tables = table_bytes(shrunk.chosen)
    profile = shrunk.metadata.profile
    return Report(
        artifact=ArtifactFile(str(path) if path else "(in memory)", nbytes),
        budget_bytes=shrunk.budget_bytes,
        weights=shrunk.weights,
        tables=report_tables(subject, shrunk.chosen),
        sizes=Sizes(
            SourceSizes(subject.table_bytes, subject.dense_bytes("fp32"), int(source.get("file_bytes", 0))),
            ArtifactSizes(tables, dense, nbytes - tables - dense),
        ),
        provenance=Provenance(
            version=__version__,
            layout=str(source["layout"]),
            container=str(source["container"]),
            source_digest=source.get("digest"),
            profile_digest=profile.get("digest"),
            seed=shrunk.metadata.seed,
            options={**options, **subject.goal.describe()},
        ),
        **figures,
        evaluation=evaluation,
        serving_bytes=count_serving_bytes(shrunk.model),
        plan=describe_plan(shrunk) | describe_gate(gate) | ({"like": to_plain(shrunk.taken)} if shrunk.taken else {}),
        alternatives=tuple(describe_alternative(one, shrunk.chosen) for one in shrunk.lost),
        fine_tune=describe_training(shrunk.fine_tuning),
        architecture=subject.architecture or {},
        assumed=tuple(source.get("assumed", ())),
        seconds=watch.rounded(),
        seconds_reading=watch.rounded_reading(),
        warnings=tuple(warnings),
    )


def report_tables(subject: Subject, chosen: Candidate) -> tuple[TableReport, ...]:
    """Form, bytes and share of lookups of every table; the bytes of a shared group go to its tables by their rows."""
    hashed_rows: dict[str, int] = {}
    for module in chosen.modules:
        if module.spec.hashing is not None:
            group = module.spec.hashing.group
            hashed_rows[group] = hashed_rows.get(group, 0) + module.spec.rows
    reports = []
    for number, (site, module) in enumerate(zip(subject.sites, chosen.modules, strict=True)):
        spec = module.spec
        own = count_bytes(spec.tensors().values())
        if spec.hashing is not None:
            shared = count_bytes(spec.hashing.tensors().values())
            own += shared * spec.rows // hashed_rows[spec.hashing.group]
        reports.append(
            TableReport(
                name=site.name,
                method=name_method(module),
                rows=site.rows,
                dim=site.dim,
                bytes_before=site.nbytes,
                bytes_after=own,
                form=describe_form(spec),
                lookup_share=None if subject.counts is None else share_lookups(module, subject.counts[number]),
            )
        )
    return tuple(reports)


def name_method(module: CompressedModule) -> str:
    """kept, hashed, codes, rows or mean: what holds most of a table's detail."""
    spec = module.spec
    if spec.form == "kept":
        return f"kept {spec.codec}"
    if spec.hashing is not None and not spec.levels:
        return "hashed"
    if spec.stages:
        return "codes"
    return "rows" if spec.levels else "mean"


def share_lookups(module: CompressedModule, counts: np.ndarray) -> dict[str, float]:
    """Per form its share of the profile's lookups."""
    total = max(1, int(counts.sum()))
    seen = np.flatnonzero(counts)
    names = module.form_names()  # two levels of stored rows have one
    shares = dict.fromkeys(names, 0.0)
    forms = module.forms_of_rows() if 4 * len(seen) >= len(counts) else None
    for start in range(0, len(seen), 1 << 18):
        ids = seen[start : start + (1 << 18)]
        at = torch.from_numpy(ids)
        form = module.form_of(at) if forms is None else forms[at]
        found = np.bincount(form.numpy(), weights=counts[ids], minlength=len(names))
        for name, lookups in zip(names, found, strict=True):
            shares[name] += float(lookups) / total
    return {name: round(share, 6) for name, share in shares.items()}


def table_bytes(chosen: Candidate) -> int:
    """Bytes of all tables' tensors, shared groups once."""
    return count_table_bytes(module.spec for module in chosen.modules)


def count_serving_bytes(model: nn.Module) -> int:
    """Bytes of the loaded model's tensors, each storage once, and of the key lines that the kernel adds to them."""
    seen: dict[int, int] = {}
    for tensor in spread_state(model)[0].values():
        seen[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
    specs = [table.spec for table in find_tables(model)]
    return sum(seen.values()) + count_line_bytes(specs)


def describe_plan(shrunk: Shrunk) -> dict[str, Any]:
    """What decided the forms: the candidate, its predicted bytes and distortion, and the price of a byte."""
    chosen = shrunk.chosen
    return {
        "chosen": chosen.name,
        "predicted_bytes": chosen.nbytes,
        "distortion": chosen.distortion,
        "price_per_byte": chosen.price,
        "divergence": chosen.divergence,
        **shrunk.metadata.plan,
        "budget": str(shrunk.metadata.plan["budget"]).strip(),
    }


def describe_gate(gate: GateResult | None) -> dict[str, Any]:
    """The quality gate's finding, as part of the plan; nothing where there was no gate."""
    if gate is None:
        return {}
    return {
        "gate": {
            **({} if gate.what == "AUC drop" else {"metric": gate.what}),
            "bound": gate.bound,
            "drop": gate.drop,
            "ci95": list(gate.interval),
            "judged_on": gate.judged_on,
            "samples": gate.samples,
            "supported": gate.supported,
            "says": gate.describe(),
            "tried": [{"budget_bytes": nbytes, "drop": drop} for nbytes, drop in gate.tried],
        }
    }


def describe_alternative(lost: Candidate, chosen: Candidate) -> Alternative:
    """A plan that lost, and by how much."""
    if lost.note:
        return Alternative(lost.name, lost.nbytes, None, lost.note)
    if lost.divergence is None or chosen.divergence is None:
        return Alternative(lost.name, lost.nbytes, lost.distortion, "predicted distortion; no data to measure on")
    factor = lost.divergence / chosen.divergence if chosen.divergence > 0 else float("inf")
    note = (
        f"diverges {factor:.2f} times as much from the original"
        if np.isfinite(factor)
        else "diverges from the original; the chosen plan does not"
    )
    return Alternative(lost.name, lost.nbytes, lost.divergence, note)


def describe_training(training: FineTuning | None) -> dict[str, Any] | None:
    """History and gain of fine-tuning, None where there was none."""
    if training is None:
        return None
    return {
        "metric": training.metric,
        "steps": training.steps,
        "planned_steps": training.planned_steps,
        "best_step": training.best_step,
        "gain": training.gain,
        "rate": training.rate,
        **({"dense_rate": training.dense_rate} if training.dense_rate else {}),
        **({"recoded": training.recoded} if training.recoded is not None else {}),
        **({"refused": training.refused} if training.refused else {}),
        "history": [{"step": step, "score": score} for step, score in training.history],
    }


def report_figures(judgement: Judgement | None) -> dict[str, Any]:
    """The fields of a report that hold what was measured; none without an evaluation."""
    if judgement is None:
        return {}
    figures = compare_figures(judgement.before, judgement.after, judgement.difference)
    figures["slices"] = judgement.slices
    if judgement.groups is not None:
        figures["groups"] = report_groups(judgement.groups, str(judgement.group_column))
    if judgement.ablation is not None:
        figures["ablation"] = report_ablation(judgement.ablation)
    if judgement.control is not None:
        figures["control"] = report_control(judgement.control)
    return figures


def with_measured(metadata: Metadata, judgement: Judgement | None) -> Metadata:
    """The metadata with the figures of the evaluation, as numbers of fixed length."""
    if judgement is None:
        return metadata
    before, after = judgement.before, judgement.after
    figures = {
        "auc_before": before.auc,
        "auc_after": after.auc,
        "log_loss_before": before.log_loss,
        "log_loss_after": after.log_loss,
    }
    return replace(metadata, measured={name: format_measured(value) for name, value in figures.items()})


def evaluation_facts(job: Job, samples: int | None) -> dict[str, Any] | None:
    """The log that was measured on, and its samples; None where there was none."""
    if samples is None or job.judged is None:
        return None
    names = [path.name for path in job.judged.log.paths]
    return {"log": names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more", "samples": samples}


def warn_of_outcome(job: Job, judgement: Judgement | None) -> tuple[str, ...]:
    """What there is to warn of after the evaluation."""
    if judgement is None or job.judged is None:
        return ()
    return *judgement.warnings, *warn_of_auc(job.source, judgement.before.auc, job.judged.log.paths[0].name)
