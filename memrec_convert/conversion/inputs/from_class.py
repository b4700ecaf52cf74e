"""The subject of a conversion, from a checkpoint file and the class of its network, named by the user.

The class is imported because the caller names it, never because the file does; the file's tensors come through our own
reader and are copied into a fresh instance by name.
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
from memrec_convert.conversion.inputs.from_checkpoint import LogBatches, LogChoices
from memrec_convert.conversion.inputs.from_module import make_subject as make_module_subject
from memrec_convert.conversion.inputs.subject import Subject
from memrec_convert.errors import CheckpointError, ModelError, OptionError
from memrec_convert.evaluation.scoring import Forward

_FAILURES = (
    ImportError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What a caller's own class, constructor or forward may raise."""

_KEYS = ("args", "init_args", "forward", "outputs", "inputs", "dense", "dense_transform")
_CLASS_KEYS = {"class_path", "init_args"}
_LEAST_PROBABILITY = 1e-7
_COUNTERS = "num_batches_tracked"


@dataclass(frozen=True)
class OwnClass:
    """A network's class, and how it is built and called; the texts are those of `--model` and `--model-args`.

    args, init_args   what the class is called with; a mapping {class_path, init_args} in it becomes such an object
    forward           logits [B] of the model on a `Batch` of the log; without it, model(batch.dense, batch.ids)
    outputs           "logits", or "probabilities", which are turned into logits
    inputs            the log's id columns -> the ids that each has; without it, one for each table of the model
    dense             how many dense columns of the log the model reads, and what training did to them
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
        """A fresh instance in eval mode; ModelError where that fails, or it is no module."""
        make = import_named(self.name, "--model")
        with _own_failures(f"{self.name} could not be built with these arguments"):
            made = make(*_build_objects(self.args), **_build_objects(dict(self.init_args)))
        if not isinstance(made, nn.Module):
            raise ModelError(f"{self.name} gave a {type(made).__name__}; expected a torch.nn.Module.")
        return made.eval()

    def runner(self, model: nn.Module) -> Forward:
        """Logits float32 [B] of the model on a batch of the log; what it raises becomes a ModelError."""
        own = import_named(self.forward, "forward") if self.forward else None
        if own is None:
            _check_signature(self.name, model)

        def run(model: nn.Module, batch: Batch) -> Tensor:
            with _own_failures(f"{self.forward or self.name} failed on a batch of the log"):
                found = own(model, batch) if own else model(batch.dense, batch.ids)
            if not isinstance(found, Tensor) or found.numel() != batch.rows:
                shown = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
                raise ModelError(
                    f"{self.forward or self.name} gave {shown} for {batch.rows} samples; expected a tensor with one "
                    "logit for each: give a function (model, batch) -> logits as `forward` in --model-args."
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
    """The class `package.module:Class` with the arguments of a YAML file; OptionError for anything else in it."""
    if name is None and arguments is not None:
        raise OptionError("--model-args are the arguments of a class, and there is none; add --model.")
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
    """What `package.module:name` is, looked for in the working directory too; ModelError where there is none."""
    module, separator, attribute = name.partition(":")
    if not separator:
        module, _, attribute = name.rpartition(".")
    if not module or not attribute:
        raise ModelError(f"{what} {name!r} is no package.module:Class.")
    with _own_failures(f"{what} {name} cannot be imported"), _working_directory():
        found = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    if not callable(found):
        raise ModelError(f"{what} {name} is a {type(found).__name__}; expected a class or a function.")
    return cast("Callable[..., Any]", found)


def read_own_source(path: Path, own: OwnClass, choices: LogChoices) -> tuple[SourceModel, OwnModel]:
    """The checkpoint, checked, and an instance of the class that holds its tensors."""
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
    order = [] if own.inputs else [f"the log's ids are those of {', '.join(inputs)}, in this order"]
    assumed = (*order, *source.assumed)
    known = {key: accumulators[stored] for key, stored in names.items() if stored in accumulators}
    return replace(source, layout=own.name, architecture=architecture, assumed=assumed), OwnModel(own, module, known)


def fill_module(model: nn.Module, state: StateDict, where: str, name: str) -> dict[str, str]:
    """Copy the file's tensors into a module; the file's name of each of the module's entries.

    Names may differ by wrappers' prefixes. CheckpointError unless every entry has one of its shape, and none is left.
    """
    wanted = dict(model.state_dict(keep_vars=True))
    names = _match_names(list(wanted), state)
    missing = [key for key in wanted if key not in names and not key.endswith(_COUNTERS)]
    left = [key for key, value in state.items() if isinstance(value, StoredTensor) and key not in set(names.values())]
    for keys, verb in ((missing, "lacks"), (left, "also holds")):
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            raise CheckpointError(
                f"{where}: {verb} {', '.join(keys[:3])}{more}, by the entries of {name} as it was built; give "
                "--model-args with which it was trained."
            )
    with torch.no_grad():
        for key, stored in names.items():
            value, target = state[stored], wanted[key]
            if not isinstance(value, StoredTensor) or value.shape != tuple(target.shape):
                found = list(value.shape) if isinstance(value, StoredTensor) else type(value).__name__
                raise CheckpointError(
                    f"{where} > {stored}: {found}, expected {list(target.shape)} by {name} as it was built; give "
                    "--model-args with which it was trained."
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
) -> tuple[Subject, tuple[str, ...]]:
    """The subject and its warnings; one batch is tried first, so that a wrong forward is refused before any work."""
    forward = model.own.runner(model.module)
    for batches in (train, hold_out, judged):
        if batches is not None:
            _try_batch(model, forward, batches)
    subject, warnings = make_module_subject(
        model.module, forward=forward, train=train, hold_out=hold_out, optimizer=None, allow_nonfinite=allow_nonfinite
    )
    known = model.accumulators
    states = ([known[f"{path}.weight"] for path in site.paths if f"{path}.weight" in known] for site in subject.sites)
    sites = (replace(site, optimizer=next(iter(own), None)) for site, own in zip(subject.sites, states, strict=True))
    return replace(subject, sites=tuple(sites)), warnings


def _try_batch(model: OwnModel, forward: Forward, batches: LogBatches) -> None:
    own, batch = model.own, next(batches.stream())
    with torch.no_grad():
        logits = forward(model.module, batch)
    if not bool(torch.isfinite(logits).all()):
        raise ModelError(f"{own.name}: its outputs on {batches.log.paths[0]} are not all finite.")
    if own.outputs == "logits" and len(logits) > 1 and bool(((logits >= 0) & (logits <= 1)).all()):
        raise ModelError(
            f"{own.name}: its outputs on {batches.log.paths[0]} all lie between 0 and 1, as probabilities do; say "
            "`outputs: probabilities` in --model-args, or give a `forward` that returns logits."
        )


def own_names(source: SourceModel) -> list[str]:
    """The log's id columns that the model reads."""
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
    """ModelError where a forward does not take dense values and ids, and nothing says how it is called."""
    parameters = inspect.signature(model.forward).parameters.values()
    places = [one for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    needed = [
        one for one in parameters if one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    ]
    open_ended = any(one.kind is one.VAR_POSITIONAL for one in parameters)
    if len(needed) > 2 or (len(places) < 2 and not open_ended):
        shown = ", ".join(one.name for one in parameters)
        raise ModelError(
            f"{name}.forward takes ({shown}), not (dense, ids); give a function (model, batch) -> logits as `forward` "
            "in --model-args, such as my_code:logits."
        )


@contextmanager
def _own_failures(what: str) -> Iterator[None]:
    """Whatever the caller's own code raises as a ModelError of one sentence."""
    try:
        yield
    except _FAILURES as error:
        reason = " ".join(str(error).split())[:300].rstrip(".")
        raise ModelError(f"{what}: {type(error).__name__}: {reason}.") from error


@contextmanager
def _working_directory() -> Iterator[None]:
    """The working directory among the places where modules are looked for, as `python -m` has it."""
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        yield
    finally:
        if added and here in sys.path:
            sys.path.remove(here)
