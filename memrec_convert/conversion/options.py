"""What a caller can choose about a conversion, with its defaults, its bounds and its type."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic.fields import FieldInfo

from memrec_convert.choices import DensePrecision, Method, Oov, Targets, Weights, values_of
from memrec_convert.errors import BudgetError, LogError, OptionError
from memrec_convert.parallel import usable_cores
from memrec_convert.units import parse_threshold

if TYPE_CHECKING:
    from torch import Tensor

LogPaths = str | Path | Sequence[str | Path]
"""A click log: a file, a directory or a glob pattern, or several of them."""


NO_BUDGET = "no budget was given; add --budget, such as 48MB, 100x or llc."


def fitted(default: Any, **bounds: Any) -> Any:  # noqa: ANN401 - whatever Field takes
    """A field of `Options` on which fits and codes depend: kept ones belong to its value."""
    return Field(default, json_schema_extra={"fits": True}, **bounds)


def later(default: Any, **bounds: Any) -> Any:  # noqa: ANN401 - whatever Field takes
    """A field of `Options` that matters only after the fit: a change leaves kept fits valid."""
    return Field(default, json_schema_extra={"fits": False}, **bounds)


class Options(BaseModel):
    """Choices of a conversion, which a recipe may state too.

    threshold        tables below it are kept: bytes ("4kB") or rows ("10000rows")
    method           auto: what costs least; memrec: the published hashed form; codes: no stored rows; int8: rows only
    weights          where row weights come from; auto: the log, else the optimizer's state, else displacement
    epochs           of fine-tuning, given a hold-out; targets: the original's logits ("soft"), labels, or "mixed"
    dense            precision of the dense part in the file; train_dense lets fine-tuning move it
    allow_nonfinite  read NaN and infinite values as zeros instead of refusing rows that have some
    tables_only      convert the tables alone, of a model whose network need not be known
    oov              what the converted model does with an id beyond its table
    pooled           sizes and start of the method sample-pooled, as "D=75000,K=1,start=warm"
    k, k_weights     hashed tokens and weights per id under method "memrec"
    batch_size       samples per batch of what reads a log
    seed             of everything random
    threads          worker threads; 0 takes the machine's cores. They never change a result
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    threshold: str | int = fitted("4kB", description="0, a size such as 100kB, or rows such as 10000rows")
    method: Method = fitted("auto")
    weights: Weights = fitted("auto")
    epochs: int = later(1, ge=0, le=1000)
    targets: Targets = later("mixed")
    dense: DensePrecision = later("fp32")
    train_dense: bool = later(default=False)
    tables_only: bool = fitted(default=False)
    oov: Oov = later("error")
    allow_nonfinite: bool = fitted(default=False)
    pooled: str = fitted("", description="sizes of the method sample-pooled, such as D=75000,K=1")
    k: int = later(2, ge=1, le=64)
    k_weights: int = later(4, ge=0, le=16)
    batch_size: int = fitted(4096, ge=1, le=1 << 24)
    seed: int = fitted(0, ge=0, le=2**31 - 1)
    threads: int = later(0, ge=0, le=4096)

    @field_validator("threshold")
    @classmethod
    def _threshold_is_readable(cls, value: str | int) -> str | int:
        try:
            parse_threshold(value)
        except BudgetError as error:
            raise ValueError(str(error)) from None  # the class that pydantic collects
        return value

    @property
    def workers(self) -> int:
        """Worker threads to use."""
        return self.threads or usable_cores()

    def may_replace(self, rows: int, nbytes: int) -> bool:
        """Whether a table of this size is over the threshold."""
        unit, least = parse_threshold(self.threshold)
        return (rows if unit == "rows" else nbytes) >= least

    def change(self, **values: Any) -> Options:  # noqa: ANN401 - fields of Options
        """These options with other values, which are taken as they are."""
        return self.model_copy(update=values)

    def differing(self) -> dict[str, Any]:
        """The options that are not at their default, threads left out: they change nothing."""
        return self.model_dump(exclude_defaults=True, exclude={"threads"})

    def fit_facts(self) -> dict[str, Any]:
        """The options that fits and codes depend on."""
        return self.model_dump(exclude=set(LATER))


LATER = frozenset(
    name for name, one in Options.model_fields.items() if one.json_schema_extra == later(None).json_schema_extra
)
"""Options that neither fits nor codes depend on."""


class OptionChoices(TypedDict, total=False):
    """The fields of `Options` as keywords."""

    threshold: str | int
    method: Method
    weights: Weights
    epochs: int
    targets: Targets
    dense: DensePrecision
    train_dense: bool
    tables_only: bool
    oov: Oov
    allow_nonfinite: bool
    pooled: str
    k: int
    k_weights: int
    batch_size: int
    seed: int
    threads: int


class GoalChoices(TypedDict, total=False):
    """What a model is for, what a conversion is judged by, and what it may lose.

    objective          "binary" (clicks, the default), "regression", "ranking", or a function of the caller's own:
                       (model, batch) -> losses float [B], or their mean
    metric             auc, gauc, rmse, mae, ndcg@k, recall@k, hit@k, mrr, or (labels, outputs) -> float of numpy arrays
                       with any number of samples; default: auc, rmse or ndcg@10, by the objective
    higher_is_better   how to read a function that is the metric
    """

    objective: str | Callable[..., Any] | None
    metric: str | Callable[..., Any] | None
    higher_is_better: bool | None


class LiveChoices(OptionChoices, GoalChoices, total=False):
    """What `compress` takes besides: fields of `Options` and `GoalChoices`, test data, groups and bounds.

    eval       test batches, kept in memory: they measure the original and the result, and nothing else
    groups     returns which samples of a batch belong together, int [B], such as those of one user or one request
    max_drop   the smallest result whose metric on `val` is at most this much worse; `budget` is then a cap
    fail_if_worse_than   QualityError where the metric is worse by more than this on `val` (else on `eval`)
    """

    eval: Iterable[Any] | None
    groups: Callable[[Any], Tensor] | None
    max_drop: float | None
    fail_if_worse_than: float | None


class ReadingChoices(TypedDict, total=False):
    """How checkpoint and logs are read, beyond what they say themselves.

    columns   column of the log by table, dense input (I1, ...) or "label"
    id_map    a file with the row of each token of a raw Criteo log; modulus: or rows are int(token, 16) mod modulus
    assume    facts that the checkpoint leaves open, by name (see `Facts`): texts, or lists for those that are lists
    """

    columns: Mapping[str, str] | None
    id_map: str | Path | None
    modulus: int | None
    assume: Mapping[str, str | Sequence[str] | Sequence[int]] | None


class InputChoices(OptionChoices, ReadingChoices, total=False):
    """What `convert`, `plan` and `compare` take: fields of `Options`, those of `ReadingChoices`, and inputs.

    data      training log: gives the lookup profile, the sensitivities and the lessons of fine-tuning
    val       hold-out: decides between plans and when training is best
    profile   a lookup profile (.npz) to use in place of counting `data`; written there where it does not exist yet, or
              lacks what this model feels
    counts    lookups that were counted elsewhere, in place of counting `data`: a parquet file, or a directory of files
              that are summed, or a URL of either, with the columns table (as `inspect` names it), id and count
    samples   the rows of the log that `counts` were counted in
    recipe    a recipe's file or name: what it says holds where nothing is given here
    work      a folder in which fits and codes are kept, for another budget or after an interruption
    progress  told of (stage, done, total)
    """

    data: LogPaths | None
    val: LogPaths | None
    profile: str | Path | None
    counts: str | Path | None
    samples: int | None
    recipe: str | Path | None
    work: str | Path | None
    progress: Callable[[str, int, int], None]


class OutputChoices(InputChoices, GoalChoices, total=False):
    """What `convert` takes besides: what to measure on, and what to write.

    With `model`, `GoalChoices` too, whose functions may be named as "package.module:function".

    eval          test log: measures, and nothing else
    group         a column of `eval`, or the input that it serves: GAUC, and a bootstrap over groups beside DeLong
    out           the artifact; by default the checkpoint's name with .safetensors. force replaces what is there
    report_html   a page to write too, with the rate curve, and what `compare` printed to `compare_json` beside it
    model         the network's class, "package.module:Class", where its layout is none that is known; `model_args` is a
                  YAML file of its arguments, and says how the class is called on a log
    like          an artifact of the same network from an earlier day: its plan, codebooks and codes are taken over
                  where they still serve, and nothing is trained; its budget, seed and dense precision hold where no
                  others are given
    row_map       with `like`, a file (parquet or CSV: table, old, new) of rows that had another number then
    """

    eval: LogPaths | None
    group: str | None
    out: str | Path | None
    force: bool
    report_html: str | Path | None
    compare_json: str | Path | None
    model: str | None
    model_args: str | Path | None
    like: str | Path | None
    row_map: str | Path | None


def make_options(values: Mapping[str, Any]) -> Options:
    """Options of these values, None being the default; OptionError for one that cannot be."""
    given = {name: value for name, value in values.items() if value is not None}
    if "threshold" in given:
        given["threshold"] = str(given["threshold"])
    try:
        return Options(**given)
    except ValidationError as error:
        detail = error.errors(include_url=False, include_context=False)[0]
        name = str(detail["loc"][0])
        expected = describe_expected(Options.model_fields[name])
        raise OptionError(f"{name} is {detail['input']!r}; expected {expected}.") from None


def describe_expected(field: FieldInfo) -> str:
    """What a field takes, as errors say it: its description, else its choices, bounds or kind."""
    if field.description:
        return field.description
    if choices := values_of(field.annotation):
        return " or ".join([", ".join(choices[:-1]), choices[-1]])
    if field.annotation is bool:
        return "true or false"
    bounds = {key: getattr(one, key) for one in field.metadata for key in ("ge", "le") if hasattr(one, key)}
    return f"a whole number from {bounds['ge']} to {bounds['le']}"


def names_of(choices: type) -> frozenset[str]:
    """The keywords of one of the TypedDicts above."""
    return frozenset(choices.__optional_keys__)  # type: ignore[attr-defined]


def refuse_unknown(given: Mapping[str, object], known: type) -> None:
    """OptionError for a keyword that the TypedDict `known` lacks, with the nearest that it has."""
    for name in given:
        if name not in names_of(known):
            near = get_close_matches(name, sorted(names_of(known)), n=1)
            raise OptionError(f"there is no option {name!r}" + (f"; did you mean {near[0]!r}?" if near else "."))


@dataclass(frozen=True)
class Extras:
    """group: the column of evaluation log and hold-out that says which rows belong together; ablation: every replaced
    table alone; control: the original fine-tuned as the converted model is.
    """

    group: str | None = None
    ablation: bool = False
    control: bool = False

    def check(self, options: Options, *, data: bool, val: bool, evaluation: bool) -> None:
        """LogError where a measurement lacks its data, OptionError for a control run of no training."""
        if self.group and not (val or evaluation):
            raise LogError("--group needs a hold-out or evaluation data; add --val or --eval.")
        for wanted, name in ((self.ablation, "--ablation"), (self.control, "--control")):
            if wanted and not evaluation:
                raise LogError(f"{name} needs evaluation data; add --eval.")
        if not self.control:
            return
        missing = [name for name, given in (("--data", data), ("--val", val)) if not given]
        if missing:
            raise LogError(
                f"--control repeats the fine-tuning on the original, and that needs {' and '.join(missing)}; add it."
            )
        if not options.epochs:
            raise OptionError("--control repeats the fine-tuning on the original, and --epochs 0 asks for none.")


NO_EXTRAS = Extras()
