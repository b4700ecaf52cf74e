"""The subject of a conversion, made from a checkpoint file and its network's class, which the user names.

The class is imported because the caller names it, never because the file does. Our own reader reads the file's tensors
and copies them into a new instance by name.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from torch import Tensor, nn

from memrec_convert.checkpoint import SourceModel, StateDict, StoredTensor, read_state, verify_storage
from memrec_convert.checkpoint.state_dict import strip_name
from memrec_convert.clicklog import Batch
from memrec_convert.conversion.inputs.batches import wrap_loss
from memrec_convert.conversion.inputs.from_checkpoint import LogBatches, LogChoices
from memrec_convert.conversion.inputs.from_module import make_subject as make_module_subject
from memrec_convert.conversion.inputs.subject import Subject
from memrec_convert.errors import CheckpointError, ModelError, OptionError, OwnCode
from memrec_convert.evaluation.goal import CLICKS, Goal, choose_goal
from memrec_convert.evaluation.objectives import BINARY, Objective, OwnLoss, tidy
from memrec_convert.evaluation.scoring import Forward

_KEYS = ("args", "init_args", "forward", "outputs", "inputs", "dense", "dense_transform")
_CLASS_KEYS = {"class_path", "init_args"}
_LEAST_PROBABILITY = 1e-7
_COUNTERS = "num_batches_tracked"


@dataclass(frozen=True)
class OwnClass:
    """A network's class, and how to build and call it, as given in `--model` and `--model-args`.

    args, init_args   arguments of the class; a mapping {class_path, init_args} in them is built into an object
    forward           returns logits [B] of the model on a `Batch` of the log; default: model(batch.dense, batch.ids)
    outputs           "logits", or "probabilities", which are converted to logits
    inputs            the log's id columns -> their number of ids; default: one column for each table of the model
    dense             how many dense columns of the log the model reads; `dense_transform`: how training changed them
    """

    name: str
    args: Sequence[Any] = ()
    init_args: Mapping[str, Any] = field(default_factory=dict)
    forward: str | None = None
    outputs: str = "logits"
    inputs: Mapping[str, int] | None = None
    dense: int = 0
    dense_transform: str = "identity"

    def build(self) -> nn.Module:
        """Builds a new instance in eval mode; ModelError if that fails, or if it is not a module."""
        make = import_named(self.name, "--model")
        with _own_failures(f"{self.name} could not be built with these arguments"):
            made = make(*_build_objects(self.args), **_build_objects(dict(self.init_args)))
        if not isinstance(made, nn.Module):
            raise ModelError(f"{self.name} returned a {type(made).__name__}; expected a torch.nn.Module.")
        return made.eval()

    def runner(self, model: nn.Module, *, wide: bool = False) -> Forward:
        """Returns the forward: logits float32 [B] on a batch of the log. Whatever it raises becomes a ModelError.

        wide   a sample may have several numbers, [B, k]
        """
        own = import_named(self.forward, "forward") if self.forward else None
        if own is None:
            _check_signature(self.name, model)

        def run(model: nn.Module, batch: Batch) -> Tensor:
            with _own_failures(f"{self.forward or self.name} failed on a batch of the log"):
                found = own(model, batch) if own else model(batch.dense, batch.ids)
            if wide and isinstance(found, Tensor) and found.dim() == 2 and len(found) == batch.rows:
                return tidy(found)
            if not isinstance(found, Tensor) or found.numel() != batch.rows:
                shown = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
                raise ModelError(
                    f"{self.forward or self.name} returned {shown} for {batch.rows} samples; expected a tensor of one "
                    "logit per sample: add a function (model, batch) -> logits as `forward` in --model-args."
                )
            flat = found.reshape(-1)
            return torch.logit(flat, eps=_LEAST_PROBABILITY) if self.outputs == "probabilities" else flat

        return cast("Forward", run)


@dataclass(frozen=True)
class OwnModel:
    """An instance that holds a checkpoint's tensors, and Adagrad's accumulators by the instance's names."""

    own: OwnClass
    module: nn.Module
    accumulators: Mapping[str, StoredTensor]


def read_own_class(name: str | None, arguments: str | Path | None) -> OwnClass | None:
    """Returns the class `package.module:Class` with its arguments from a YAML file; OptionError if that is invalid."""
    if name is None and arguments is not None:
        raise OptionError("--model-args needs a class; add --model.")
    if name is None:
        return None
    if arguments is None:
        return OwnClass(name)
    try:
        given = yaml.safe_load(Path(arguments).read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise OptionError(f"{arguments}: cannot be read as YAML ({reason[:200]}); check --model-args.") from error
    if not isinstance(given, dict) or not set(given) <= set(_KEYS):
        odd = ", ".join(map(str, set(given) - set(_KEYS))) if isinstance(given, dict) else type(given).__name__
        raise OptionError(f"{arguments}: found {odd}; expected a mapping with some of {', '.join(_KEYS)}.")
    inputs, dense = given.get("inputs"), given.get("dense", 0)
    sizes = list(inputs.values()) if isinstance(inputs, dict) else []
    if not all(type(size) is int and size > 0 for size in [*sizes, dense + 1 if type(dense) is int else None]) or (
        inputs is not None and not sizes
    ):
        raise OptionError(f"{arguments}: expected `inputs` as {{COLUMN: IDS}} and `dense` as a number of columns.")
    if given.get("outputs", "logits") not in ("logits", "probabilities"):
        raise OptionError(f"{arguments}: outputs is {given['outputs']!r}; expected logits or probabilities.")
    return OwnClass(name, **given)


def import_named(name: str, what: str) -> Callable[..., Any]:
    """Imports `package.module:name`, also from the working directory; ModelError if there is none."""
    module, separator, attribute = name.partition(":")
    if not separator:
        module, _, attribute = name.rpartition(".")
    if not module or not attribute:
        raise ModelError(f"{what} {name!r} is no package.module:Class; expected a name such as my_code:Ranker.")
    with _own_failures(f"{what} {name} cannot be imported"), _working_directory():
        found = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    if not callable(found):
        raise ModelError(f"{what} {name} is a {type(found).__name__}; expected a class or a function.")
    return cast("Callable[..., Any]", found)


def read_own_source(path: Path, own: OwnClass, choices: LogChoices) -> tuple[SourceModel, OwnModel]:
    """Returns the verified checkpoint, and an instance of the class with its tensors."""
    source, state, accumulators = read_state(path, facts=choices.facts)
    verify_storage(source)
    module = own.build()
    names = fill_module(module, state, str(path), own.name)
    inputs = own.inputs or dict(_list_tables(module))
    architecture: dict[str, object] = {
        "tables": [[rows, 1] for rows in inputs.values()],
        "input_names": list(inputs),
        "bottom": [own.dense],
        "dense_transform": choices.facts.dense_transform or own.dense_transform,
    }
    order = [] if own.inputs else [f"the log's id columns belong to {', '.join(inputs)}, in this order"]
    assumed = (*order, *source.assumed)
    known = {key: accumulators[stored] for key, stored in names.items() if stored in accumulators}
    return replace(source, layout=own.name, architecture=architecture, assumed=assumed), OwnModel(own, module, known)


def fill_module(model: nn.Module, state: StateDict, where: str, name: str) -> dict[str, str]:
    """Copies the file's tensors into a module, and returns the file's name for each entry of the module.

    Names may differ by wrappers' prefixes. CheckpointError unless every entry gets a tensor of its shape and no tensor
    is left over.
    """
    wanted = dict(model.state_dict(keep_vars=True))
    names = _match_names(list(wanted), state)
    missing = [key for key in wanted if key not in names and not key.endswith(_COUNTERS)]
    left = [key for key, value in state.items() if isinstance(value, StoredTensor) and key not in set(names.values())]
    for keys, verb in ((missing, "lacks"), (left, "also holds")):
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            raise CheckpointError(
                f"{where}: {verb} {', '.join(keys[:3])}{more}, compared with {name} as built; set --model-args to the "
                "arguments that it was trained with."
            )
    with torch.no_grad():
        for key, stored in names.items():
            value, target = state[stored], wanted[key]
            if not isinstance(value, StoredTensor) or value.shape != tuple(target.shape):
                found = list(value.shape) if isinstance(value, StoredTensor) else type(value).__name__
                raise CheckpointError(
                    f"{where} > {stored}: found {found}, expected {list(target.shape)} for {name}; set --model-args "
                    "to the arguments that it was trained with."
                )
            read = torch.from_numpy(value.read()).reshape(target.shape)
            if read.is_floating_point() != target.is_floating_point():
                raise CheckpointError(f"{where} > {stored}: stored as {value.dtype}, expected {target.dtype}.")
            target.copy_(read)
    return names


def _match_names(wanted: Sequence[str], state: StateDict) -> dict[str, str]:
    """The module's names -> the file's, wrappers' prefixes aside, or else below one prefix that the file has."""
    plain = {strip_name(key): key for key in wanted}
    if len(plain) < len(wanted):
        plain = {key: key for key in wanted}
    first = next(iter(plain), "")
    prefixes = ["", *(key.removesuffix(first) for key in state if first and key.endswith(f".{first}"))]
    best = max(prefixes, key=lambda prefix: sum(prefix + key in state for key in plain))
    return {key: best + name for name, key in plain.items() if best + name in state}


def make_own_subject(
    model: OwnModel,
    *,
    train: LogBatches | None,
    hold_out: LogBatches | None,
    judged: LogBatches | None,
    allow_nonfinite: bool,
    goal: Goal = CLICKS,
) -> tuple[Subject, tuple[str, ...]]:
    """Returns the subject and warnings; it tries one batch first, to refuse a wrong forward before any work."""
    forward = model.own.runner(model.module, wide=goal.objective.wide)
    goal = wrap_loss(goal, _guard_loss)
    for batches in (train, hold_out, judged):
        if batches is not None:
            _try_batch(model, forward, batches, goal.objective)
    subject, warnings = make_module_subject(
        model.module,
        forward=forward,
        train=train,
        hold_out=hold_out,
        optimizer=None,
        allow_nonfinite=allow_nonfinite,
        goal=goal,
    )
    known = model.accumulators
    states = ([known[f"{path}.weight"] for path in site.paths if f"{path}.weight" in known] for site in subject.sites)
    sites = (replace(site, optimizer=next(iter(own), None)) for site, own in zip(subject.sites, states, strict=True))
    return replace(subject, sites=tuple(sites)), warnings


def choose_log_goal(objective: object, metric: object, higher_is_better: bool | None, own: OwnClass | None) -> Goal:
    """The goal of these choices, functions also as "package.module:function"; OptionError without a class of one's own.

    A network that is known predicts clicks, and is judged by their AUC.
    """
    loss, figure = (
        import_named(one, what) if isinstance(one, str) and ":" in one else one
        for one, what in ((objective, "--objective"), (metric, "--metric"))
    )
    goal = choose_goal(loss, figure, higher_is_better)
    if own is None and not goal.is_plain:
        raise OptionError("--objective and --metric are for networks of your own class; add --model.")
    if own is not None and own.outputs == "probabilities" and goal.objective is not BINARY:
        raise OptionError("`outputs: probabilities` is for clicks; leave it out of --model-args, or --objective.")
    return goal


def _guard_loss(own: Forward) -> Forward:
    """The user's own loss, whose failures become ModelErrors."""

    def run(model: nn.Module, batch: Batch) -> Tensor:
        with _own_failures("--objective failed on a batch of the log"):
            return own(model, batch)

    return cast("Forward", run)


def _try_batch(model: OwnModel, forward: Forward, batches: LogBatches, objective: Objective) -> None:
    own, batch = model.own, next(batches.stream())
    with torch.no_grad():
        logits = forward(model.module, batch)
    if not bool(torch.isfinite(logits).all()):
        raise ModelError(
            f"{own.name}: its outputs on {batches.log.paths[0]} are not all finite; expected a trained model."
        )
    if objective is not BINARY:
        if objective.name == "ranking" and logits.dim() < 2:
            raise ModelError(
                f"{own.forward or own.name} returned one score per sample; expected the scores of all of a request's "
                "candidates, [B, k]: rows of a log are trained on in random order, so their groups cannot be ranked."
            )
        if batch.labels is not None:
            objective.check_fit(objective.check_labels(batch.labels, batches.name), logits, batches.name)
        if isinstance(objective, OwnLoss):
            objective.check_length(objective.run(model.module, batch), batch.rows)
        return
    if own.outputs == "logits" and len(logits) > 1 and bool(((logits >= 0) & (logits <= 1)).all()):
        raise ModelError(
            f"{own.name}: its outputs on {batches.log.paths[0]} all lie between 0 and 1, as probabilities do; set "
            "`outputs: probabilities` in --model-args, or add a `forward` that returns logits."
        )


def own_names(source: SourceModel) -> list[str]:
    """Returns the log's id columns that the model reads."""
    return list(map(str, cast("list[str]", source.architecture["input_names"])))


def _list_tables(model: nn.Module) -> Iterator[tuple[str, int]]:
    for path, module in model.named_modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            yield path, module.num_embeddings


def _build_objects(value: Any) -> Any:  # noqa: ANN401 - YAML
    """YAML values with each {class_path, init_args} built, the innermost first."""
    if isinstance(value, list | tuple):
        return [_build_objects(one) for one in value]
    if not isinstance(value, dict):
        return value
    built = {key: _build_objects(one) for key, one in value.items()}
    if "class_path" not in built or not set(built) <= _CLASS_KEYS:
        return built
    made = import_named(str(built["class_path"]), "class_path")
    if not isinstance(made, type):
        raise ModelError(f"class_path {built['class_path']} is a {type(made).__name__}; expected a class.")
    arguments = built.get("init_args") or {}
    return made(**arguments) if isinstance(arguments, dict) else made(*arguments)


def _check_signature(name: str, model: nn.Module) -> None:
    """Raises ModelError if forward does not take dense values and ids."""
    parameters = inspect.signature(model.forward).parameters.values()
    places = [one for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    needed = [
        one for one in parameters if one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    ]
    open_ended = any(one.kind is one.VAR_POSITIONAL for one in parameters)
    if len(needed) > 2 or (len(places) < 2 and not open_ended):
        shown = ", ".join(one.name for one in parameters)
        raise ModelError(
            f"{name}.forward takes ({shown}), not (dense, ids); add a function (model, batch) -> logits as `forward` "
            "in --model-args, such as my_code:logits."
        )


def _own_failures(what: str) -> OwnCode:
    """Turns whatever the caller's own code raises into a ModelError of one sentence."""
    return OwnCode(lambda said: ModelError(f"{what}: {said.rstrip('.')}."))


@contextmanager
def _working_directory() -> Iterator[None]:
    """Adds the working directory to the import path, as `python -m` does."""
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        yield
    finally:
        if added and here in sys.path:
            sys.path.remove(here)
