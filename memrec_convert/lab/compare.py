"""The bake-off: every method at the same bytes, on the same rows, with the same profile and training."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from typing_extensions import Unpack

from memrec_convert.conversion.inputs.from_checkpoint import LogBatches
from memrec_convert.conversion.inputs.kept_fits import FitStore, open_work
from memrec_convert.conversion.inputs.metering import Stopwatch
from memrec_convert.conversion.inputs.plain_torch import plain_torch
from memrec_convert.conversion.inputs.preparing import Job, prepare, profile_facts, source_facts
from memrec_convert.conversion.options import LATER, InputChoices, LogPaths
from memrec_convert.errors import LogError, OptionError
from memrec_convert.lab.contest import Contender, Contest, Made
from memrec_convert.lab.entrant import Entrant
from memrec_convert.lab.own import Conversion
from memrec_convert.lab.rivals import RIVALS
from memrec_convert.lab.store import RowStore
from memrec_convert.parallel import single_threaded_torch
from memrec_convert.recipe import read_recipe
from memrec_convert.results import Result
from memrec_convert.units import format_bytes, parse_budget
from memrec_convert.version import __version__

MEMREC = "MEM-REC, all hashed"


@dataclass(frozen=True)
class Compared(Result):
    """Who keeps how much of the AUC at which bytes.

    budgets   {"budget_bytes", "rows"} of each. A row is {"method", "bytes", "auc", "auc_delta", "ci95", "log_loss",
              "epochs", "seconds", "note"}; for a method that cannot reach the budget, "bytes" is its smallest size and
              the figures are None. "seconds" is the time to build the file, without evaluation; what several methods
              share, or `work` held, counts where it was made
    """

    budgets: tuple[Mapping[str, Any], ...]


@plain_torch()
def compare(
    path: str | Path,
    budget: str | int | Sequence[str | int] | None = None,
    *,
    eval: LogPaths,
    only: Sequence[str] | None = None,
    **choices: Unpack[InputChoices],
) -> Compared:
    """Every method at the same bytes: at one budget or at each of several, the recipe's where none is given.

    only      methods whose name contains one of these words; all where it is None
    choices   as `InputChoices` says; `method` is that of our own row, `work` keeps fits and finished rows, and `epochs`
              are those of every method: 1 where there is `data` and `val`, else 0
    """
    recipe = choices.get("recipe")
    said = read_recipe(recipe).said() if recipe is not None else {}
    asked = _list_budgets(said.get("budget") if budget is None else budget)
    choices["epochs"] = _settle_epochs(choices.get("epochs", said.get("epochs")), choices)
    job = prepare(path, asked[0], choices, eval=eval)
    if job.options.dense == "auto":  # rivals are compared by their tables: everybody keeps the same dense part
        job = replace(job, options=job.options.change(dense="fp32"))
    subject, progress = job.subject, job.progress
    dense_bytes = subject.dense_bytes("fp32")
    sizes = [parse_budget(one).resolve(table_bytes=subject.table_bytes, dense_bytes=dense_bytes) for one in asked]
    folder, facts = open_work(choices.get("work")), _facts(job)
    store, contest = RowStore(folder, facts), Contest(job, FitStore(folder, _fit_facts(facts)))
    contenders = _choose_contenders(contest, only)
    tables: list[dict[str, Any]] = [{"budget_bytes": nbytes, "rows": []} for nbytes in sizes]
    with single_threaded_torch():
        while contenders:
            contender = contenders.pop(0)  # what it fitted goes with it
            progress(contender.name, 0, len(asked))
            fitting = _Fitting(contender)
            for done, (one, nbytes, table) in enumerate(zip(asked, sizes, tables, strict=True), start=1):
                row = store.find(contender.name, nbytes)
                if row is None:
                    row = _run(contest, fitting, one)
                    store.keep(row, nbytes)
                table["rows"].append(row)
                progress(contender.name, done, len(asked))
    return Compared(tuple(tables))


def _list_budgets(budget: str | int | Sequence[str | int] | None) -> list[str | int]:
    """The budgets, checked."""
    asked = [budget] if isinstance(budget, str | int) else list(budget or ())
    if not asked:
        raise OptionError("no budget was given to compare at; add --budget, such as 100x.")
    for one in asked:
        parse_budget(one)
    return asked


def _settle_epochs(epochs: int | None, choices: InputChoices) -> int:
    """As asked; 1 where nothing was asked and there is what training needs. LogError where that is missing."""
    trainable = choices.get("data") is not None and choices.get("val") is not None
    if epochs and not trainable:
        raise LogError(
            f"{epochs} epochs of fine-tuning were asked for, and they need training data (--data) and a hold-out "
            "(--val); give both, or compare what nobody trained with --epochs 0."
        )
    return (1 if trainable else 0) if epochs is None else epochs


def _choose_contenders(contest: Contest, only: Sequence[str] | None) -> list[Contender]:
    """Ours first; OptionError for a word that no name contains."""
    options = contest.job.options
    everyone: list[Contender] = [
        Conversion(f"memrec-convert {options.method}", contest, options.method),
        Conversion(MEMREC, contest, "memrec"),
        *(Entrant(rival, contest) for rival in RIVALS),
    ]
    for word in only or ():
        if not any(word.lower() in one.name.lower() for one in everyone):
            known = ", ".join(one.name for one in everyone)
            raise OptionError(f"no method is called {word!r}; known: {known}.")
    wanted = [word.lower() for word in only or ("",)]
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
        "options": job.options.model_dump(exclude={"threads", "method"}),
        "columns": dict(job.judged.log.schema.columns) if job.judged is not None else {},
    }


def _fit_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What a fit depends on: neither on what judges it nor on training or budget."""
    options = {name: value for name, value in facts["options"].items() if name not in LATER}
    return {**facts, "hold_out": None, "evaluation": None, "options": options}
