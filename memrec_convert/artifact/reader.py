"""From a file back to a model: nothing is run from it, and nothing in it is believed unchecked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from memrec_convert.artifact.dense import widen_tensors
from memrec_convert.artifact.expanding import expand_tables
from memrec_convert.artifact.layout import LARGEST_HEADER, METADATA_KEY
from memrec_convert.artifact.metadata import METADATA_ATTRIBUTE, Metadata, digest_tensor, parse_metadata
from memrec_convert.artifact.quoting import quote_error
from memrec_convert.choices import Compute
from memrec_convert.encoding.index import check_index
from memrec_convert.encoding.spec import TableSpec, table_spec_from_json
from memrec_convert.errors import ArtifactError, BudgetError, ModelError
from memrec_convert.lookup import (
    CompressedEmbeddingBag,
    CompressedModule,
    CompressedTable,
    CompressedWeight,
    HashGroup,
    build_module,
    find_tables,
    hasten,
    hold_table,
    named_tables,
    spread_state,
)
from memrec_convert.lookup.copying import replace_references
from memrec_convert.lookup.memory import settle
from memrec_convert.models import build_model, settle_compute
from memrec_convert.parallel import plain_tensors
from memrec_convert.safe_files import as_path
from memrec_convert.units import parse_budget


@dataclass(frozen=True)
class Artifact:
    """An artifact's file in memory: its metadata and tensors by name."""

    path: Path
    metadata: Metadata
    tensors: Mapping[str, Tensor]
    nbytes: int


def read_artifact(path: str | Path) -> Artifact:
    """Reads header and tensors, and checks the digest of each; ArtifactError in one sentence for anything else."""
    path = as_path(path, ArtifactError)
    try:
        if not path.exists():
            raise ArtifactError(f"there is no file {path}; check the path.")
        if not path.is_file():
            raise ArtifactError(f"{path} is no file; an artifact is one .safetensors file.")
        _check_length(path)
        with safe_open(path, framework="pt") as file:
            metadata = parse_metadata((file.metadata() or {}).get(METADATA_KEY), str(path))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except SafetensorError as error:
        way = "convert the source again" if is_artifact(path) else "pass the file that convert or save wrote"
        raise ArtifactError(f"{path} is no readable safetensors file ({quote_error(error)}); {way}.") from error
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror or error}; check the file.") from error
    if set(metadata.digests) != set(tensors):
        odd = sorted(set(metadata.digests) ^ set(tensors))[:3]
        raise ArtifactError(
            f"{path}: the tensors {odd} are missing or unknown to its metadata; convert the source again."
        )
    artifact = Artifact(path, metadata, tensors, path.stat().st_size)
    check_digests(artifact)
    return artifact


def _check_length(path: Path) -> None:
    """The header is of a bearable size: a parser's memory is many times what it parses."""
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
    if LARGEST_HEADER < length < path.stat().st_size:
        raise ArtifactError(f"{path}: its header takes {length} bytes; an artifact has {LARGEST_HEADER:,} at most.")


def check_digests(artifact: Artifact) -> None:
    """Every tensor's bytes are those that were written."""
    for name, tensor in artifact.tensors.items():
        if digest_tensor(tensor) != artifact.metadata.digests[name]:
            raise ArtifactError(
                f"{artifact.path} > {name}: its bytes do not match their digest: the file was damaged after it was "
                "written; convert the source again."
            )


def load(
    path: str | Path,
    into: nn.Module | None = None,
    *,
    compute: Compute | Literal["auto"] | None = None,
    expand: str | int | None = None,
) -> nn.Module:
    """The model of an artifact, ready to run, in eval mode.

    A known network is built by itself. For a model of your own class give a fresh instance as `into`: the weights of
    its embedding modules are replaced in place, every other tensor is loaded from the file, and it is returned.
    `compute` is what products of the dense part are taken in: "fp32", "bf16", "int8", or "auto" for the narrowest that
    is fast here; without it, what the file says. It warns where that is slow on this machine.
    `expand` is memory, in bytes or as "8MB" or "llc", into which small tables are decoded at once, to the same bits:
    rows that the caches hold are copied faster than codes are decoded.
    ArtifactError where the file is unsound, ModelError where `into` does not match it, BudgetError for no such size.
    """
    room = 0 if expand is None else parse_room(expand)
    if into is not None and not isinstance(into, nn.Module):
        raise ModelError(
            f"into is a {type(into).__name__}; expected a fresh instance of the class that was compressed."
        )
    with plain_tensors():
        artifact = read_artifact(path)
        model = _build(artifact, into)
        settle_compute(model, compute or artifact.metadata.compute, asked=compute is not None)
        expand_tables(find_tables(model), room)
        return model


def parse_room(text: str | int) -> int:
    """Bytes of a size such as "8MB" or "llc"; BudgetError for a share, or where it is none."""
    room = parse_budget(text).fixed_bytes
    if room is None:
        raise BudgetError(f"expand is {text!r}, a share; expected bytes, a size such as 8MB, or llc.")
    return room


def _build(artifact: Artifact, into: nn.Module | None) -> nn.Module:
    path, modules = artifact.path, build_modules(artifact)
    if into is not None:
        return _load_into(artifact, modules, into)
    if artifact.metadata.architecture is None:
        raise ArtifactError(
            f"{path} holds a model of its own class, which no file can bring along; give a fresh instance: "
            "load(path, into=model)."
        )
    tables = [modules[f"tables.{number}"] for number in range(len(modules)) if f"tables.{number}" in modules]
    if len(tables) != len(modules):
        raise ArtifactError(f"{path}: its tables are not numbered from 0; convert the source again.")
    check_architecture(artifact, artifact.metadata.architecture, modules)
    model = build_model(artifact.metadata.architecture, tables)
    _fill(artifact, model)
    return model.eval().requires_grad_(False)


def check_architecture(
    artifact: Artifact, architecture: Mapping[str, object], modules: Mapping[str, CompressedModule]
) -> None:
    """The network can be built from what is in the file; tried without memory, its sizes being the file's own word."""
    alone = architecture.get("name") == "tables"
    for name, table in modules.items():
        pools = isinstance(table, CompressedEmbeddingBag)
        if pools == alone or getattr(table, "include_last_offset", False):
            raise ArtifactError(
                f"{artifact.path} > {name}: it takes ids in another way than the network gives them; the file "
                "is damaged, convert the source again."
            )
    try:
        with torch.device("meta"):
            hollow = build_model(architecture, [nn.Identity() for _ in modules])
        for name, tensor in hollow.state_dict().items():
            source = artifact.metadata.aliases.get(name, name)
            if source not in artifact.tensors or artifact.tensors[source].shape != tensor.shape:
                raise ModelError(f"{name} is not in the file with the shape {list(tensor.shape)}.")
    except (ModelError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, ArithmeticError) as error:
        raise ArtifactError(
            f"{artifact.path}: its description of the network is damaged ({quote_error(error)})."
        ) from error


def _load_into(artifact: Artifact, modules: Mapping[str, CompressedModule], into: nn.Module) -> nn.Module:
    """Puts each table where the weight of its module was, and wherever the instance or the file ties that weight."""
    slots = {name: (module, own) for name, module, own in _list_slots(into)}
    ties = {name: source for name, source in artifact.metadata.aliases.items() if name in slots}
    weights: dict[int, nn.Parameter] = {}
    swaps: dict[int, tuple[Tensor, Tensor]] = {}
    for path, table in modules.items():
        module, own = slots.get(f"{path}.weight", (None, ""))
        if not isinstance(module, nn.Embedding | nn.EmbeddingBag):
            raise ModelError(
                f"{artifact.path} has a table at {path!r}, and the given {type(into).__name__} has no module there "
                "that looks up rows; give a fresh instance of the class that was compressed."
            )
        old: Any = module._parameters[own]
        if is_lazy(old):
            raise ModelError(f"{type(into).__name__} > {path} has no shape yet; run the model once first.")
        if isinstance(old, CompressedWeight):
            raise ModelError(f"{type(into).__name__} > {path} is compressed already; give a fresh instance.")
        if tuple(old.shape) != (table.spec.rows, table.spec.dim):
            raise ModelError(
                f"{artifact.path} > {path}: a table of {table.spec.rows} x {table.spec.dim}, and the given "
                f"{type(into).__name__} has one of {list(old.shape)}; give a fresh instance of the class that was "
                "compressed."
            )
        plain = artifact.metadata.modules[path]
        if "place" not in artifact.metadata.modules[str(plain.get("same_as", path))]:
            _refuse_other_use(artifact, path, table, module)
        new = weights.setdefault(id(table), hold_table(table, old.dtype))
        for name, (holder, attribute) in slots.items():
            known: Any = holder._parameters[attribute]
            if known is old or (ties.get(name) == f"{path}.weight" and known.shape == old.shape):
                swaps[id(known)] = (known, new)
    _refuse_hollow(into, swaps)
    replace_references(into, swaps)
    hasten(into)
    _fill(artifact, into)
    return into.eval()


def _refuse_hollow(into: nn.Module, swaps: Mapping[int, object]) -> None:
    """ModelError where a tensor that the tables leave in place holds no numbers."""
    for path, module in into.named_modules():
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None and id(tensor) not in swaps and (is_lazy(tensor) or tensor.is_meta):
                problem = (
                    "has no shape yet; run the model once" if is_lazy(tensor) else "is on the meta device; make it"
                )
                raise ModelError(f"{type(into).__name__} > {path}.{name} {problem} on the CPU first.")


def _refuse_other_use(artifact: Artifact, path: str, table: CompressedModule, module: nn.Module) -> None:
    """ModelError where the instance's module would pool rows in another way than the one that was compressed."""
    pools, was = isinstance(module, nn.EmbeddingBag), isinstance(table, CompressedEmbeddingBag)
    names = ("mode", "include_last_offset", "padding_idx") if pools and was else ()
    pairs = [(name, getattr(module, name), getattr(table, name)) for name in names]
    wrong = [f"{name} {found}, expected {expected}" for name, found, expected in pairs if found != expected]
    if pools != was:
        wrong = [f"an {type(module).__name__}, expected one that {'pools' if was else 'does not pool'}"]
    if wrong:
        raise ModelError(
            f"{artifact.path} > {path}: the given model has {'; '.join(wrong)}; give a fresh instance of the class "
            "that was compressed, made with the same arguments."
        )


def _list_slots(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Every place of a parameter: its name, its module and its name there; tied ones as often as they have names."""
    for path, module in model.named_modules(remove_duplicate=False):
        for name, parameter in module._parameters.items():
            if parameter is not None:
                yield f"{path}.{name}" if path else name, module, name


def build_modules(artifact: Artifact, *, filled: bool = False) -> dict[str, CompressedModule]:
    """The compressed module of every path in the file, empty or with its tensors; shared ones are one object."""
    groups: dict[str, HashGroup] = {}
    modules: dict[str, CompressedModule] = {}
    try:
        for path, plain in artifact.metadata.modules.items():
            if "same_as" not in plain:
                if plain.get("place", "weight") != "weight":
                    raise ValueError(f"place {plain['place']!r} is unknown")
                _check_shapes(artifact, path, table_spec_from_json(plain))
                modules[path] = build_module(plain, groups)
        for path, plain in artifact.metadata.modules.items():
            if "same_as" in plain:  # possibly of a path that comes after it: the file has them in alphabetical order
                modules[path] = modules[plain["same_as"]]
    except (ValueError, LookupError, TypeError, AttributeError, RuntimeError, ArithmeticError) as error:
        raise ArtifactError(
            f"{artifact.path}: its description of the tables is damaged ({quote_error(error)})."
        ) from error
    if filled:
        stored = _stored_tensors(artifact)
        for path, module in modules.items():
            state = {f"{path}.{name}": buffer for name, buffer in module.state_dict().items()}
            _copy_tensors(artifact, stored, state, complete=False)
    return modules


def _check_shapes(artifact: Artifact, path: str, spec: TableSpec) -> None:
    """The file has the tensors that a spec demands, before memory is taken for them on the spec's word alone."""
    demanded = spec.tensors()
    if spec.hashing is not None:
        demanded |= {f"group.{name}": shape for name, shape in spec.hashing.tensors().items()}
    for name, (dtype, shape) in demanded.items():
        own = f"{path}.{name}"
        tensor = artifact.tensors.get(artifact.metadata.aliases.get(own, own))
        if tensor is None or tensor.dtype != dtype or tuple(tensor.shape) != shape:
            found = "none" if tensor is None else f"{tensor.dtype} {list(tensor.shape)}"
            raise ArtifactError(
                f"{artifact.path} > {own}: found {found}, expected {dtype} {list(shape)}; convert the source again."
            )


def _fill(artifact: Artifact, model: nn.Module) -> None:
    """Puts every tensor of the file where it belongs, checks every index, and leaves the metadata on the model."""
    _copy_tensors(artifact, _stored_tensors(artifact), spread_state(model)[0], complete=True)
    for path, table in named_tables(model):
        check_table(table, f"{artifact.path} > {path}")
    tables = find_tables(model)
    settle([*tables, *{id(table.group): table.group for table in tables if table.group is not None}.values()])
    setattr(model, METADATA_ATTRIBUTE, artifact.metadata)


def _stored_tensors(artifact: Artifact) -> Mapping[str, Tensor]:
    """The file's tensors under all of their names, int8 matrices of the dense part as float32."""
    stored = widen_tensors(artifact.tensors, artifact.metadata.dense, str(artifact.path))
    for name, source in artifact.metadata.aliases.items():
        if source in stored:
            stored.setdefault(name, stored[source])
    return stored


def _copy_tensors(
    artifact: Artifact, stored: Mapping[str, Tensor], state: Mapping[str, Tensor], *, complete: bool
) -> None:
    """Fills the tensors of `state` by name; shapes and dtypes must match; where `complete`, no tensor may be left."""
    missing, extra = sorted(set(state) - set(stored)), sorted(set(stored) - set(state))
    if missing or (extra and complete):
        raise ModelError(
            f"{artifact.path} does not fit the model: it lacks {missing[:3] or 'nothing'} and has "
            f"{extra[:3] or 'nothing'} too much; give a fresh instance of the class that was compressed."
        )
    for name, target in state.items():
        tensor = stored[name]
        if tuple(tensor.shape) != tuple(target.shape):
            raise ModelError(
                f"{artifact.path} > {name}: shape {list(tensor.shape)}, expected {list(target.shape)}; give a fresh "
                "instance of the class that was compressed."
            )
        if tensor.dtype != target.dtype and not (tensor.dtype == torch.bfloat16 and target.dtype == torch.float32):
            raise ArtifactError(f"{artifact.path} > {name}: dtype {tensor.dtype}, expected {target.dtype}.")
        try:
            with torch.no_grad():
                target.copy_(tensor)
        except RuntimeError as error:  # memory that shows one number several times, and the like
            raise ModelError(
                f"{artifact.path} > {name} cannot be written into the model ({quote_error(error)})."
            ) from error


def check_table(module: CompressedTable, where: str) -> None:
    """Refuses indices that point outside their level: codes cannot leave their codebook, its size being 2**bits."""
    for number, level in enumerate(module.spec.levels):
        problem = check_index(level.index, module.get_buffer(f"level{number}_index"))
        if problem:
            raise ArtifactError(
                f"{where}: the index of level {number} is damaged ({problem}); convert the source again."
            )


def is_artifact(path: Path) -> bool:
    """Whether a file begins as this tool's artifacts do; whether it is sound is for its reader to say."""
    try:
        with path.open("rb") as stream:
            start = stream.read(64)
    except OSError:
        return False
    return f'"__metadata__":{{"{METADATA_KEY}"'.encode() in start
