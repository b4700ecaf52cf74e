"""Who is timed: the converted model, the original in torch, and its tables narrowed by others."""

from __future__ import annotations

import copy
import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from memrec_convert.bench.draws import Draw
from memrec_convert.choices import Compute
from memrec_convert.lookup import CompressedEmbedding
from memrec_convert.models import ClickNetwork
from memrec_convert.models.narrow import NarrowLinear
from memrec_convert.models.sample_pooled import SamplePooled

CONVERTED, ORIGINAL = "converted", "original"
COMPUTES: tuple[Compute, ...] = ("fp32", "bf16", "int8")
TORCH_INT8, FBGEMM = "torch int8", {8: "FBGEMM int8", 4: "FBGEMM int4"}
EMBEDDING, MODEL = "embedding", "model"


@dataclass(frozen=True)
class Contender:
    """One way through one stage: `prepare` makes of a draw what `run` takes, untimed."""

    name: str
    stage: str
    prepare: Callable[[Draw], Any]
    run: Callable[[Any], object]


def converted_contenders(model: nn.Module, tables: Sequence[nn.Module], inputs: Sequence[int]) -> list[Contender]:
    """The converted model as it is served: all its tables at once where its network is known, else one by one."""
    if isinstance(model, ClickNetwork | SamplePooled):
        embed = model.embed if isinstance(model, ClickNetwork) else model.pool
        others: list[Contender] = []
        if isinstance(model, ClickNetwork):
            others = [
                _run_model(f"{CONVERTED} {one}", model.in_compute(one)) for one in COMPUTES if one != model.compute
            ]
        return [
            Contender(CONVERTED, EMBEDDING, lambda draw: draw.ids, embed),
            Contender(CONVERTED, MODEL, lambda draw: draw, lambda draw: model(draw.dense, draw.ids)),
            *others,
        ]
    return [Contender(CONVERTED, EMBEDDING, lambda draw: draw.columns, lambda bags: call_tables(tables, inputs, bags))]


def _run_model(name: str, model: ClickNetwork) -> Contender:
    return Contender(name, MODEL, lambda draw: draw, lambda draw: model(draw.dense, draw.ids))


def original_contenders(model: nn.Module, tables: Sequence[nn.Module], inputs: Sequence[int]) -> list[Contender]:
    """The original with its nn.EmbeddingBag modules; ids by column and offsets are theirs without cost.

    Once as it is, and once with its Linear layers exchanged for each narrower one: what the tables alone give is the
    difference to that.
    """
    made = [Contender(ORIGINAL, EMBEDDING, lambda draw: draw.columns, lambda bags: call_tables(tables, inputs, bags))]
    if not isinstance(model, ClickNetwork):
        return made

    for compute in COMPUTES:
        twin = exchange_linears(model, compute)

        def run(draw: Draw, twin: ClickNetwork = twin) -> Tensor:
            return twin.interact(draw.dense, call_tables(tables, inputs, draw.columns))

        name = ORIGINAL if compute == "fp32" else f"{ORIGINAL} {compute}"
        made.append(Contender(name, MODEL, lambda draw: draw, run))
    return made


def exchange_linears(model: ClickNetwork, compute: Compute) -> ClickNetwork:
    """The original's graph with its very tables and weights, and Linear layers that compute otherwise."""
    if compute == "fp32":
        return model
    twin = copy.copy(model)
    twin._modules = dict(model._modules)
    for name, part in model.named_children():
        if isinstance(part, nn.Sequential):
            layers = [
                NarrowLinear(layer, compute, positive=number > 0) if isinstance(layer, nn.Linear) else layer
                for number, layer in enumerate(part)
            ]
            twin._modules[name] = nn.Sequential(*layers)
    return twin


def call_tables(tables: Sequence[nn.Module], inputs: Sequence[int], bags: Sequence[Any]) -> list[Tensor]:
    """The vectors of each table, one module after the other."""
    return [
        table(bags[number].ids)
        if isinstance(table, CompressedEmbedding)
        else table(bags[number].ids, bags[number].offsets, bags[number].weights)
        for table, number in zip(tables, inputs, strict=True)
    ]


def int8_contenders(weights: Sequence[Tensor], inputs: Sequence[int]) -> list[Contender]:
    """The original's tables (float32 [rows, dim]) as int8 rows with a scale and an offset each, through torch's own
    operator, and through FBGEMM's for all tables at once where that is installed. Their embedding stage alone.
    """
    packed = [torch.ops.quantized.embedding_bag_byte_prepack(weight) for weight in weights]

    def look_up(bags: Sequence[Any]) -> list[Tensor]:
        # mode 0: sum
        return [
            torch.ops.quantized.embedding_bag_byte_rowwise_offsets(
                rows, bags[number].ids, bags[number].offsets, False, 0, False, bags[number].weights, None, False
            )
            for rows, number in zip(packed, inputs, strict=True)
        ]

    made = [Contender(TORCH_INT8, EMBEDDING, lambda draw: draw.columns, look_up)]
    return made + fbgemm_contenders([(len(weight), weight.shape[1]) for weight in weights], inputs)


def fbgemm_contenders(
    shapes: Sequence[tuple[int, int]], inputs: Sequence[int], model: ClickNetwork | None = None
) -> list[Contender]:
    """FBGEMM's tables [rows, dim] of int8 and int4 rows, all in one call; none where it is not installed.

    With `model`, the original, its whole graph too over such tables, with each precision of its Linear layers.
    """
    made = []
    for bits, name in FBGEMM.items():
        joint = make_fbgemm(shapes, bits=bits)
        if joint is None:
            continue
        made.append(_look_up_fbgemm(name, joint, inputs))
        if model is not None:
            made += [_run_over_fbgemm(f"{name}, dense {one}", model, one, joint, inputs) for one in COMPUTES]
    return made


def _look_up_fbgemm(name: str, joint: Callable[[Tensor, Tensor], Tensor], inputs: Sequence[int]) -> Contender:
    return Contender(name, EMBEDDING, lambda draw: join_columns(draw, inputs), lambda joined: joint(*joined))


def _run_over_fbgemm(
    name: str, model: ClickNetwork, compute: Compute, joint: Callable[[Tensor, Tensor], Tensor], inputs: Sequence[int]
) -> Contender:
    twin, dims = exchange_linears(model, compute), [dim for _, dim in model.shapes]

    def run(given: tuple[Tensor, tuple[Tensor, Tensor]]) -> Tensor:
        dense, joined = given
        return twin.interact(dense, torch.split(joint(*joined), dims, dim=1))

    return Contender(name, MODEL, lambda draw: (draw.dense, join_columns(draw, inputs)), run)


def make_fbgemm(shapes: Sequence[tuple[int, int]], *, bits: int = 8) -> Callable[[Tensor, Tensor], Tensor] | None:
    """FBGEMM's tables of int8 or int4 rows of these shapes, all in one call, with random numbers.

    None where it does not load. Called with ids int32 [total], table by table, and offsets int32 [tables * B + 1].
    """
    if importlib.util.find_spec("fbgemm_gpu") is None:
        return None
    try:
        importlib.import_module("fbgemm_gpu")  # its operators
        types: Any = importlib.import_module("fbgemm_gpu.split_embedding_configs").SparseType
        common: Any = importlib.import_module("fbgemm_gpu.split_table_batched_embeddings_ops_common")
        inference: Any = importlib.import_module("fbgemm_gpu.split_table_batched_embeddings_ops_inference")
    except (ImportError, OSError, AttributeError):  # built for another torch
        return None
    host = common.EmbeddingLocation.HOST
    specs = [(f"{number}", rows, dim, getattr(types, f"INT{bits}"), host) for number, (rows, dim) in enumerate(shapes)]
    tables: Any = inference.IntNBitTableBatchedEmbeddingBagsCodegen(specs, device="cpu", output_dtype=types.FP32)
    tables.fill_random_weights()
    return lambda ids, offsets: tables(ids, offsets)


def join_columns(draw: Draw, inputs: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Ids int32 [total] of all tables behind each other, and the start of every bag, int32 [tables * B + 1]."""
    columns = [draw.columns[number] for number in inputs]
    starts, total = [], 0
    for column in columns:
        starts.append(column.offsets + total)
        total += len(column.ids)
    offsets = torch.cat([*starts, torch.tensor([total])])
    return torch.cat([column.ids for column in columns]).int(), offsets.int()
