"""The queries of docs/counts.md: what DuckDB and Spark count is what `take_profile` counts."""

from __future__ import annotations

import shutil

import duckdb
import numpy as np
import pytest
from docs_pages import ROOT, read_blocks

from memrec_convert.clicklog import LogSchema, SyntheticSpec, open_log, read_counts, take_profile, write_synthetic_log

PAGE = ROOT / "docs" / "counts.md"
ROWS = (2000, 300, 40)
SCHEMA = LogSchema(tuple((f"emb_l.{number}", rows) for number, rows in enumerate(ROWS)), 0)
INPUTS = {name: number for number, (name, _) in enumerate(SCHEMA.tables)}


@pytest.fixture
def profile(tmp_path, monkeypatch):
    """The profile of a log in two files, which lie in the working directory."""
    monkeypatch.chdir(tmp_path)
    spec = SyntheticSpec(tables=ROWS, train_rows=9_000, val_rows=3_000, test_rows=1_000)
    log = write_synthetic_log(spec, tmp_path / "made")
    shutil.copy(log.train, "train_0.parquet")
    shutil.copy(log.val, "train_1.parquet")
    return take_profile(open_log("train_*.parquet", SCHEMA))


def expect_same(path, profile, samples):
    """The counts at a path are those of the profile."""
    found = read_counts(path, SCHEMA, INPUTS, samples=samples)
    assert found.samples == profile.samples == 12_000
    for one, other in zip(found.counts, profile.counts, strict=True):
        np.testing.assert_array_equal(one, other)


def test_duckdb_counts_the_profile(profile):
    """The page's SQL, as it stands there."""
    (query,) = read_blocks(PAGE, "sql")
    (samples,) = duckdb.connect().execute(query).fetchone()
    expect_same("counts.parquet", profile, samples)


@pytest.mark.spark
@pytest.mark.filterwarnings("ignore")  # pyspark's own
def test_spark_counts_the_profile(profile, capsys, monkeypatch):
    """The page's PySpark, as it stands there, in local mode."""
    pytest.importorskip("pyspark")
    if shutil.which("java") is None:
        pytest.skip("Java is not installed")
    monkeypatch.setenv("PYSPARK_SUBMIT_ARGS", "--master local[1] --conf spark.ui.enabled=false pyspark-shell")
    (program,) = read_blocks(PAGE, "python")
    names = {}
    try:
        exec(compile(program, "<page>", "exec"), names)
        expect_same("counts", profile, int(capsys.readouterr().out.split()[-1]))
    finally:
        names["spark"].stop()
