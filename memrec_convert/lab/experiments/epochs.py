"""Epochs to convergence, where the authors needed six: 99 % of what a run gains over chance in AUC on the hold-out.

released   the sample-pooled model as its authors train it: their initial scale, SGD at 0.5, labels; six epochs
scratch    the same model from a balanced scale, Adam, labels; two epochs
teacher    from the balanced scale with the original's logits for targets; two epochs
warm       the tokens laid out from the original, its logits for targets; two epochs
stored     our plan with stored tokens, fine-tuned for two epochs
"""

from __future__ import annotations

from collections.abc import Sequence

from memrec_convert.artifact.metadata import Metadata
from memrec_convert.conversion.inputs.metering import Stopwatch
from memrec_convert.conversion.inputs.preparing import profile_facts, stay_silent
from memrec_convert.conversion.shrink import shrink
from memrec_convert.conversion.steps.outcome import describe_wish
from memrec_convert.lab.experiments.experiment import Cell, ChartSpec, Experiment, Grid, Row
from memrec_convert.lab.experiments.laboratory import Lab
from memrec_convert.lab.pooled.finetune import epochs_to_gain
from memrec_convert.lab.pooled.training import METHOD, PooledChoices, make_pooled
from memrec_convert.units import parse_budget

STARTS = {
    "warm": ("warm", "adam", "soft", 2),
    "teacher": ("balanced", "adam", "soft", 2),
    "scratch": ("balanced", "adam", "labels", 2),
    "released": ("released", "sgd", "labels", 6),
}
"""Name -> initial tables, optimizer, targets, epochs."""


def _grid(_lab: Lab, quick: bool) -> Grid:
    return {"ratio": (33,) if quick else (33, 100), "start": ("scratch", "warm") if quick else (*STARTS, "stored")}


def _run(lab: Lab, cell: Cell, seed: int) -> Row:
    budget = parse_budget(f"{cell['ratio']:g}x")
    return (
        _run_stored(lab, cell, seed)
        if cell["start"] == "stored"
        else _run_pooled(
            lab,
            str(cell["start"]),
            budget.resolve(table_bytes=lab.subject.table_bytes, dense_bytes=lab.subject.dense_bytes("fp32")),
            seed,
        )
    )


def _run_pooled(lab: Lab, start: str, budget_bytes: int, seed: int) -> Row:
    init, optimizer, targets, epochs = STARTS[start]
    epochs = 1 if lab.quick else epochs
    options = lab.job.options.change(epochs=epochs, targets=targets, seed=seed, dense="fp32")
    blank = Metadata(
        modules={},
        architecture=None,
        dense="fp32",
        seed=seed,
        profile={"weights": "log"},
        plan=describe_wish("", budget_bytes, METHOD),
    )
    made = make_pooled(
        lab.subject,
        budget_bytes,
        options,
        PooledChoices(start=init, optimizer=optimizer),
        blank,
        progress=stay_silent,
        watch=Stopwatch(),
    )
    history = [[round(step / made.steps_per_epoch, 3), score] for step, score in made.training.history]
    return {
        **lab.measure(made.model, made.nbytes),
        "d": made.model.sizes.D,
        "epochs": epochs,
        "targets": targets,
        "epochs_to_99_percent": epochs_to_gain(made.training, made.steps_per_epoch),
        "history": history,
    }


def _run_stored(lab: Lab, cell: Cell, seed: int) -> Row:
    epochs = 1 if lab.quick else 2
    options = lab.job.options.change(epochs=epochs, seed=seed)
    shrunk = shrink(
        lab.subject,
        parse_budget(f"{cell['ratio']:g}x"),
        options,
        profile=profile_facts(lab.job.profile),
        progress=stay_silent,
        watch=Stopwatch(),
        fitted=lab.fit("auto", seed),
        rivals=False,
    )
    training = shrunk.fine_tuning
    assert training is not None
    steps = training.steps / epochs
    return {
        **lab.measure(shrunk.model, shrunk.chosen.nbytes),
        "d": None,
        "epochs": epochs,
        "targets": options.targets,
        "epochs_to_99_percent": epochs_to_gain(training, int(steps)),
        "history": [[round(step / steps, 3), score] for step, score in training.history],
    }


def _find(rows: Sequence[Row]) -> str:
    parts = [
        f"{row['start']} at {row['ratio']:g}x: {row['epochs_to_99_percent']:.2g} epochs to 99 % of its gain, AUC "
        f"change {row['auc_delta']:+.4f}"
        for row in rows
    ]
    return "; ".join(parts)


EXPERIMENT = Experiment(
    "epochs", _grid, _run, _find, ChartSpec("bytes", "auc_delta", ("start",)), limits={"ratio": (1, 1e6)}
)
