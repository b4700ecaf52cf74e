"""The synthetic log: reproducible, skewed, and with labels that the large tables decide."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from memrec_convert.clicklog import LogSchema, SyntheticSpec, open_log, write_synthetic_log
from memrec_convert.errors import OutputError

SPEC = SyntheticSpec(tables=(5000, 300, 8), dense=3, train_rows=20_000, val_rows=1000, test_rows=500, seed=4)


def test_files_and_meta(tmp_path):
    """Three files of the asked sizes, readable as a log of the asked tables, and a meta.json that says so."""
    log = write_synthetic_log(SPEC, tmp_path / "new")
    schema = LogSchema((("C1", 5000), ("C2", 300), ("C3", 8)), 3)
    assert [open_log(path, schema).rows for path in (log.train, log.val, log.test)] == [20_000, 1000, 500]
    assert sum(batch.rows for batch in open_log(log.train, schema).batches(999)) == 20_000
    meta = json.loads(log.meta.read_text())
    assert meta["cardinalities"] == [5000, 300, 8]
    assert meta["rows"] == {"train": 20_000, "val": 1000, "test": 500}
    labels = pq.read_table(log.train)["label"].to_numpy()
    assert meta["positive_rate"]["train"] == labels.mean()
    assert sorted(path.name for path in log.meta.parent.iterdir()) == sorted(
        ["train.parquet", "val.parquet", "test.parquet", "meta.json"]
    )


def test_equal_specs_make_equal_files(tmp_path):
    """The same spec gives the same bytes; another seed gives other rows."""
    first, again, other = (
        write_synthetic_log(spec, tmp_path / str(place)).train
        for place, spec in enumerate((SPEC, SPEC, replace(SPEC, seed=5)))
    )
    assert first.read_bytes() == again.read_bytes()
    assert pq.read_table(first) != pq.read_table(other)


def test_ids_are_zipf_and_scattered(tmp_path):
    """The most frequent id has its Zipf share, and frequency does not follow the id's number."""
    ids = pq.read_table(write_synthetic_log(SPEC, tmp_path).train)["C1"].to_numpy()
    counts = np.bincount(ids, minlength=5000)
    share = 1 / np.sum(np.arange(1, 5001) ** -SPEC.zipf)
    assert counts.max() / len(ids) == pytest.approx(share, rel=0.1)
    assert abs(np.corrcoef(np.arange(5000), counts)[0, 1]) < 0.1


def test_labels_depend_on_the_large_table(tmp_path):
    """Ids differ in their share of positives by far more than chance, and by nothing else when effects are off."""
    loud = SyntheticSpec(tables=(50,), dense=0, train_rows=50_000, val_rows=1, test_rows=1, id_effect=2.0, latent=1)
    spreads = []
    for place, spec in enumerate((loud, replace(loud, id_effect=0.0, interaction=0.0))):
        table = pq.read_table(write_synthetic_log(spec, tmp_path / str(place)).train)
        ids, labels = table["C1"].to_numpy(), table["label"].to_numpy()
        spreads.append(np.std(np.bincount(ids, labels, minlength=50) / np.bincount(ids, minlength=50)))
    assert spreads[0] > 0.2
    assert spreads[1] < 0.05


def test_unwritable_folder(tmp_path):
    """A folder that cannot be made is an OutputError."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        write_synthetic_log(SPEC, tmp_path / "file" / "log")
