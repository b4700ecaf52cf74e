"""Tiny real checkpoints made on the fly, and the folder of real ones where it exists."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

State = dict[str, torch.Tensor]


@pytest.fixture(scope="session")
def shared_checkpoints() -> Path:
    """The folder of real checkpoints; the test is skipped where it is absent."""
    default = Path(__file__).resolve().parents[2].parent / "shared"
    folder = Path(os.environ.get("MEMREC_SHARED", default)) / "checkpoints"
    if not folder.is_dir():
        pytest.skip("the shared checkpoints are not here")
    return folder


def _linear(prefix: str, widths: list[int], step: int) -> State:
    state = {}
    for place, (inputs, outputs) in enumerate(pairwise(widths)):
        state[prefix.format(place * step) + "weight"] = torch.randn(outputs, inputs)
        state[prefix.format(place * step) + "bias"] = torch.randn(outputs)
    return state


@pytest.fixture
def dlrm_state() -> Callable[..., State]:
    """A function that makes the state dict of a small facebookresearch DLRM with 4 dense features."""

    def make(rows: tuple[int, ...] = (7, 5, 3), dim: int = 8, width: int | None = None) -> State:
        torch.manual_seed(3)
        vectors = len(rows) + 1
        top = dim + vectors * (vectors - 1) // 2 if width is None else width
        tables = {f"emb_l.{place}.weight": torch.randn(count, dim) for place, count in enumerate(rows)}
        return tables | _linear("bot_l.{}.", [4, 6, dim], 2) | _linear("top_l.{}.", [top, 5, 1], 2)

    return make


@pytest.fixture
def torchrec_state() -> Callable[..., State]:
    """A function that makes the state dict of a small torchrec DLRM."""

    def make(names: tuple[str, ...] = ("t_zip", "t_age"), dim: int = 4) -> State:
        torch.manual_seed(4)
        vectors = len(names) + 1
        tables = "sparse_arch.embedding_bag_collection.embedding_bags.{}.weight"
        state = {tables.format(name): torch.randn(6, dim) for name in names}
        state |= _linear("dense_arch.model._mlp.{}._linear.", [4, 6, dim], 1)
        state |= _linear("over_arch.model.0._mlp.{}._linear.", [dim + vectors * (vectors - 1) // 2, 5], 1)
        return state | _linear("over_arch.model.1.", [5, 1], 1)

    return make


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """A function that saves an object with torch.save and returns its path."""

    def write(content: object, name: str = "model.pt", **options: object) -> Path:
        path = tmp_path / name
        torch.save(content, path, **options)
        return path

    return write


@pytest.fixture
def dlrm_file(dlrm_state: Callable[..., State], save: Callable[..., Path]) -> Path:
    """A facebookresearch checkpoint as `--save-model` writes it, numpy scalars included."""
    return save({"epoch": 0, "test_auc": np.float64(0.75), "train_loss": np.float32(0.5), "state_dict": dlrm_state()})
