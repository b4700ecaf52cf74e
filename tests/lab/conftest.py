"""Small trained-looking tables as rivals see them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from memrec_convert.distill.rows import TensorRows
from memrec_convert.distill.survey import survey_table
from memrec_convert.lab.view import TableView


def make_view(rows: int = 1500, dim: int = 8, seed: int = 0) -> TableView:
    """Rows whose length goes with how often they are read, and a metric that is not the identity."""
    generator = torch.Generator().manual_seed(seed)
    counts = (rows / torch.arange(1, rows + 1)).floor()[torch.randperm(rows, generator=generator)]
    values = torch.randn(rows, dim, generator=generator) * (0.05 + counts.clamp(max=20).sqrt() / 10).unsqueeze(1) + 0.1
    mixing = torch.randn(dim, dim, generator=generator)
    metric = torch.eye(dim) + 0.1 * (mixing + mixing.T)
    survey = survey_table(TensorRows(values), (counts + 0.25).numpy().astype(np.float32), metric)
    return TableView(f"table{seed}", values, survey, replaceable=True, seed=0)


@pytest.fixture(scope="session")
def view() -> TableView:
    """One table; nobody may change it."""
    return make_view()


@pytest.fixture(scope="session")
def other_view() -> TableView:
    """Another table of the same shape."""
    return make_view(seed=1)
