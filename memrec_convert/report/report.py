"""The report of a conversion as frozen dataclasses, to JSON and back; None is what nobody measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from memrec_convert.evaluation.metrics import Decile
from memrec_convert.evaluation.slices import Slice
from memrec_convert.report.figures import describe_auc
from memrec_convert.results import Result, read_as, to_plain


@dataclass(frozen=True)
class ArtifactFile:
    """The file that was written; `bytes` is its size on disk."""

    path: str
    bytes: int


@dataclass(frozen=True)
class TableReport:
    """One table: what it was and what it became.

    `form` is for people ('codes 1b base + 28b x 4100 ids'); `lookup_share` says for each form which share of the
    profile's lookups it serves, None without a profile.
    """

    name: str
    method: str
    rows: int
    dim: int
    bytes_before: int
    bytes_after: int
    form: str
    lookup_share: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Comparison:
    """A figure of the original and of the artifact on the same rows."""

    before: float
    after: float

    @property
    def delta(self) -> float:
        """What the conversion changed: after - before."""
        return self.after - self.before


@dataclass(frozen=True)
class AucComparison(Comparison):
    """The AUCs, the 95 % interval of their difference (None: not estimated) and what it allows to say."""

    ci95: tuple[float, float] | None
    verdict: str


@dataclass(frozen=True)
class MetricComparison(Comparison):
    """The metric that a conversion of another goal than the AUC of clicks is judged by.

    `title` is its name for people. `ci95` is the 95 % interval of the difference (None: not estimated) over `resamples`
    resamples of the `units` things (samples, requests or groups) that `resampled` names; `verdict` says what it allows.
    """

    name: str
    title: str
    higher_is_better: bool
    ci95: tuple[float, float] | None
    verdict: str
    resampled: str
    units: int
    resamples: int

    def __str__(self) -> str:
        return describe_auc(to_plain(self))


@dataclass(frozen=True)
class GroupReport:
    """The AUC with rows of one group taken together; `column` of the evaluation log says which belong together.

    `gauc` is the mean AUC of the `both_classes` groups that have one, weighted with their rows, which are the share
    `covered` of all. `auc_ci95` is the interval of the AUC difference over all rows that a bootstrap over groups gives.
    """

    column: str
    groups: int
    both_classes: int
    covered: float
    gauc: AucComparison | None
    auc_ci95: tuple[float, float]
    verdict: str
    resamples: int


@dataclass(frozen=True)
class DecileComparison:
    """Calibration by decile, lowest predictions first, of the original and of the artifact."""

    before: tuple[Decile, ...]
    after: tuple[Decile, ...]


@dataclass(frozen=True)
class AblationReport:
    """The AUC of the original with this table alone compressed, and what that costs."""

    table: str
    auc: float
    delta: float
    ci95: tuple[float, float]


@dataclass(frozen=True)
class ControlReport:
    """The original fine-tuned as the converted model was, and what that tells apart.

    training      original -> control: what training gives
    conversion    original -> converted model before fine-tuning: what conversion alone costs
    compression   control -> artifact: what compression costs when both are trained
    """

    metric: str
    steps: int
    best_step: int
    gain: float
    rate: float
    training: AucComparison
    conversion: AucComparison
    compression: AucComparison


@dataclass(frozen=True)
class SourceSizes:
    """Bytes of the source: its tables and its dense part as stored, and its whole file with all else in it."""

    tables: int
    dense: int
    file: int


@dataclass(frozen=True)
class ArtifactSizes:
    """Bytes of the artifact by part; `header` is everything that is neither tables nor dense part."""

    tables: int
    dense: int
    header: int

    @property
    def total(self) -> int:
        """The whole file."""
        return self.tables + self.dense + self.header


@dataclass(frozen=True)
class Sizes:
    """Both sides. Ratios leave out what else a source file holds (optimizer state), which would flatter them."""

    source: SourceSizes
    artifact: ArtifactSizes

    @property
    def ratio(self) -> float | None:
        """Tables and dense part of the source over the whole artifact."""
        total = self.artifact.total
        return (self.source.tables + self.source.dense) / total if total else None

    @property
    def table_ratio(self) -> float | None:
        """Table bytes over table bytes."""
        return self.source.tables / self.artifact.tables if self.artifact.tables else None


@dataclass(frozen=True)
class Alternative:
    """A plan that lost: its score is the planner's (lower is better), None where it was not scored."""

    name: str
    bytes: int
    score: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Provenance:
    """What the artifact was made from and by; digests are hexadecimal, None where there was nothing to digest."""

    version: str
    layout: str
    container: str
    source_digest: str | None = None
    profile_digest: str | None = None
    seed: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Report(Result):
    """Everything worth saying about one conversion. Sizes in bytes, times in seconds.

    `weights` says what the planner weighted ids by: log, optimizer, displacement or uniform. `plan`, `fine_tune`,
    `architecture` and `evaluation` (log, samples, ...) are JSON-able mappings that are passed on as they are.
    `seconds_reading` says what reading rows of large tables took of each stage's `seconds`, of all threads together.
    """

    artifact: ArtifactFile
    budget_bytes: int
    weights: str
    tables: tuple[TableReport, ...]
    sizes: Sizes
    provenance: Provenance
    metric: MetricComparison | None = None
    auc: AucComparison | None = None
    log_loss: Comparison | None = None
    normalized_entropy: Comparison | None = None
    calibration: Comparison | None = None
    slices: tuple[Slice, ...] | None = None
    deciles: DecileComparison | None = None
    groups: GroupReport | None = None
    ablation: tuple[AblationReport, ...] | None = None
    control: ControlReport | None = None
    evaluation: Mapping[str, Any] | None = None
    serving_bytes: int | None = None
    plan: Mapping[str, Any] = field(default_factory=dict)
    alternatives: tuple[Alternative, ...] = ()
    fine_tune: Mapping[str, Any] | None = None
    architecture: Mapping[str, Any] = field(default_factory=dict)
    assumed: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    seconds_reading: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `metric` is there only where the goal is another than the AUC of clicks."""
        values = super().to_json()
        return values if self.metric is not None else {k: v for k, v in values.items() if k != "metric"}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Report:
        """The report that `to_json` gave; keys of later versions are passed over.

        ReportError where a key is missing or holds another kind of value.
        """
        return read_as(cls, values, "the report", "what convert writes beside an artifact")
