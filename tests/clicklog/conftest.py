"""Small logs made on the fly, and the real ones where they lie beside the project."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from memrec_convert.clicklog import LogSchema

ROWS = 1_003
TABLES = (("C1", 500), ("C2", 7))


@pytest.fixture
def schema() -> LogSchema:
    """Two tables, two dense inputs, the dense values as they are."""
    return LogSchema(TABLES, 2, dense_transform="identity")


@pytest.fixture
def columns() -> dict[str, np.ndarray]:
    """A log of 1,003 rows for that schema; I1 is the row number."""
    rng = np.random.default_rng(0)
    return {
        "label": rng.integers(0, 2, ROWS).astype(np.int8),
        "I1": np.arange(ROWS, dtype=np.float32),
        "I2": rng.random(ROWS).astype(np.float32),
        "C1": rng.integers(0, 500, ROWS).astype(np.int32),
        "C2": rng.integers(0, 7, ROWS).astype(np.int8),
    }


@pytest.fixture
def parquet(tmp_path: Path, columns: dict[str, np.ndarray]) -> Path:
    """That log in one parquet file of row groups of 100."""
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table(columns), path, row_group_size=100)
    return path


@pytest.fixture
def shared_data() -> Path:
    """The folder of the real logs; the test is skipped where it is absent."""
    folder = Path(os.environ.get("MEMREC_SHARED", Path(__file__).resolve().parents[2].parent / "shared")) / "data"
    if not folder.is_dir():
        pytest.skip("the real logs are not here")
    return folder
