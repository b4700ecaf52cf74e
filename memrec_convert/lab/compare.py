"""The bake-off: every method at the same bytes, on the same rows, with the same profile and training."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from memrec_convert.conversion.inputs.from_checkpoint import LogBatches, LogPaths
from memrec_convert.conversion.inputs.preparing import Job, prepare, profile_facts, source_facts, stay_silent
from memrec_convert.conversion.inputs.stopwatch import Stopwatch
from memrec_convert.conversion.inputs.subject import Progress
from memrec_convert.errors import LogError, RecipeError
from memrec_convert.lab.contest import Contender, Contest, Made
from memrec_convert.lab.entrant import Entrant
from memrec_convert.lab.fits import FitStore
from memrec_convert.lab.own import Conversion
from memrec_convert.lab.rivals import RIVALS
from memrec_convert.lab.store import RowStore, open_folder
from memrec_convert.parallel import single_threaded_torch
from memrec_convert.recipe import Recipe, read_recipe
from memrec_convert.units import format_bytes, parse_budget
from memrec_convert.version import __version__

MEMREC = "MEM-REC, all hashed"


def compare(
    path: str | Path,
    budgets: str | int | Sequence[str | int] | None = None,
    *,
    data: LogPaths | None = None,
    val: LogPaths | None = None,
    eval: LogPaths,
    profile: str | Path | None = None,
    recipe: str | Path | None = None,
    epochs: int | None = None,
    methods: Sequence[str] | None = None,
    work: str | Path | None = None,
    progress: Progress = stay_silent,
    **choices: Any,  # noqa: ANN401 - fields of Options and LogChoices
) -> dict[str, Any]:
    """Every method at one budget, or at each of several: who keeps how much of the AUC.

    {"budget_bytes", "rows"}; for a list of budgets {"budgets": [one such object each]}. A row is {"method", "bytes",
    "auc", "auc_delta", "ci95", "log_loss", "epochs", "seconds", "note"}; for a method that cannot reach the budget,
    "bytes" is its smallest size and the figures are None.

    budgets   one, or a list of them; the recipe's where none is given
    data, val, eval, profile, recipe, choices   as in `convert`; `method` in choices is that of our own row
    epochs    of fine-tuning, the same for every method; 0 compares what nobody trained; 1 where there is data and val
    methods   only those whose name contains one of these words
    work      a folder in which fits and finished rows are kept, and found again

    "seconds" is what making the file took, measuring not; what was shared or found in `work` (the weights, fits) counts
    where it was made.
    """
    read = read_recipe(recipe) if recipe is not None else Recipe()
    asked, several = _list_budgets(read.budget if budgets is None else budgets)
    epochs = _settle_epochs(read.epochs if epochs is None else epochs, data, val)
    job = prepare(Path(path), asked[0], recipe, data, val, eval, profile, choices | {"epochs": epochs}, progress)
    subject, options = job.subject, job.options
    sizes = [
        parse_budget(budget).resolve(table_bytes=subject.table_bytes, dense_bytes=subject.dense_bytes(options.dense))
        for budget in asked
    ]
    folder, facts = open_folder(work), _facts(job)
    store, contest = RowStore(folder, facts), Contest(job, FitStore(folder, _fit_facts(facts)))
    contenders = _choose_contenders(contest, methods)
    tables: list[dict[str, Any]] = [{"budget_bytes": nbytes, "rows": []} for nbytes in sizes]
    with single_threaded_torch():
        while contenders:
            contender = contenders.pop(0)  # what it fitted goes with it
            progress(contender.name, 0, len(asked))
            fitting = _Fitting(contender)
            for done, (budget, nbytes, table) in enumerate(zip(asked, sizes, tables, strict=True), start=1):
                row = store.find(contender.name, nbytes)
                if row is None:
                    row = _run(contest, fitting, budget)
                    store.keep(row, nbytes)
                table["rows"].append(row)
                progress(contender.name, done, len(asked))
    return {"budgets": tables} if several else tables[0]


def method_names() -> list[str]:
    """The names of the rivals, as rows bear them."""
    return [MEMREC, *(rival.name for rival in RIVALS)]


def _list_budgets(budgets: str | int | Sequence[str | int] | None) -> tuple[list[str | int], bool]:
    """The budgets, checked, and whether they were given as a list."""
    several = isinstance(budgets, Sequence) and not isinstance(budgets, str)
    asked: list[str | int] = []
    if isinstance(budgets, Sequence) and not isinstance(budgets, str):
        asked = list(budgets)
    elif budgets is not None:
        asked = [budgets]
    if not asked:
        raise RecipeError("no budget was given to compare at; add --budget, such as 100x.")
    for budget in asked:
        parse_budget(budget)
    return asked, several


def _settle_epochs(epochs: int | None, data: LogPaths | None, val: LogPaths | None) -> int:
    """As asked; 1 where nothing was asked and there is what training needs. LogError where that is missing."""
    trainable = data is not None and val is not None
    if epochs and not trainable:
        raise LogError(
            f"{epochs} epochs of fine-tuning were asked for, and they need training data (--data) and a hold-out "
            "(--val); give both, or compare what nobody trained with --epochs 0."
        )
    return (1 if trainable else 0) if epochs is None else epochs


def _choose_contenders(contest: Contest, methods: Sequence[str] | None) -> list[Contender]:
    """Ours first; RecipeError for a word that no name contains."""
    options = contest.job.options
    everyone: list[Contender] = [
        Conversion(f"memrec-convert {options.method}", contest, options.method),
        Conversion(MEMREC, contest, "memrec"),
        *(Entrant(rival, contest) for rival in RIVALS),
    ]
    for word in methods or ():
        if not any(word.lower() in one.name.lower() for one in everyone):
            known = ", ".join(one.name for one in everyone)
            raise RecipeError(f"no method is called {word!r}; known: {known}.")
    wanted = [word.lower() for word in methods or ("",)]
    return [one for one in everyone if any(word in one.name.lower() for word in wanted)]


class _Fitting:
    """A contender, made ready when it is first needed, with the seconds that this took."""

    def __init__(self, contender: Contender) -> None:
        self.contender = contender
        self.seconds: float | None = None

    def make(self, budget: str | int) -> tuple[Made, float]:
        """Its answer to a budget, and the seconds that it would take by itself."""
        start = time.perf_counter()
        if self.seconds is None:
            self.contender.prepare()
            self.seconds = time.perf_counter() - start
            start = time.perf_counter()
        made = self.contender.make(budget)
        return made, self.seconds + time.perf_counter() - start


def _run(contest: Contest, fitting: _Fitting, budget: str | int) -> dict[str, Any]:
    """The row of one method at one budget."""
    made, seconds = fitting.make(budget)
    row: dict[str, Any] = {"method": fitting.contender.name, "bytes": made.nbytes}
    row |= {"auc": None, "auc_delta": None, "ci95": None, "log_loss": None}
    row |= {"epochs": contest.job.options.epochs, "seconds": round(seconds, 1), "note": made.note}
    if made.model is not None:
        difference, loss = contest.measure(made.model)
        row |= {"auc": difference.after, "auc_delta": difference.delta, "ci95": list(difference.ci95), "log_loss": loss}
    elif made.nbytes is not None:
        row["note"] = f"cannot reach the budget; its smallest size is {format_bytes(made.nbytes)} ({made.nbytes} bytes)"
    return row


def _facts(job: Job) -> dict[str, Any]:
    """What a row depends on, as digests and plain values; threads and the folder of the logs change nothing."""
    logs = {"train": job.subject.train, "hold_out": job.subject.hold_out, "evaluation": job.judged}
    return {
        "version": __version__,
        "source": source_facts(job.source, Stopwatch())["digest"],
        "architecture": job.subject.architecture,
        "profile": profile_facts(job.profile)["digest"],
        **{name: log.log.digest().combined if isinstance(log, LogBatches) else None for name, log in logs.items()},
        "options": {name: value for name, value in asdict(job.options).items() if name not in ("threads", "method")},
        "columns": dict(job.judged.log.schema.columns) if job.judged is not None else {},
    }


def _fit_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What a fit depends on: neither on what judges it nor on training or budget."""
    later = ("epochs", "targets", "train_dense", "lr_search", "dense", "oov")
    options = {name: value for name, value in facts["options"].items() if name not in later}
    return {**facts, "hold_out": None, "evaluation": None, "options": options}
