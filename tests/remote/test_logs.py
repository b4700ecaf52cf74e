"""Logs by URL: the batches and digests of the local files, whatever the store does meanwhile."""

from __future__ import annotations

import gzip

import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from faulty_store import FAULTS, Faulty, put
from range_server import FAULTS as SERVER_FAULTS
from range_server import serve

from memrec_convert import convert, evaluate
from memrec_convert.cli.commands import cli
from memrec_convert.clicklog import LogSchema, open_log
from memrec_convert.errors import LogError, ProfileLeakError
from memrec_convert.remote import RemotePath

TABLES = (2000, 300, 40)
SCHEMA = LogSchema(tuple((f"C{n + 1}", rows) for n, rows in enumerate(TABLES)), 2)
CRITEO = LogSchema(tuple((f"C{n + 1}", 100) for n in range(26)), 13, modulus=100)


@pytest.fixture(scope="module")
def logs(tiny, tmp_path_factory):
    """The tiny model's test log in every kind and compression, by name."""
    folder = tmp_path_factory.mktemp("logs")
    table = pq.read_table(tiny.test)
    pq.write_table(table, folder / "rows.parquet", row_group_size=700)
    pacsv.write_csv(table, folder / "rows.csv")
    text = (folder / "rows.csv").read_bytes()
    (folder / "rows.csv.gz").write_bytes(gzip.compress(text))
    (folder / "rows.tsv").write_bytes(text.replace(b",", b"\t"))
    line = "\t".join(["1", *map(str, range(13)), *(f"{number:08x}" for number in range(26))])
    (folder / "day_0").write_text(f"{line}\n" * 500)
    return folder


def schema_of(name):
    """What the log of this name provides."""
    return CRITEO if name == "day_0" else SCHEMA


KINDS = ["rows.parquet", "rows.csv", "rows.csv.gz", "rows.tsv", "day_0"]


def read_all(source, schema, **options):
    """All of a log as bytes."""
    return b"".join(
        part.numpy().tobytes()
        for batch in open_log(source, schema).batches(512, **options)
        for part in (batch.dense, batch.ids, batch.labels)
    )


@pytest.mark.parametrize("name", KINDS)
def test_a_log_by_url_is_the_local_log(logs, name):
    """Batches in order and shuffled, kind and digest are the file's; its name is told without the query."""
    url = put(logs / name, f"faulty://bucket/{name}")
    schema = schema_of(name)
    far, near = open_log(url, schema), open_log(logs / name, schema)
    assert isinstance(far.paths[0], RemotePath)
    assert (far.kind, far.rows, far.digest()) == (near.kind, near.rows, near.digest())
    for options in ({}, {"shuffle_seed": 3}, {"limit": 100}):
        assert read_all(url, schema, **options) == read_all(logs / name, schema, **options)
    signed = put(logs / name, f"faulty://bucket/{name}?signature=secret")
    assert open_log(signed, schema).digest() == near.digest()


def test_directories_and_patterns_by_url(logs):
    """A directory means its log files, a pattern those that it fits, several URLs all of them, in one order."""
    for number in (10, 2):
        put(logs / "rows.parquet", f"faulty://bucket/days/day_{number}.parquet")
    put(logs / "rows.csv", "faulty://bucket/days/notes.md")
    named = ["faulty://bucket/days/day_2.parquet", "faulty://bucket/days/day_10.parquet"]
    for source in ("faulty://bucket/days", "faulty://bucket/days/day_*.parquet", named[::-1]):
        assert [str(path) for path in open_log(source, SCHEMA).paths] == named
    mixed = open_log([named[0], logs / "rows.parquet"], SCHEMA)
    assert mixed.rows == 2 * open_log(named[0], SCHEMA).rows


def test_columns_that_are_not_needed_stay_where_they_are(logs, tmp_path):
    """Of parquet only the model's columns are moved, each chunk once."""
    table = pq.read_table(logs / "rows.parquet")
    wide = table.append_column("text", [[f"{number:0500d}" for number in range(table.num_rows)]])
    pq.write_table(wide, tmp_path / "wide.parquet", row_group_size=700, compression="none", use_dictionary=False)
    url = put(tmp_path / "wide.parquet", "faulty://bucket/wide.parquet")
    Faulty.moved = 0
    read_all(url, SCHEMA)
    assert Faulty.moved < 0.25 * (tmp_path / "wide.parquet").stat().st_size


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_passes_is_survived_wherever_it_comes(logs, name, fault):
    """One fault at each of the reads: the same rows."""
    url, expected = put(logs / name, f"faulty://bucket/{name}"), read_all(logs / name, schema_of(name))
    Faulty.requests = 0
    read_all(url, schema_of(name))
    for when in range(Faulty.requests):
        Faulty.faults = [None] * when + [fault]
        assert read_all(url, schema_of(name)) == expected
        assert not Faulty.faults


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("change", ["replaced", "gone"])
def test_a_log_that_is_replaced_is_never_read_on(logs, name, change):
    """At each read, of the rows and of the digest: one sentence, and none of the new object's rows."""
    put(logs / name, f"faulty://bucket/{name}")
    Faulty.requests = 0
    read_through(f"faulty://bucket/{name}", schema_of(name))
    for when in range(Faulty.requests):
        url = put(logs / name, f"faulty://bucket/{name}")
        Faulty.faults = [None] * when + [change]
        with pytest.raises(LogError, match=rf"^faulty://bucket/{name}: cannot be read .*replaced while it was read"):
            read_through(url, schema_of(name))


def read_through(url, schema):
    """Digest, then rows."""
    log = open_log(url, schema)
    log.digest()
    list(log.batches(512))


def test_a_log_that_is_replaced_between_two_passes_is_refused(logs):
    """What was opened is what is read, also minutes later."""
    log = open_log(put(logs / "rows.parquet", "faulty://bucket/rows.parquet"), SCHEMA)
    list(log.batches(512))
    put(logs / "rows.csv", "faulty://bucket/rows.parquet")
    with pytest.raises(LogError, match="replaced while it was read"):
        list(log.batches(512))


def test_what_is_not_there_is_one_sentence(logs):
    """A missing object, an empty directory, a pattern that nothing fits, a file of no known kind, faults that stay."""
    put(logs / "rows.csv", "faulty://bucket/days/notes.md")
    for source, said in (
        ("faulty://bucket/none.parquet", r"none\.parquet: cannot be read \(no such object"),
        ("faulty://bucket/days", "holds no log files"),
        ("faulty://bucket/days/*.parquet", "no file matches"),
        ("nosuchstore://bucket/a.parquet", "nosuchstore"),
        ("faulty://bucket//a.parquet", "two slashes"),
    ):
        with pytest.raises(LogError, match=said):
            open_log(source, SCHEMA)
    url = put(logs / "rows.parquet", "faulty://bucket/rows.parquet")
    Faulty.faults = [TimeoutError("late")] * 9
    with pytest.raises(LogError, match=r"rows\.parquet: cannot be read \(bytes .* in 4 tries: late\)"):
        open_log(url, SCHEMA)


def test_conversion_and_evaluation_with_logs_by_url(tiny, tmp_path):
    """The artifact is that of local logs to the byte, and a log that was trained on is refused on either side."""
    far = {name: put(getattr(tiny, name), f"faulty://bucket/{name}.parquet") for name in ("train", "val", "test")}
    choices = {"epochs": 0}
    near = convert(tiny.bare, "12kB", data=tiny.train, val=tiny.val, eval=tiny.test, out=tmp_path / "near", **choices)
    made = convert(
        tiny.bare, "12kB", data=far["train"], val=far["val"], eval=far["test"], out=tmp_path / "far", **choices
    )
    assert (tmp_path / "far").read_bytes() == (tmp_path / "near").read_bytes()
    assert (made.auc, made.log_loss) == (near.auc, near.log_loss)
    found = evaluate(tmp_path / "far", eval=far["test"], against=tiny.bare)
    assert found.auc == evaluate(tmp_path / "far", eval=tiny.test, against=tiny.bare).auc
    for log in (far["train"], tiny.train):
        with pytest.raises(ProfileLeakError):
            evaluate(tmp_path / "near", eval=log)
    with pytest.raises(ProfileLeakError):
        convert(tiny.bare, "12kB", data=far["train"], val=tiny.train, out=tmp_path / "leak")
    assert not (tmp_path / "leak").exists()


def test_the_command_takes_urls(tiny, tmp_path):
    """--data and --eval by URL; a missing one is the LogError of the library."""
    url = put(tiny.train, "faulty://bucket/train.parquet")
    words = ["plan", str(tiny.bare), "--budget", "12kB", "--json", "--data"]
    assert CliRunner().invoke(cli, [*words, url]).exit_code == 0
    assert isinstance(CliRunner().invoke(cli, [*words, "faulty://bucket/none.parquet"]).exception, LogError)


@pytest.mark.remote
@pytest.mark.parametrize("name", KINDS)
def test_logs_over_http(logs, name):
    """Each fault of a server once, at several reads: the same rows; an object replaced meanwhile is refused."""
    pytest.importorskip("aiohttp")
    schema, expected = schema_of(name), read_all(logs / name, schema_of(name))
    with serve(logs / name) as server:
        for fault in SERVER_FAULTS:
            for when in range(4):
                server.faults = [None] * when + [fault]
                assert read_all(server.url, schema) == expected
        server.faults = [None, "replaced"]
        with pytest.raises(LogError, match="replaced while it was read"):
            read_through(server.url, schema)
