"""An artifact's tables in torchrec models: collections that stand where torchrec's own stood.

They take a KeyedJaggedTensor and return what torchrec's do. All tables of a collection are looked up by one operator in
C++, under `torch.export`, `torch.compile` and `torch.jit.script` too. They serve; to train, compress the model anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Dict, List  # noqa: UP035 - what TorchScript reads

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig, pooling_type_to_str
from torchrec.modules.embedding_modules import (
    EmbeddingBagCollection,
    EmbeddingBagCollectionInterface,
    EmbeddingCollection,
    EmbeddingCollectionInterface,
    get_embedding_names_by_table,
)
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor, KeyedTensor

from memrec_convert.artifact.reader import build_modules, read_artifact
from memrec_convert.errors import ArtifactError, ModelError
from memrec_convert.exports.packed import PackedTables, pack_bytes
from memrec_convert.lookup import CompressedModule, CompressedWeight
from memrec_convert.lookup.weight import use_as
from memrec_convert.safe_files import as_path

__all__ = ["MemrecEmbeddingBagCollection", "MemrecEmbeddingCollection", "make_mapping", "swap"]

Tables = Mapping[str, CompressedModule]
"""Compressed tables by the names that torchrec has for them."""
_UNBOUND: Tables | None = None
"""What classes have for `artifact` that `make_mapping` did not make; TorchScript takes no annotation in them."""


class MemrecEmbeddingBagCollection(EmbeddingBagCollectionInterface):  # type: ignore[misc] # without types
    """Pooled vectors of compressed tables, as torchrec's EmbeddingBagCollection gives them.

    configs      torchrec's, one per table
    tables       a compressed table for each config, by its name
    is_weighted  whether sums take the features' weights
    """

    artifact = _UNBOUND
    __jit_unused_properties__ = ("device",)

    def __init__(self, configs: Sequence[EmbeddingBagConfig], tables: Tables, *, is_weighted: bool = False) -> None:
        super().__init__()
        self._configs, self._is_weighted = list(configs), is_weighted
        chosen = [use_as(_take(tables, config), pooling_type_to_str(config.pooling)) for config in configs]
        if is_weighted and any(getattr(table, "mode", "") == "mean" for table in chosen):
            raise ModelError("weights go with sums, and a table of the collection takes the mean of its bags.")
        uses = [(number, name) for number, config in enumerate(configs) for name in config.feature_names]
        self._tables, self._features = [number for number, _ in uses], [name for _, name in uses]
        self._keys = list(dict.fromkeys(self._features))
        self._names = [name for names in get_embedding_names_by_table(self._configs) for name in names]
        self._lengths = [configs[number].embedding_dim for number in self._tables]
        plan = [(number, self._keys.index(name)) for number, name in uses]
        self.tables = PackedTables(pack_bytes(chosen), plan, self._lengths)

    def forward(self, features: KeyedJaggedTensor) -> KeyedTensor:
        """The pooled vectors float32 [B, sum of dims] of all features, in torchrec's order of tables."""
        keys = features.keys()
        plan = self.tables.plan if keys == self._keys else self._find_plan(keys)
        weights = features.weights().float() if self._is_weighted else self.tables.no_weights
        values = torch.ops.memrec.look_up_bags(
            self.tables.packed, features.values(), features.offsets(), weights, plan, len(keys), self.tables.width
        )
        return KeyedTensor(keys=self._names, length_per_key=self._lengths, values=values)

    def _find_plan(self, keys: List[str]) -> Tensor:  # noqa: UP006 - what TorchScript reads
        """The plan for features in another order, or with others among them."""
        rows: List[int] = []  # noqa: UP006
        for number in range(len(self._tables)):
            rows.append(self._tables[number])
            rows.append(keys.index(self._features[number]))
        return torch.tensor(rows, dtype=torch.int32).view(-1, 2)

    def embedding_bag_configs(self) -> list[EmbeddingBagConfig]:
        """torchrec's configs, one per table."""
        return self._configs

    def is_weighted(self) -> bool:
        """Whether sums take the features' weights."""
        return self._is_weighted

    @property
    def device(self) -> torch.device:
        """Where the tables are: always the CPU."""
        return self.tables.packed.device

    @classmethod
    def from_float(
        cls, module: EmbeddingBagCollection, use_precomputed_fake_quant: bool = False
    ) -> MemrecEmbeddingBagCollection:
        """The collection in place of torchrec's, as mappings of `quantize_inference_model` ask for it.

        Its tables are those of `make_mapping`'s artifact, else the module's own, which `compress` made. ModelError
        where there are neither.
        """
        configs = module.embedding_bag_configs()
        tables = _find_compressed(module.embedding_bags) if cls.artifact is None else cls.artifact
        return cls(configs, tables, is_weighted=module.is_weighted())


class MemrecEmbeddingCollection(EmbeddingCollectionInterface):  # type: ignore[misc] # without types
    """Rows of compressed tables, as torchrec's EmbeddingCollection gives them.

    configs       torchrec's, one per table, all of one dim
    tables        a compressed table for each config, by its name
    need_indices  whether each row comes with its id, as the weights of its JaggedTensor
    """

    artifact = _UNBOUND
    __jit_unused_properties__ = ("device",)

    def __init__(self, configs: Sequence[EmbeddingConfig], tables: Tables, *, need_indices: bool = False) -> None:
        super().__init__()
        self._configs, self._need_indices = list(configs), need_indices
        self._by_table: list[list[str]] = get_embedding_names_by_table(self._configs)
        self._dim = int(configs[0].embedding_dim)
        self._keys = list(dict.fromkeys(name for config in configs for name in config.feature_names))
        fed: dict[str, list[int]] = {key: [] for key in self._keys}
        self._names, self._inputs, self._rounds = list[str](), list[int](), list[int]()
        for number, config in enumerate(configs):
            for feature, name in zip(config.feature_names, self._by_table[number], strict=True):
                self._names.append(name)
                self._inputs.append(self._keys.index(feature))
                self._rounds.append(len(fed[feature]))
                fed[feature].append(number)
        rounds = max(map(len, fed.values()))
        plan = [
            (own[min(turn, len(own) - 1)], place) for turn in range(rounds) for place, own in enumerate(fed.values())
        ]
        dims = [self._dim] * len(plan)
        packed = pack_bytes([use_as(_take(tables, config)) for config in configs])
        self.tables = PackedTables(packed, plan, dims, len(self._keys))

    def forward(self, features: KeyedJaggedTensor) -> Dict[str, JaggedTensor]:  # noqa: UP006 - what TorchScript reads
        """Per feature, or feature and table, its rows float32 [n, dim] in bags."""
        keys, count = features.keys(), len(self._keys)
        if keys != self._keys:
            features = features.permute([keys.index(key) for key in self._keys])
        ids, lengths, cuts = features.values(), features.lengths().view(count, -1), features.offset_per_key()
        rows: List[Tensor] = []  # noqa: UP006
        for turn in range(self.tables.plan.shape[0] // count):
            plan = self.tables.plan[turn * count : (turn + 1) * count]
            found = torch.ops.memrec.look_up_rows(self.tables.packed, ids, features.offsets(), plan, count, self._dim)
            rows.append(found)
        result: Dict[str, JaggedTensor] = {}  # noqa: UP006
        for number in range(len(self._names)):
            place = self._inputs[number]
            start, stop = cuts[place], cuts[place + 1]
            result[self._names[number]] = JaggedTensor(
                values=rows[self._rounds[number]][start:stop],
                lengths=lengths[place],
                weights=ids[start:stop] if self._need_indices else None,
            )
        return result

    def embedding_configs(self) -> list[EmbeddingConfig]:
        """torchrec's configs, one per table."""
        return self._configs

    def need_indices(self) -> bool:
        """Whether each row comes with its id."""
        return self._need_indices

    def embedding_dim(self) -> int:
        """The width of every table."""
        return self._dim

    def embedding_names_by_table(self) -> list[list[str]]:
        """Per table the names of its results."""
        return self._by_table

    @property
    def device(self) -> torch.device:
        """Where the tables are: always the CPU."""
        return self.tables.packed.device

    @classmethod
    def from_float(
        cls, module: EmbeddingCollection, use_precomputed_fake_quant: bool = False
    ) -> MemrecEmbeddingCollection:
        """The collection in place of torchrec's; see `MemrecEmbeddingBagCollection.from_float`."""
        configs = module.embedding_configs()
        tables = _find_compressed(module.embeddings) if cls.artifact is None else cls.artifact
        return cls(configs, tables, need_indices=module.need_indices())


_STAND_INS: Mapping[type, Any] = {
    EmbeddingBagCollection: MemrecEmbeddingBagCollection,
    EmbeddingCollection: MemrecEmbeddingCollection,
}


def swap(model: nn.Module, path: str | Path, *, names: Mapping[str, str] | None = None) -> nn.Module:
    """Puts the tables of the artifact at `path` where a torchrec model has its own, in place; returns the model.

    Of a collection alone it returns the stand-in.

    A table is found by its name in torchrec, or by the name that `names` gives it; the source's own name of a table is
    in the artifact. The dense part stays the model's: an artifact that was fine-tuned (`--epochs` above 0) has another.
    ArtifactError for an unsound file, ModelError where a table is missing or of another shape, or none fits.
    """
    tables = read_tables(path, names)
    mapping = {kind: _bind(kind, tables) for kind in _STAND_INS}
    if type(model) in mapping:
        made: nn.Module = mapping[type(model)].from_float(model)
        return made
    found = {name: module for name, module in model.named_modules() if type(module) in mapping}
    if not found:
        raise ModelError(
            f"{type(model).__name__} has no EmbeddingBagCollection or EmbeddingCollection; swap a model before it is "
            "sharded or quantised."
        )
    stand_ins = {name: mapping[type(module)].from_float(module) for name, module in found.items()}
    for name, stand_in in stand_ins.items():  # nothing is changed before all of them are made
        model.set_submodule(name, stand_in.train(found[name].training))
    return model


def make_mapping(path: str | Path, *, names: Mapping[str, str] | None = None) -> dict[str, type]:
    """The `quantization_mapping` of torchrec's `quantize_inference_model` that takes the tables from an artifact."""
    tables = read_tables(path, names)
    return {f"{kind.__module__}.{kind.__qualname__}": _bind(kind, tables) for kind in _STAND_INS}


def read_tables(path: str | Path, names: Mapping[str, str] | None = None) -> dict[str, CompressedModule]:
    """The compressed tables of an artifact by name; `names` adds others: torchrec's name -> the artifact's."""
    artifact = read_artifact(as_path(path, ArtifactError))
    tables = {module.name: module for module in build_modules(artifact, filled=True).values()}
    for name, other in (names or {}).items():
        if other not in tables:
            raise ModelError(f"{path} has no table {other!r}; it has {', '.join(list(tables)[:8])}.")
        tables[name] = tables[other]
    return tables


def _bind(kind: type, tables: Tables) -> Any:  # noqa: ANN401 - a class
    """The class that stands in for torchrec's `kind`, with tables for its `from_float`."""
    stand_in = _STAND_INS[kind]
    return type(stand_in.__name__, (stand_in,), {"artifact": tables, "__module__": __name__})


def _take(tables: Tables, config: EmbeddingConfig) -> CompressedModule:
    """The table of a config; ModelError where it is missing or of another shape."""
    table = tables.get(config.name)
    if table is None:
        raise ModelError(
            f"there is no compressed table {config.name!r}, there are {', '.join(list(tables)[:8])}; say with names= "
            "which it is."
        )
    expected, found = (config.num_embeddings, config.embedding_dim), (table.spec.rows, table.spec.dim)
    if found != expected:
        raise ModelError(
            f"table {config.name}: found {found[0]} x {found[1]}, expected {expected[0]} x {expected[1]}; take the "
            "artifact that was made of this model."
        )
    return table


def _find_compressed(modules: nn.ModuleDict) -> dict[str, CompressedModule]:
    """The compressed tables behind a collection's weights; ModelError for a weight that is none."""
    tables: dict[str, CompressedModule] = {}
    for name, module in modules.items():
        weight = module.weight
        if not isinstance(weight, CompressedWeight):
            raise ModelError(
                f"table {name} is not compressed; compress() the model first, or take the tables of an artifact with "
                "swap()."
            )
        tables[name] = weight.table
    return tables
