"""The metric that a conversion is judged by: its value, what two models differ by with its interval, and luck."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from memrec_convert.errors import LogError, ModelError, OptionError, OwnCode
from memrec_convert.evaluation.delong import SAME_MARGIN, Verdict, auc_gain, compare_auc, judge, standard_error
from memrec_convert.evaluation.groups import RESAMPLES, Interval, group_aucs
from memrec_convert.evaluation.metrics import Float64, auc, paired
from memrec_convert.evaluation.objectives import refuse_targets
from memrec_convert.evaluation.ranking import (
    Places,
    hits,
    normalized_gains,
    place_relevant,
    place_targets,
    recalls,
    reciprocal_ranks,
)
from memrec_convert.parallel import ordered_map

OWN_RESAMPLES = 200
"""Resamples for a metric of the caller's own, which is called on each."""

_BLOCK = 20
"""Resamples of one random generator; what a worker does at a time."""


@dataclass(frozen=True)
class Truth:
    """What outputs are held against: labels float32 [n] or [n, k], and which samples belong together, int64 [n]."""

    labels: np.ndarray
    groups: np.ndarray | None = None


@dataclass(frozen=True)
class Difference:
    """A metric of two models on the same samples; `delta` is after - before and `ci95` its 95 % interval.

    `resampled` says what the interval's resamples are made of ("groups", "requests" or "samples") and how many there
    are; `resamples` is 0 where the interval has a formula.
    """

    before: float
    after: float
    ci95: Interval
    verdict: Verdict
    resampled: tuple[str, int]
    resamples: int

    @property
    def delta(self) -> float:
        """What the conversion changed."""
        return self.after - self.before


@dataclass(frozen=True)
class Metric:
    """One figure of a model's outputs, float [n] or [n, k], against the truth.

    relative     its differences are judged as shares of its value, since it has a unit or no known range
    objectives   the names of those that it can judge
    """

    name: str
    title: str
    higher_is_better: bool = True
    relative: bool = False
    objectives: tuple[str, ...] = ("binary", "regression", "ranking", "function")

    @property
    def sign(self) -> int:
        """1 where higher is better, else -1."""
        return 1 if self.higher_is_better else -1

    @property
    def loss_word(self) -> str:
        """What a change for the worse is."""
        return "drop" if self.higher_is_better else "rise"

    def scale(self, value: float) -> float:
        """By what differences are divided before they are judged."""
        return max(abs(value), 1e-12) if self.relative else 1.0

    def measure(self, truth: Truth, outputs: np.ndarray) -> float | None:
        """The figure; None where the truth does not define it."""
        raise NotImplementedError

    def compare(
        self, truth: Truth, before: np.ndarray, after: np.ndarray, *, seed: int = 0, workers: int = 1
    ) -> Difference | None:
        """The paired difference with its interval; None where the truth does not define the figure."""
        raise NotImplementedError

    def gain(self, truth: Truth, before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
        """By how much `after` is better, and the standard error of that; groups are taken together."""
        raise NotImplementedError

    def _judge(self, before: float, interval: Interval) -> Verdict:
        low, high = sorted(self.sign * bound / self.scale(before) for bound in interval)
        return judge((low, high), margin=SAME_MARGIN)


@dataclass(frozen=True)
class AucMetric(Metric):
    """AUC of clicks, with DeLong's interval."""

    def measure(self, truth: Truth, outputs: np.ndarray) -> float | None:
        """As `metrics.auc`; None too where all labels are the same."""
        return auc(truth.labels, outputs) if len(np.unique(truth.labels)) > 1 else None

    def compare(
        self, truth: Truth, before: np.ndarray, after: np.ndarray, *, seed: int = 0, workers: int = 1
    ) -> Difference | None:
        """As `compare_auc`."""
        found = compare_auc(truth.labels, before, after)
        if found is None:
            return None
        return Difference(found.before, found.after, found.ci95, found.verdict, ("samples", len(before)), 0)

    def gain(self, truth: Truth, before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
        """As `auc_gain`."""
        return auc_gain(truth.labels.astype(np.bool_), before, after, groups=truth.groups)


@dataclass(frozen=True)
class Parts:
    """Sums and counts float64 [u] of units whose total sum over total count is the figure.

    `clusters` int64 [u] says which units belong together; None: they are independent. `kind` names the units.
    """

    sums: Float64
    counts: Float64
    kind: str
    clusters: np.ndarray | None = None

    def gather(self) -> tuple[Float64, Float64, str]:
        """Sums and counts of what is independent, and what that is."""
        if self.clusters is None:
            return self.sums, self.counts, self.kind
        members = np.unique(self.clusters, return_inverse=True)[1].reshape(-1)
        sums, counts = (np.bincount(members, weights=one).astype(np.float64) for one in (self.sums, self.counts))
        return sums, counts, "groups"


@dataclass(frozen=True)
class MeanMetric(Metric):
    """A weighted mean over samples, requests or groups, or (`root`) its square root."""

    split: Callable[[Truth, np.ndarray], Parts] = field(default=lambda _truth, _outputs: _no_parts(), repr=False)
    root: bool = False

    def measure(self, truth: Truth, outputs: np.ndarray) -> float | None:
        """The mean; None where nothing counts."""
        parts = self.split(truth, outputs)
        total = float(parts.counts.sum())
        return self._finish(float(parts.sums.sum()) / total) if total else None

    def compare(
        self, truth: Truth, before: np.ndarray, after: np.ndarray, *, seed: int = 0, workers: int = 1
    ) -> Difference | None:
        """The middle 95 % of the differences over resamples of samples, requests or groups, with replacement."""
        first, last = self.measure(truth, before), self.measure(truth, after)
        if first is None or last is None:
            return None
        (old, counts, kind), (new, _, _) = (self.split(truth, one).gather() for one in (before, after))

        def change(drawn: np.ndarray) -> float:
            weights = np.bincount(drawn, minlength=len(counts)).astype(np.float64)
            total = float(weights @ counts)
            if not total:
                return float("nan")
            return self._finish(float(weights @ new) / total) - self._finish(float(weights @ old) / total)

        interval = resample(change, len(counts), RESAMPLES, seed=seed, workers=workers)
        return Difference(
            first,
            last,
            interval,
            self._judge(first, interval),
            (kind, len(counts)),
            RESAMPLES if len(counts) > 1 else 0,
        )

    def gain(self, truth: Truth, before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
        """The gain, and its standard error by what each unit adds to it (the delta method)."""
        total: float = 0.0
        influences: Float64 = np.zeros(1)
        clusters: np.ndarray | None = None
        for outputs, sign in ((before, -self.sign), (after, self.sign)):
            parts = self.split(truth, outputs)
            count = float(parts.counts.sum())
            mean = float(parts.sums.sum()) / count
            slope = 1 / (2 * self._finish(mean)) if self.root and mean > 0 else 1.0
            total += sign * self._finish(mean)
            influences = influences + sign * slope * (parts.sums - mean * parts.counts) / count
            clusters = parts.clusters
        return total, standard_error(influences, clusters)

    def _finish(self, mean: float) -> float:
        return float(np.sqrt(mean)) if self.root else mean


@dataclass(frozen=True)
class OwnMetric(Metric):
    """A function of the caller's own, (labels, outputs) -> float, of numpy arrays with any number of samples."""

    function: Callable[[np.ndarray, np.ndarray], float] = field(default=lambda _labels, _outputs: 0.0, repr=False)

    def measure(self, truth: Truth, outputs: np.ndarray) -> float | None:
        """The function's value; OptionError where it fails, or gives no finite number."""
        found = self._call(truth.labels, outputs)
        if not np.isfinite(found):
            raise OptionError(f"metric= returned {found} on the hold-out; expected a finite number.")
        return found

    def compare(
        self, truth: Truth, before: np.ndarray, after: np.ndarray, *, seed: int = 0, workers: int = 1
    ) -> Difference | None:
        """The middle 95 % of the differences over resamples of samples, or of whole groups, with replacement."""
        first, last = self.measure(truth, before), self.measure(truth, after)
        assert first is not None
        assert last is not None
        drawn_rows, count, kind = _list_rows(truth)

        def change(drawn: np.ndarray) -> float:
            rows = drawn_rows(drawn)
            labels = truth.labels[rows]
            return self._call(labels, after[rows]) - self._call(labels, before[rows])

        interval = resample(change, count, OWN_RESAMPLES, seed=seed, workers=1)
        resamples = OWN_RESAMPLES if count > 1 else 0
        return Difference(first, last, interval, self._judge(first, interval), (kind, count), resamples)

    def gain(self, truth: Truth, before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
        """The gain, and the standard deviation of it over resamples."""
        first, last = self.measure(truth, before), self.measure(truth, after)
        assert first is not None
        assert last is not None
        drawn_rows, count, _ = _list_rows(truth)
        changes = []
        for number in range(OWN_RESAMPLES):
            rows = drawn_rows(np.random.default_rng([0, number]).integers(0, count, count))
            changes.append(self._call(truth.labels[rows], after[rows]) - self._call(truth.labels[rows], before[rows]))
        known = np.array(changes)[np.isfinite(changes)]
        error = float(known.std(ddof=1)) if len(known) > 1 and count > 1 else np.inf
        return self.sign * (last - first), error

    def _call(self, labels: np.ndarray, outputs: np.ndarray) -> float:
        failed = OwnCode(
            lambda said: OptionError(
                f"metric= failed on {len(labels)} samples ({said}); expected a function of labels and outputs, two "
                "numpy arrays of equal length, that returns a number."
            )
        )
        with failed:
            return float(self.function(labels.copy(), outputs.copy()))  # it may sort or change what it is given


def resample(change: Callable[[np.ndarray], float], count: int, resamples: int, *, seed: int, workers: int) -> Interval:
    """The middle 95 % of `change` over resamples of `count` units; a single unit has no interval but everything.

    Equal seeds give equal intervals for any number of workers.
    """
    if count < 2:
        return (-np.inf, np.inf)

    def draw(block: int) -> list[float]:
        generator = np.random.default_rng([seed, block])
        return [change(generator.integers(0, count, count)) for _ in range(min(_BLOCK, resamples - block * _BLOCK))]

    blocks = ordered_map(draw, range(-(-resamples // _BLOCK)), workers=workers)
    found = np.array([one for block in blocks for one in block])
    low, high = (
        np.quantile(found[np.isfinite(found)], [0.025, 0.975]) if np.isfinite(found).any() else (-np.inf, np.inf)
    )
    return float(low), float(high)


def _list_rows(truth: Truth) -> tuple[Callable[[np.ndarray], np.ndarray], int, str]:
    """The rows of drawn units (samples, or groups with all their samples), how many units there are, and their kind."""
    if truth.groups is None:
        return (lambda drawn: drawn), len(truth.labels), "samples"
    members = np.unique(truth.groups, return_inverse=True)[1].reshape(-1)
    order = np.argsort(members, kind="stable")
    rows = np.split(order, np.cumsum(np.bincount(members))[:-1])
    return (lambda drawn: np.concatenate([rows[one] for one in drawn])), len(rows), "groups"


def _no_parts() -> Parts:
    return Parts(np.zeros(1), np.zeros(1), "samples")


def _split_errors(power: int, truth: Truth, outputs: np.ndarray) -> Parts:
    if truth.labels.shape != outputs.shape:
        raise ModelError(
            f"labels of shape {list(truth.labels.shape)} and outputs of shape {list(outputs.shape)} do not belong "
            "together: expected one label for each output."
        )
    errors = np.abs(outputs.astype(np.float64) - truth.labels) ** power
    means = errors.reshape(len(errors), -1).mean(axis=1)
    return Parts(means, np.ones(len(means)), "samples", truth.groups)


def _split_requests(figure: Callable[[Places, int], Float64], most: int, truth: Truth, outputs: np.ndarray) -> Parts:
    """One unit per request; requests without anything relevant do not count."""
    labels, clusters = truth.labels, None
    if outputs.ndim == 2 and labels.ndim == 1:
        refuse_targets(labels, outputs.shape[1])
        places = place_targets(outputs, labels.astype(np.int64))
        clusters = truth.groups
    elif outputs.ndim == 2:
        requests = np.repeat(np.arange(len(outputs)), outputs.shape[1])
        places = place_relevant(outputs.reshape(-1), labels.reshape(-1), requests)
        clusters = truth.groups
    else:
        places = place_relevant(outputs, labels, _require_groups(truth))
    counts = (places.relevant > 0).astype(np.float64)
    return Parts(figure(places, most) * counts, counts, "requests", clusters)


def _split_aucs(truth: Truth, outputs: np.ndarray) -> Parts:
    """One unit per group: its AUC, weighted with its rows; groups of one class do not count."""
    groups = _require_groups(truth)
    clicked, scores = paired(truth.labels, outputs)
    found, rows = group_aucs(clicked, scores, np.unique(groups, return_inverse=True)[1].reshape(-1))
    counts = np.where(np.isfinite(found), rows, 0).astype(np.float64)
    return Parts(np.nan_to_num(found) * counts, counts, "groups")


def _require_groups(truth: Truth) -> np.ndarray:
    if truth.groups is None:
        raise LogError(
            "the metric ranks the samples of a group, and nothing says which belong together; pass groups= (with a "
            "log, --group), or return the scores of all of a request's candidates from forward=."
        )
    return truth.groups


_OF_CLICKS, _OF_NUMBERS = ("binary", "function"), ("regression", "function")
AUC = AucMetric("auc", "AUC", objectives=_OF_CLICKS)
GAUC = MeanMetric("gauc", "GAUC", objectives=_OF_CLICKS, split=_split_aucs)
RMSE = MeanMetric("rmse", "RMSE", False, True, _OF_NUMBERS, split=partial(_split_errors, 2), root=True)
MAE = MeanMetric("mae", "MAE", False, True, _OF_NUMBERS, split=partial(_split_errors, 1))

_RANKED = {"ndcg": normalized_gains, "recall": recalls, "hit": hits, "mrr": reciprocal_ranks}
_WHOLE = ("ndcg", "mrr")
"""Metrics that need no @k."""
KNOWN = "auc, gauc, rmse, mae, ndcg@k, recall@k, hit@k, mrr"


def choose_metric(wanted: object, higher_is_better: bool | None) -> Metric:
    """The metric of that name, such as "ndcg@10", or of that function; OptionError for anything else."""
    if callable(wanted) and not isinstance(wanted, str):
        if not isinstance(higher_is_better, bool):
            raise OptionError(
                "metric is a function; set higher_is_better to True or False (on the command line, --higher-is-better "
                "or --lower-is-better)."
            )
        name = str(getattr(wanted, "__name__", type(wanted).__name__)).strip("<>")
        return OwnMetric(name, name, higher_is_better, relative=True, function=wanted)
    found = _find_metric(wanted) if isinstance(wanted, str) else None
    if found is None:
        raise OptionError(f"metric is {wanted!r}; expected one of {KNOWN}, or a function (labels, outputs) -> float.")
    if higher_is_better not in (None, found.higher_is_better):
        raise OptionError(
            f"higher_is_better is {higher_is_better!r}, and of {found.title} "
            f"{'higher' if found.higher_is_better else 'lower'} values are better; leave it out."
        )
    return found


def _find_metric(name: str) -> Metric | None:
    for one in (AUC, GAUC, RMSE, MAE):
        if one.name == name:
            return one
    match = re.fullmatch(r"(ndcg|recall|hit|mrr)(?:@([1-9][0-9]{0,8}))?", name)
    if match is None or (match[2] is None and match[1] not in _WHOLE):
        return None
    most = int(match[2] or 2**31)
    title = name.upper() if match[1] in _WHOLE else name
    return MeanMetric(name, title, split=partial(_split_requests, _RANKED[match[1]], most))
