"""A rival at a budget: its options for every table, the best split, and the model that comes of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from memrec_convert.artifact.dense import narrow_shapes
from memrec_convert.artifact.layout import canonical_json, count_file_bytes
from memrec_convert.errors import ArtifactError
from memrec_convert.lab.contest import Contest, Made
from memrec_convert.lab.held import RivalBag
from memrec_convert.lab.rivals import Option, Rival
from memrec_convert.lab.rivals.plain import KEPT_ROWS, MEAN_ROW, plain_options
from memrec_convert.lab.split import split_budget
from memrec_convert.lab.training import train_tables
from memrec_convert.lab.view import TableView
from memrec_convert.parallel import ordered_map
from memrec_convert.units import parse_budget


@dataclass(frozen=True)
class Entrant:
    """A rival method in the contest."""

    rival: Rival
    contest: Contest

    @property
    def name(self) -> str:
        """The rival's."""
        return self.rival.name

    @cached_property
    def options(self) -> tuple[tuple[Option, ...], ...]:
        """Per table all that the rival could do with it, sizes and losses known, nothing built."""

        def list_options(view: TableView) -> tuple[Option, ...]:
            own = self.rival.options(view) if view.replaceable else ()
            return (*plain_options(view), *own)

        return tuple(ordered_map(list_options, self.contest.views, workers=self.contest.job.options.workers))

    def prepare(self) -> None:
        """Lists the options of every table."""
        _ = self.options

    def make(self, budget: str | int) -> Made:
        """The best split of the budget over the tables, built and, where the contest trains, trained."""
        job = self.contest.job
        budget_bytes = parse_budget(budget).resolve(
            table_bytes=job.subject.table_bytes, dense_bytes=job.subject.dense_bytes("fp32")
        )
        split = split_budget(self.options, budget_bytes, self.count_bytes)
        if not split.fits:
            return Made(None, split.nbytes)
        sites = self.contest.job.subject.sites
        tables = [self._build(option, site.pooling) for option, site in zip(split.options, sites, strict=True)]
        model = self.contest.put_in(tables)
        if job.options.epochs:
            train_tables(job.subject, model, tables, job.options)
            self.contest.round_dense(model)
        return Made(model, split.nbytes, describe_split(split.options))

    def count_bytes(self, options: Sequence[Option]) -> int:
        """The file that these options make: the dense part and every tensor, named and described in its header."""
        subject = self.contest.job.subject
        shapes = narrow_shapes(subject.dense_shapes, self.contest.job.options.dense)
        for site, option in zip(subject.sites, options, strict=True):
            shapes |= {f"{site.paths[0]}.{name}": shape for name, shape in option.shapes.items()}
        return count_file_bytes(shapes, self.describe_file(options))

    def describe_file(self, options: Sequence[Option]) -> str:
        """The metadata without which nobody could read the tensors, as canonical JSON."""
        subject = self.contest.job.subject
        tables = [
            {"name": site.name, "rows": site.rows, "dim": site.dim, "form": option.label}
            for site, option in zip(subject.sites, options, strict=True)
        ]
        return canonical_json({"method": self.name, "architecture": subject.architecture, "tables": tables})

    def _build(self, option: Option, pooling: str) -> RivalBag:
        table = RivalBag(option.build(), mode=pooling)
        if table.shapes() != option.shapes:
            raise ArtifactError(
                f"{self.name}, {option.label}: the tensors came out as {table.shapes()}, planned were {option.shapes}: "
                "a fault of this tool; please report it."
            )
        return table


def describe_split(options: Sequence[Option]) -> str:
    """What became of the tables, in a few words."""
    dropped = sum(option.label == MEAN_ROW for option in options)
    kept = Counter(option.label for option in options if option.label in KEPT_ROWS)
    others = len(options) - dropped - sum(kept.values())
    parts = [
        f"{others} tables by the method" if others else "",
        *(f"{number} as {label}" for label, number in kept.items()),
        f"{dropped} at the mean row" if dropped else "",
    ]
    return ", ".join(part for part in parts if part)
