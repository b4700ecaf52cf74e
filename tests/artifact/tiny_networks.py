"""A tiny artifact of every known network, its tables in every form; what tests of the format's page read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from random_tables import random_kept, random_table
from torch import nn

from memrec_convert import save
from memrec_convert.artifact.dense import choose_compute
from memrec_convert.artifact.metadata import METADATA_ATTRIBUTE, Metadata
from memrec_convert.artifact.writer import write_model
from memrec_convert.conversion.steps.assembly import round_dense
from memrec_convert.lookup import CompressedEmbedding, CompressedEmbeddingBag
from memrec_convert.models import build_model

Bags = tuple[np.ndarray, np.ndarray, "np.ndarray | None"]
SAMPLES = 9
FORMS = (
    ("codes", ("codes", "int8")),
    ("weighted", ("int8", "codes")),
    ("mean", ("bf16", "codes")),
    ("fp32-hashed", ()),
    ("int8", None),
    ("codes", ("codes", "fp16")),
    ("fp16", None),
)
"""Base and levels of the tables in turn; None: kept in the codec."""
MIXED, EQUAL, WITH_ONES = (3, 2, 4, 5, 4, 1, 3), (3, 3, 3, 3), (3, 3, 3, 1, 1)
DLRM = {"name": "dlrm", "bottom": [2, 4, 3], "pairs": "lower", "self_interaction": False}
NETWORKS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "dlrm, lower": (EQUAL, DLRM | {"interaction": "dot", "top": [3 + 10, 5, 1]}),
    "dlrm, upper": (EQUAL, DLRM | {"interaction": "dot", "pairs": "upper", "top": [13, 1], "pooling": "mean"}),
    "dlrm, lower with diagonal": (
        EQUAL,
        DLRM | {"interaction": "dot", "self_interaction": True, "padding": 3, "top": [3 + 15 + 3, 1]},
    ),
    "dlrm, upper with diagonal": (
        EQUAL,
        DLRM | {"interaction": "dot", "pairs": "upper", "self_interaction": True, "top": [18, 4, 1]},
    ),
    "dlrm, side by side": (
        MIXED,
        DLRM
        | {"interaction": "cat", "top": [3 + sum(MIXED), 4, 1], "dense_transform": "log(x+3)", "single_valued": [1]},
    ),
    "dlrm-dcn": (
        MIXED,
        {
            "name": "dlrm-dcn",
            "interaction": "cross",
            "bottom": [2, 3],
            "top": [3 + sum(MIXED), 4, 1],
            "cross_layers": 2,
            "cross_rank": 3,
            "dense_transform": "identity",
            "table_inputs": [0, 2, 1, 1, 3, 0, 4],
        },
    ),
    "dlrm, wide layers": (EQUAL, DLRM | {"interaction": "dot", "bottom": [2, 36, 3], "top": [13, 40, 33, 1]}),
    "dlrm-dcn, wide layers": (
        (9, 9, 9),
        {"name": "dlrm-dcn", "interaction": "cross", "bottom": [2, 9], "top": [36, 33, 1]}
        | {"cross_layers": 2, "cross_rank": 33, "dense_transform": "identity"},
    ),
    **{
        f"deepfm, {linear}": (
            WITH_ONES,
            {
                "name": "deepfm",
                "interaction": "fm",
                "fields": 3,
                "linear": linear,
                "bottom": [2],
                "top": [11, 4, 1],
                "table_inputs": [0, 1, 2, 0, 1],
                "dense_transform": "log1p",
            },
        )
        for linear in ("rows", "dense", "none")
    },
    **{
        f"sample-pooled, {kw} weights": (
            (),
            {"name": "sample-pooled", "interaction": "none", "bottom": [2, 4], "top": [4 + 6, 3, 1]}
            | {"tables": [[50, 3], [40, 2], [70, 3]], "D": 30, "l": 6, "K": 2, "dw": 20, "kw": kw},
        )
        for kw in (0, 1, 3)
    },
    "tables": (MIXED, {"name": "tables", "names": [f"part.{n}" for n in range(len(MIXED))]}),
}
"""Widths of the tables, and the architecture around them."""


def make_table(number: int, dim: int, *, bag: bool, mode: str) -> nn.Module:
    """A filled table of one of the forms."""
    base, levels = FORMS[number % len(FORMS)]
    group = None
    if levels is None:
        spec, tensors, _ = random_kept(number, base, rows=30 + number, dim=dim)
    else:
        made = random_table(100 + number, base, levels, dim)
        spec, tensors, group = made.spec, made.tensors, made.group
        if group is not None:  # two groups of one width have two names
            group.spec = replace(group.spec, group=f"{base} {dim}")
            spec = replace(spec, hashing=group.spec)
    facts: dict[str, Any] = {"name": f"table {number}", "oov": ("clip", "hash", "zero")[number % 3], "group": group}
    if bag:
        facts |= {"mode": mode, "padding_idx": 3 if number == 2 else None}
    module: CompressedEmbedding | CompressedEmbeddingBag
    module = CompressedEmbeddingBag(spec, **facts) if bag else CompressedEmbedding(spec, **facts)
    module.fill(tensors)
    return module


def save_network(name: str, folder: Path, *, dense: str = "fp32") -> Path:
    """The artifact of one of NETWORKS."""
    dims, architecture = NETWORKS[name]
    alone, mode = architecture["name"] == "tables", architecture.get("pooling", "sum")
    tables = [make_table(number, dim, bag=not alone, mode=mode) for number, dim in enumerate(dims)]
    if tables:
        architecture = architecture | {"tables": [[table.spec.rows, table.spec.dim] for table in tables]}
    torch.manual_seed(7)
    model = build_model(architecture, tables).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.4)
    return save_around(model, architecture, folder / "network.safetensors", dense=dense)


def save_around(model: nn.Module, architecture: dict[str, Any], path: Path, *, dense: str) -> Path:
    """Writes a model as a conversion does; `save` refuses the sample-pooled one, which has no table left."""
    plan = {"budget": "9kB", "budget_bytes": 9000, "method": "auto"}
    facts = {"weights": "log", "digest": None, "files": [], "samples": 0}
    compute = choose_compute(architecture, dense)
    metadata = Metadata({}, architecture, dense, profile=facts, plan=plan, seed=3, compute=compute)
    round_dense(model, dense)
    if architecture["name"] == "sample-pooled":
        write_model(path, model, metadata)
    else:
        setattr(model, METADATA_ATTRIBUTE, metadata)
        save(model, path)
    return path


def make_batch(architecture: dict[str, Any], *, bags: bool) -> tuple[np.ndarray, list[Bags]]:
    """Raw dense values float32 [B, 2], and per input ids int64 [n], the beginnings of their bags, and their weights.

    Some ids are foreign; where `bags` is False, each sample has one id, and else some have none, some three.
    """
    draw = np.random.default_rng(11)
    shapes, single = architecture["tables"], set(architecture.get("single_valued", ()))
    feeds = architecture.get("table_inputs", list(range(len(shapes))))
    inputs: list[Bags] = []
    for number in range(max(feeds) + 1):
        fed = {table for table, feed in enumerate(feeds) if feed == number}
        sizes = draw.integers(0, 4, SAMPLES) if bags and not fed & single else np.ones(SAMPLES, np.int64)
        ids = draw.integers(-3, max(shapes[table][0] for table in fed) + 9, int(sizes.sum()))
        weighted = bags and number % 2 == 0 and architecture.get("pooling", "sum") == "sum" and not fed & single
        weights = draw.uniform(0.5, 2, len(ids)).astype(np.float32) if weighted else None
        inputs.append((ids, np.cumsum([0, *sizes[:-1]]), weights))
    return draw.uniform(0, 4, (SAMPLES, 2)).astype(np.float32), inputs
