"""Who is timed: the converted model, the original in torch, and its tables narrowed to int8 by others."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from memrec_convert.bench.draws import Draw
from memrec_convert.lookup import CompressedEmbedding
from memrec_convert.models import ClickNetwork
from memrec_convert.models.sample_pooled import SamplePooled

CONVERTED, ORIGINAL = "converted", "original"
TORCH_INT8, FBGEMM_INT8 = "torch int8", "FBGEMM int8"
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
        return [
            Contender(CONVERTED, EMBEDDING, lambda draw: draw.ids, embed),
            Contender(CONVERTED, MODEL, lambda draw: draw, lambda draw: model(draw.dense, draw.ids)),
        ]
    return [Contender(CONVERTED, EMBEDDING, lambda draw: draw.columns, lambda bags: call_tables(tables, inputs, bags))]


def original_contenders(model: nn.Module, tables: Sequence[nn.Module], inputs: Sequence[int]) -> list[Contender]:
    """The original with its nn.EmbeddingBag modules; ids by column and offsets are theirs without cost."""
    made = [Contender(ORIGINAL, EMBEDDING, lambda draw: draw.columns, lambda bags: call_tables(tables, inputs, bags))]
    if not isinstance(model, ClickNetwork):
        return made

    def run(draw: Draw) -> Tensor:
        return model.interact(draw.dense, call_tables(tables, inputs, draw.columns))

    return [*made, Contender(ORIGINAL, MODEL, lambda draw: draw, run)]


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
    if importlib.util.find_spec("fbgemm_gpu") is not None:
        joint = make_fbgemm([(len(weight), weight.shape[1]) for weight in weights])
        if joint is not None:
            run = joint
            made.append(
                Contender(FBGEMM_INT8, EMBEDDING, lambda draw: join_columns(draw, inputs), lambda joined: run(*joined))
            )
    return made


def make_fbgemm(shapes: Sequence[tuple[int, int]]) -> Callable[[Tensor, Tensor], Tensor] | None:
    """FBGEMM's tables of int8 rows of these shapes, all in one call, with random numbers; None where it does not load.

    Called with ids int32 [total], table by table, and offsets int32 [tables * B + 1].
    """
    try:
        importlib.import_module("fbgemm_gpu")  # its operators
        types: Any = importlib.import_module("fbgemm_gpu.split_embedding_configs").SparseType
        common: Any = importlib.import_module("fbgemm_gpu.split_table_batched_embeddings_ops_common")
        inference: Any = importlib.import_module("fbgemm_gpu.split_table_batched_embeddings_ops_inference")
    except (ImportError, OSError, AttributeError):  # built for another torch
        return None
    host = common.EmbeddingLocation.HOST
    specs = [(f"{number}", rows, dim, types.INT8, host) for number, (rows, dim) in enumerate(shapes)]
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
