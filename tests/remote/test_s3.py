"""Checkpoints in S3, over its protocol as moto speaks it."""

from __future__ import annotations

import pytest
from sparse import write_sparse_zip

from memrec_convert import convert, inspect
from memrec_convert.errors import CheckpointError

pytestmark = [pytest.mark.remote, pytest.mark.filterwarnings("ignore")]  # botocore's and moto's own
s3fs = pytest.importorskip("s3fs")
pytest.importorskip("moto")


@pytest.fixture
def bucket(monkeypatch, caplog):
    """An empty bucket: a function that puts a local file there and gives its URL."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    caplog.set_level("WARNING")
    server.start()
    host, port = server.get_host_and_port()
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
        ("AWS_ENDPOINT_URL", f"http://{host}:{port}"),
    ):
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    store = s3fs.S3FileSystem()
    store.makedirs("models", exist_ok=True)

    def put(file, key):
        store.put(str(file), f"models/{key}")
        return f"s3://models/{key}"

    yield put
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def test_a_bucket_is_read_as_a_disk_is(tiny, bucket, tmp_path):
    """A file and a directory of ranks: what inspect says, and the artifact to the byte."""
    url = bucket(tiny.checkpoint, "daily/dlrm.pt")
    assert inspect(url).tables == inspect(tiny.checkpoint).tables
    convert(url, "12kB", method="int8", out=tmp_path / "a.safetensors")
    convert(tiny.checkpoint, "12kB", method="int8", out=tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    for rank in range(2):
        bucket(tiny.bare, f"ranks/rank{rank}.pt")
    assert [table["name"] for table in inspect("s3://models/ranks").tables] == ["emb_l.0", "emb_l.1", "emb_l.2"]
    convert("s3://models/ranks", "12kB", method="int8", work=tmp_path / "work", out=tmp_path / "c.safetensors")


def test_logs_in_a_bucket_are_those_of_the_disk(tiny, bucket, tmp_path):
    """A pattern for the training data, a file to measure on: the artifact to the byte, and the same figures."""
    bucket(tiny.train, "days/day_1.parquet")
    test = bucket(tiny.test, "test.parquet")
    far = convert(
        tiny.bare, "12kB", data="s3://models/days/day_*.parquet", eval=test, epochs=0, out=tmp_path / "far.safetensors"
    )
    near = convert(tiny.bare, "12kB", data=tiny.train, eval=tiny.test, epochs=0, out=tmp_path / "near.safetensors")
    assert (tmp_path / "far.safetensors").read_bytes() == (tmp_path / "near.safetensors").read_bytes()
    assert (far.auc, far.log_loss) == (near.auc, near.log_loss)


def test_two_hundred_megabytes_are_inspected_by_their_headers(bucket, tmp_path):
    """A large object that was sent in parts."""
    file = write_sparse_zip(tmp_path / "big.pt", {f"emb_l.{number}.weight": (100_000, 128) for number in range(4)})
    assert file.stat().st_size > 2e8
    assert inspect(bucket(file, "big.pt")).tables == inspect(file).tables


def test_a_missing_key_and_bucket_are_one_sentence(bucket):
    """Neither is taken for anything else."""
    for url in ("s3://models/none.pt", "s3://none/dlrm.pt"):
        with pytest.raises(CheckpointError, match=r"s3://.*(no such file|cannot be read)"):
            inspect(url)
