"""The subject of a conversion, from a live nn.Module and whatever batches its owner has."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from memrec_convert.artifact.writer import storage_key
from memrec_convert.conversion.inputs.finite_rows import find_nonfinite_rows, refuse_nonfinite
from memrec_convert.conversion.inputs.subject import Subject, TableSite
from memrec_convert.distill.rows import RowReader, TensorRows
from memrec_convert.encoding.spec import TensorShapes
from memrec_convert.errors import IdRangeError, LogError, ModelError
from memrec_convert.evaluation.scoring import Forward


@dataclass(frozen=True)
class LoaderBatches:
    """Anything that can be iterated again and again as a source of batches; `labels` finds those of a batch."""

    loader: Iterable[Any]
    labels: Callable[[Any], Tensor] | None = None

    def stream(self, *, limit: int | None = None, shuffle_seed: int | None = None) -> Iterator[Any]:
        """The loader's own order; shuffling is the loader's business."""
        seen = 0
        for batch in self.loader:
            yield batch
            seen += count_rows(batch)
            if limit is not None and seen >= limit:
                return

    def count_batches(self) -> int:
        """The loader's length where it has one."""
        return len(self.loader) if isinstance(self.loader, Sized) else sum(1 for _ in self.loader)

    @property
    def has_labels(self) -> bool:
        """Whether the caller said where labels are."""
        return self.labels is not None

    @property
    def mark(self) -> str:
        """Nothing: a caller's loader may give other batches in another run."""
        return ""

    def labels_of(self, batch: Any) -> Tensor:  # noqa: ANN401 - the protocol's
        """Labels float32 [rows]."""
        assert self.labels is not None
        return self.labels(batch)


def make_loader(
    batches: Iterable[Any] | None, labels: Callable[[Any], Tensor] | None, name: str, *, hold: bool = False
) -> LoaderBatches | None:
    """A source that can be streamed again; LogError for an empty one.

    An iterator that runs once is put into a list, and so is anything on `hold`: then every pass has the same order,
    where a loader may shuffle anew.
    """
    if batches is None:
        return None
    loader = list(batches) if hold or isinstance(batches, Iterator) else batches
    if next(iter(loader), None) is None:
        raise LogError(f"{name} is empty; give at least one batch, or none at all for a conversion without data.")
    return LoaderBatches(loader, labels)


def call_with_batch(model: nn.Module, batch: Any) -> Tensor:  # noqa: ANN401 - what the loader yields
    """The default forward: model(*batch), or model(**batch) for a mapping."""
    if isinstance(batch, Mapping):
        logits: Tensor = model(**batch)
    else:
        logits = model(*batch) if isinstance(batch, tuple | list) else model(batch)
    return logits


def count_rows(batch: Any) -> int:  # noqa: ANN401 - what the loader yields
    """Samples of a batch: the first length found in it."""
    if isinstance(batch, Tensor):
        return int(batch.shape[0]) if batch.dim() else 1
    parts = list(batch.values()) if isinstance(batch, Mapping) else batch
    return next((count_rows(part) for part in parts if isinstance(part, Tensor | tuple | list | Mapping)), 1)


def make_subject(
    model: nn.Module,
    *,
    forward: Forward | None,
    train: LoaderBatches | None,
    hold_out: LoaderBatches | None,
    optimizer: torch.optim.Optimizer | None,
    allow_nonfinite: bool,
) -> tuple[Subject, tuple[str, ...]]:
    """The subject and its warnings. The given model is not touched: what looks at it works on an eval-mode copy.

    ModelError where there is no embedding table, or one that has no compressed form.
    """
    _refuse_unfit(model)
    states = _find_states(model, optimizer)
    twin = _copy_for_reading(model)
    sites, warnings = [], list[str]()
    for paths in _group_paths(model):
        original, module = model.get_submodule(paths[0]), twin.get_submodule(paths[0])
        reader, note = _make_reader(paths[0], module, allow_nonfinite=allow_nonfinite)
        warnings += [note] if note else []
        sites.append(_make_site(paths, module, reader, states.get(id(original.weight))))
    if not sites:
        raise ModelError(
            f"{type(model).__name__} has no nn.EmbeddingBag or nn.Embedding, so there is no table to compress."
        )
    shapes, aliases = _describe_dense(twin, {f"{path}.weight" for site in sites for path in site.paths})
    run = forward or call_with_batch
    counts = None if train is None else _count_lookups(twin, sites, train, run)
    subject = Subject(
        twin, tuple(sites), run, shapes, None, dense_aliases=aliases, train=train, hold_out=hold_out, counts=counts
    )
    return subject, tuple(warnings)


def _refuse_unfit(model: nn.Module) -> None:
    if isinstance(model, nn.Embedding | nn.EmbeddingBag):
        raise ModelError(f"the model is itself one {type(model).__name__}; give the module that it is a part of.")
    hollow = next((name for name, tensor in model.state_dict(keep_vars=True).items() if is_meta(tensor)), None)
    if hollow is not None:
        raise ModelError(
            f"{type(model).__name__} > {hollow} is on the meta device and holds no numbers; load it first."
        )


def is_meta(value: object) -> bool:
    """Whether a tensor has a shape and nothing else."""
    return isinstance(value, Tensor) and value.is_meta


def _copy_for_reading(model: nn.Module) -> nn.Module:
    """A copy in eval mode on the CPU; max_norm is applied once, since a lookup would apply it to what it reads."""
    twin = copy.deepcopy(model).to("cpu").eval()
    for module in twin.modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.max_norm is not None:
            with torch.no_grad():
                norms = module.weight.norm(p=module.norm_type, dim=1, keepdim=True)
                module.weight.mul_((module.max_norm / norms.clamp(min=1e-12)).clamp(max=1.0))
            module.max_norm = None
    return twin


def _group_paths(model: nn.Module) -> list[tuple[str, ...]]:
    """Paths of embedding modules, those that share their rows together, in the order of the model."""
    groups: dict[int, list[str]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.weight.numel():
            groups.setdefault(module.weight.data_ptr(), []).append(path)
    for paths in groups.values():
        kinds = {_describe_use(model.get_submodule(path)) for path in paths}
        if len(kinds) > 1:
            raise ModelError(
                f"the modules {', '.join(paths)} share one table and use it differently; give each use its own table, "
                "or the same kind, pooling and padding."
            )
    return [tuple(paths) for paths in groups.values()]


def _describe_use(module: nn.Module) -> tuple[object, ...]:
    return (
        isinstance(module, nn.EmbeddingBag),
        getattr(module, "mode", ""),
        getattr(module, "include_last_offset", False),
        module.padding_idx,
    )


def _make_site(paths: tuple[str, ...], module: nn.Module, reader: RowReader, state: Tensor | None) -> TableSite:
    weight = module.get_parameter("weight")
    use: dict[str, Any] = {"pooling": "", "include_last_offset": False, "padding_idx": module.padding_idx}
    if isinstance(module, nn.EmbeddingBag):
        if module.mode == "max":
            raise ModelError(f"{paths[0]} pools with max, which a sum of tokens cannot stand for; use sum or mean.")
        use |= {"pooling": module.mode, "include_last_offset": module.include_last_offset}
    elif isinstance(module.padding_idx, int) and bool((weight[module.padding_idx] != 0).any()):
        use["padding_idx"] = None  # an nn.Embedding reads its padding row like any other, unless it is zero
    return TableSite(
        name=paths[0],
        paths=paths,
        module=module,
        reader=reader,
        nbytes=weight.numel() * weight.element_size(),
        dtype=str(weight.dtype).removeprefix("torch."),
        optimizer=None if state is None else TensorRows(state),
        **use,
    )


def _make_reader(path: str, module: nn.Module, *, allow_nonfinite: bool) -> tuple[RowReader, str]:
    reader = TensorRows(module.get_parameter("weight"))
    count, first = find_nonfinite_rows(reader)
    if not count:
        return reader, ""
    if not allow_nonfinite:
        raise refuse_nonfinite(path, count, first)
    with torch.no_grad():
        module.get_parameter("weight").nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
    return reader, f"{path}: {count} rows with NaN or infinite values are read as zeros (first: {first})"


def _find_states(model: nn.Module, optimizer: torch.optim.Optimizer | None) -> dict[int, Tensor]:
    """Adagrad's accumulated squares by the id of the parameter."""
    if optimizer is None:
        return {}
    state = optimizer.state
    return {
        id(p): state[p]["sum"] for p in model.parameters() if p in state and isinstance(state[p].get("sum"), Tensor)
    }


def _describe_dense(model: nn.Module, table_names: set[str]) -> tuple[TensorShapes, dict[str, str]]:
    shapes: TensorShapes = {}
    aliases: dict[str, str] = {}
    first_name: dict[tuple[object, ...], str] = {}
    for name, tensor in model.state_dict().items():
        if name in table_names:
            continue
        key = storage_key(tensor)
        if tensor.numel() and key in first_name:
            aliases[name] = first_name[key]
        else:
            first_name[key] = name
            shapes[name] = (tensor.dtype, tuple(tensor.shape))
    return shapes, aliases


def refuse_outside(ids: Tensor, site: TableSite) -> None:
    """IdRangeError for ids int64 [n] that are no rows of the table."""
    outside = (ids < 0) | (ids >= site.rows)
    if bool(outside.any()):
        raise IdRangeError(
            f"batches: {int(outside.sum()):,} of the {len(ids):,} ids of one call of {site.name} lie outside its "
            f"{site.rows:,} rows (first: {int(ids[outside][0])}); expected 0 to {site.rows - 1}."
        )


def refuse_answer(logits: object) -> None:
    """ModelError where a forward pass gives no finite logits."""
    if not isinstance(logits, Tensor):
        raise ModelError(
            f"the model gave a {type(logits).__name__}; expected a tensor with one logit per sample: say with forward= "
            "how it is called."
        )
    if not bool(torch.isfinite(logits).all()):
        raise ModelError("the model's logits on batches are not all finite; expected a trained model without NaN.")


def _count_lookups(
    model: nn.Module, sites: list[TableSite], train: LoaderBatches, forward: Forward
) -> tuple[np.ndarray, ...]:
    """Lookups of each id over all batches, seen by the embedding modules themselves."""
    counts = [torch.zeros(site.rows, dtype=torch.int64) for site in sites]

    def watch(number: int) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, args: Any, kwargs: Any) -> None:  # noqa: ANN401 - torch's signature
            ids = (args[0] if args else kwargs["input"]).reshape(-1).long().cpu()
            refuse_outside(ids, sites[number])
            counts[number] += torch.bincount(ids, minlength=sites[number].rows)

        return hook

    places = [(number, path) for number, site in enumerate(sites) for path in site.paths]
    modules = {id(model.get_submodule(path)): (number, model.get_submodule(path)) for number, path in places}
    handles = [module.register_forward_pre_hook(watch(number), with_kwargs=True) for number, module in modules.values()]
    try:
        with torch.no_grad():
            for batch in train.stream():
                refuse_answer(forward(model, batch))
    finally:
        for handle in handles:
            handle.remove()
    return tuple(count.numpy() for count in counts)
