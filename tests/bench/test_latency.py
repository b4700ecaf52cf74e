"""`bench`: what is drawn, who is timed, what is refused, and what the figures say of each other."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import memrec_convert
from memrec_convert.bench import bench as bench_module
from memrec_convert.bench import contenders
from memrec_convert.bench.bench import bench, open_served
from memrec_convert.bench.contenders import (
    Contender,
    call_tables,
    converted_contenders,
    int8_contenders,
    join_columns,
    original_contenders,
)
from memrec_convert.bench.draws import LogSource, ZipfSource, draw_ranks, find_stride, list_hottest
from memrec_convert.bench.measuring import time_batch
from memrec_convert.bench.serving import measure_serving
from memrec_convert.bench.timing import calls_in_a_row
from memrec_convert.cli.commands import main
from memrec_convert.clicklog import LogSchema
from memrec_convert.conversion.inputs.from_checkpoint import open_batches
from memrec_convert.errors import ArtifactError, LogError, ModelError, OptionError
from memrec_convert.models import build_original
from memrec_convert.report.latency import render_latency

MEMORY = {
    "file_bytes": 1,
    "loaded_bytes": None,
    "loading_peak_bytes": None,
    "runtime_bytes": None,
    "running_bytes": None,
    "output_pool_bytes": None,
}


@pytest.fixture(scope="module")
def artifact(tiny, tmp_path_factory) -> Path:
    """The tiny model, converted with its log."""
    target = tmp_path_factory.mktemp("bench") / "tiny.safetensors"
    memrec_convert.convert(tiny.bare, "12kB", data=tiny.train, out=target, epochs=0, threads=1)
    return target


@pytest.fixture
def _quick(monkeypatch):
    """No process is started to measure memory."""
    monkeypatch.setattr(bench_module, "measure_serving", lambda *_, **__: MEMORY)


@pytest.fixture
def run(monkeypatch, capsys, _quick):
    """A function that runs the command: (exit code, stdout, stderr without progress)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["memrec-convert", "bench", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        streams = capsys.readouterr()
        said = [line for line in streams.err.splitlines() if not line.endswith(" ...")]
        return end.value.code, streams.out, "\n".join(said)

    return call


@pytest.mark.usefixtures("_quick")
def test_figures_of_both_sides(artifact, tiny):
    """A row per stage, batch size and contender; times, rates and ratios agree with each other."""
    found = bench(artifact, against=tiny.bare, data=tiny.test, batch=(1, 16), seconds=0.02)
    rows = {(row["stage"], row["batch"], row["contender"]): row for row in found.rows}
    for batch in (1, 16):
        assert {key[2] for key in rows if key[:2] == ("embedding", batch)} >= {"converted", "original", "torch int8"}
        both = {f"{who}{precision}" for who in ("converted", "original") for precision in ("", " bf16", " int8")}
        assert {key[2] for key in rows if key[:2] == ("model", batch)} == both
    for row in rows.values():
        assert 0 < row["ms_p50"] <= row["ms_p99"]
        assert row["repetitions"] >= 9
        assert row["items_per_second"] == pytest.approx(row["batch"] / row["ms_p50"] * 1e3)
        assert row["ns_per_lookup"] == pytest.approx(row["ms_p50"] * 1e6 / row["batch"] / 3)
    own, other = rows["model", 16, "converted"], rows["model", 16, "original"]
    assert own["ratio_to_original"] == own["ratio_to"]["original"] == pytest.approx(other["ms_p50"] / own["ms_p50"])
    assert other["ratio_to_original"] == 1
    assert found.ids == {"source": "log", "samples": 4000}
    assert (found.tables, found.threads, found.artifact.bytes) == (3, 1, artifact.stat().st_size)


def test_contenders_compute_what_the_models_do(artifact, tiny):
    """What is timed gives the models' own logits, and int8 rows those of the original within their rounding."""
    served = open_served(artifact)
    source = memrec_convert.conversion.inputs.from_checkpoint.read_checked(tiny.bare)
    original = build_original(source)
    tables = [original.get_submodule(f"tables.{number}") for number in range(3)]
    (draw,) = ZipfSource(served.input_rows, exponent=1.05, dense=2, hottest={}).draw_calls(1, 50)
    made = [*converted_contenders(served.model, served.tables, served.inputs)]
    made += original_contenders(original, tables, served.inputs)
    made += int8_contenders([table.weight.detach() for table in tables], served.inputs)
    with torch.no_grad():
        results = {(one.name, one.stage): one.run(one.prepare(draw)) for one in made}
        torch.testing.assert_close(results["converted", "model"], served.model(draw.dense, draw.ids), rtol=0, atol=0)
        torch.testing.assert_close(results["original", "model"], original(draw.dense, draw.ids))
        for precision in ("bf16", "int8"):
            torch.testing.assert_close(results[f"converted {precision}", "model"], results["converted", "model"])
            torch.testing.assert_close(results[f"original {precision}", "model"], results["original", "model"])
        exact, narrow = results["original", "embedding"], results["torch int8", "embedding"]
    for table, one, other in zip(tables, exact, narrow, strict=True):
        weight = table.weight.detach()
        step = float((weight.amax(1) - weight.amin(1)).max()) / 255
        torch.testing.assert_close(one, other, rtol=0, atol=step)


@pytest.mark.usefixtures("_quick")
def test_threads_that_call_at_once(artifact, tiny):
    """A row per batch, number of callers and whole model; a number that is none is refused."""
    found = bench(artifact, against=tiny.bare, batch=(1, 16), seconds=0.05, concurrency=(1, 3), expand="1MB")
    models = {row["contender"] for row in found.rows if row["stage"] == "model"}
    expected = {(batch, callers, who) for batch in (1, 16) for callers in (1, 3) for who in models}
    assert {(row["batch"], row["callers"], row["contender"]) for row in found.load} == expected
    assert all(0 < row["ms_p50"] <= row["ms_p99"] and row["items_per_second"] > 0 for row in found.load)
    with pytest.raises(OptionError, match="a number of callers is 0"):
        bench(artifact, concurrency=(0,))


def test_contenders_have_ids_of_their_own(artifact):
    """No two calls of one measurement see the same samples, whoever makes them."""
    served, seen = open_served(artifact), []
    source = ZipfSource(served.input_rows, exponent=1.05, dense=2, hottest={}, seed=3)

    class Watched:
        def draw_calls(self, calls, batch):
            found = source.draw_calls(calls, batch)
            seen.extend(found)
            return found

    used: list[int] = []
    made = converted_contenders(served.model, served.tables, served.inputs)
    watched = [
        Contender(one.name, "embedding", lambda draw: draw, lambda draw: used.append(id(draw)))
        for one in (*made, *made)
    ]
    time_batch(watched, Watched(), 8, served.inputs, seconds=0)
    timed = set(used[2 * len(watched) :])  # two calls each to find the number of repetitions
    calls = calls_in_a_row(8 * len(served.inputs))
    assert 1 < calls <= 200
    assert len(timed) == 9 * 2 * calls * len(watched)  # in a turn, half of the calls are not timed
    assert len({tuple(one.ids.flatten().tolist()) for one in seen}) == len(seen)


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 10**9), exponent=st.sampled_from([0.3, 1.0, 1.05, 2.5, 10.0]), seed=st.integers(0, 99))
def test_ranks_stay_in_their_table(rows, exponent, seed):
    """Any table and exponent: whole ranks from 0 to the last row."""
    ranks = draw_ranks(rows, exponent, 200, np.random.default_rng(seed))
    assert ranks.dtype == np.int64
    assert 0 <= ranks.min() <= ranks.max() < rows


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.05, 2.0])
def test_ranks_follow_the_law(exponent):
    """The share of each rank is r**-exponent over the sum, within five standard errors."""
    rows, count = 20, 200_000
    found = np.bincount(draw_ranks(rows, exponent, count, np.random.default_rng(0)), minlength=rows) / count
    expected = np.arange(1, rows + 1) ** -float(exponent)
    expected /= expected.sum()
    assert np.all(np.abs(found - expected) < 5 * np.sqrt(expected * (1 - expected) / count))


@pytest.mark.parametrize("rows", [1, 2, 3, 10, 12, 997, 4096])
def test_scattered_ranks_visit_every_row(rows):
    """Without hot ids, ranks and rows are one to one."""
    source = ZipfSource([rows], exponent=1.05, dense=0, hottest={})
    assert sorted(source.id_of(0, np.arange(rows))) == list(range(rows))
    assert find_stride(rows) >= 1


def test_first_ranks_are_the_ids_that_the_artifact_holds_best(artifact):
    """Zipf's most frequent ids are members of the artifact's levels, each once."""
    served = open_served(artifact)
    hottest = list_hottest(served.tables, served.inputs)
    with_levels = [number for number, table in enumerate(served.tables) if table.spec.levels]
    assert list(hottest) == with_levels
    assert with_levels
    source = ZipfSource(served.input_rows, exponent=1.05, dense=2, hottest=hottest)
    for number in with_levels:
        table, count = served.tables[number], len(hottest[number])
        assert count == sum(level.index.count for level in table.spec.levels) == len(set(hottest[number]))
        ids = torch.from_numpy(source.id_of(number, np.arange(count)))
        assert bool((table.form_of(ids) > 0).all())


def test_log_samples_are_rows_of_the_log(tiny):
    """A sample's ids and dense values stand in one row of the log."""
    schema = LogSchema(tuple((f"C{n + 1}", rows) for n, rows in enumerate((2000, 300, 40))), 2)
    source = LogSource(open_batches(tiny.test, schema, 1000), seed=1)
    rows = {
        (*dense.tolist(), *ids.tolist())
        for batch in open_batches(tiny.test, schema, 1000).stream()
        for dense, ids in zip(batch.dense, batch.ids, strict=True)
    }
    (drawn,) = source.draw_calls(1, 64)
    assert all((*d.tolist(), *i.tolist()) in rows for d, i in zip(drawn.dense, drawn.ids, strict=True))
    assert torch.equal(torch.stack([column.ids for column in drawn.columns], dim=1), drawn.ids)


@pytest.fixture
def bag_log(tmp_path) -> Path:
    """Two samples' lists of ids, of different lengths."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"C1": [[1, 2, 3], [], [4], [5, 6]], "C2": [[7], [8], [9], [7]], "C3": [[0], [1], [2], [3]]}
    rest = {"label": [0, 1, 0, 1], "I1": [1.0, 2.0, 3.0, 4.0], "I2": [0.0, 0.0, 0.0, 0.0]}
    pq.write_table(pa.table(rest | columns), tmp_path / "bags.parquet")
    return tmp_path / "bags.parquet"


@pytest.mark.usefixtures("_quick")
def test_logs_with_several_ids_a_feature(artifact, tiny, bag_log):
    """Bags keep their ids in order, and both sides are timed on them."""
    schema = LogSchema(tuple((f"C{n + 1}", rows) for n, rows in enumerate((2000, 300, 40))), 2)
    (drawn,) = LogSource(open_batches(bag_log, schema, 3)).draw_calls(1, 200)
    first, second = drawn.columns[0], drawn.columns[1]
    ends = [*first.offsets[1:].tolist(), len(first.ids)]
    bags = [tuple(first.ids[a:b].tolist()) for a, b in zip(first.offsets.tolist(), ends, strict=True)]
    pairs = set(zip(bags, second.ids.tolist(), strict=True))
    assert pairs == {((1, 2, 3), 7), ((), 8), ((4,), 9), ((5, 6), 7)}
    found = bench(artifact, against=tiny.bare, data=bag_log, batch=(8,), seconds=0.01)
    assert {row["contender"] for row in found.rows} >= {"converted", "original"}


def test_joined_columns_are_one_bag_per_table_and_sample():
    """FBGEMM's input: ids table by table, a start per bag and the end."""
    (drawn,) = ZipfSource([50, 60], exponent=1.05, dense=0, hottest={}).draw_calls(1, 4)
    ids, offsets = join_columns(drawn, (1, 0, 1))
    assert ids.tolist() == [*drawn.ids[:, 1].tolist(), *drawn.ids[:, 0].tolist(), *drawn.ids[:, 1].tolist()]
    assert offsets.tolist() == list(range(13))
    assert (ids.dtype, offsets.dtype) == (torch.int32, torch.int32)


@pytest.mark.usefixtures("_quick")
def test_an_artifact_alone(artifact):
    """Without --against there is the converted model alone, at each precision, and no ratio; ids follow Zipf's law."""
    found = bench(artifact, zipf=1.2, batch=(4,), seconds=0.01)
    assert [(row["stage"], row["contender"]) for row in found.rows] == [
        ("embedding", "converted"),
        ("model", "converted"),
        ("model", "converted bf16"),
        ("model", "converted int8"),
    ]
    assert all(row["ratio_to_original"] is None and row["ratio_to"] == {} for row in found.rows)
    assert found.ids == {"source": "zipf", "exponent": 1.2}
    assert "speed" not in render_latency(found.to_json())


@pytest.mark.usefixtures("_quick")
def test_tables_alone(tiny, tmp_path):
    """An artifact of tables only has an embedding stage and no model, with and without its checkpoint."""
    target = tmp_path / "tables.safetensors"
    memrec_convert.convert(tiny.bare, "12kB", tables_only=True, out=target, threads=1)
    found = bench(target, against=tiny.bare, batch=(4,), seconds=0.01)
    assert {row["stage"] for row in found.rows} == {"embedding"}
    assert {row["contender"] for row in found.rows} >= {"converted", "original", "torch int8"}


@pytest.mark.usefixtures("_quick")
def test_a_model_of_its_own_class(tmp_path, tiny):
    """Its tables are timed one by one; nothing can be set beside them, and no log is known to serve them."""
    model = nn.Sequential(nn.EmbeddingBag(2000, 8, mode="sum"))
    target = tmp_path / "own.safetensors"
    memrec_convert.save(memrec_convert.compress(model, "8x")[0], target)
    found = bench(target, batch=(4,), seconds=0.01)
    assert [row["stage"] for row in found.rows] == ["embedding"]
    with pytest.raises(ModelError, match="its own class"):
        bench(target, against=tiny.bare, batch=(4,))
    with pytest.raises(LogError, match="its own class"):
        bench(target, data=tiny.test, batch=(4,))


def test_memory_is_that_of_a_fresh_process(artifact):
    """The model's own bytes are apart from the libraries', and the kept outputs are counted."""
    found = measure_serving(artifact, 1 << 14, 2)
    assert found["file_bytes"] == artifact.stat().st_size
    if found["loaded_bytes"] is None:
        pytest.skip("the system does not tell")
    assert found["loaded_bytes"] <= found["loading_peak_bytes"]
    assert found["loaded_bytes"] < 32 << 20
    assert found["output_pool_bytes"] >= 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--batch", "0"], "batch size is 0"),
        (["--batch", "1,0,8"], "batch size is 0"),
        (["--batch", "many"], "no list of whole numbers"),
        (["--threads", "0"], "threads is 0"),
        (["--zipf", "0"], "Zipf exponent is 0"),
        (["--zipf", "-1"], "Zipf exponent is -1"),
        (["--zipf", "nan"], "Zipf exponent is nan"),
        (["--seconds", "0"], "seconds is 0"),
        (["--zipf", "1", "--data", "log.parquet"], "exclude each other"),
        (["--data", "absent.parquet"], "absent.parquet"),
        (["--against", "absent.pt"], "absent.pt"),
        (["--chart", "chart.png"], "charts are SVG"),
    ],
)
def test_bad_options_are_one_sentence(run, artifact, options, words):
    """Exit code 2, nothing on stdout, one sentence."""
    code, out, err = run(artifact, *options)
    assert (code, out) == (2, "")
    assert words in err
    assert len(err.splitlines()) == 1


def test_foreign_files_are_refused(run, tiny, tmp_path):
    """A checkpoint, a text and nothing at all are no artifacts."""
    text = tmp_path / "text.safetensors"
    text.write_text("hello")
    for path in (tiny.bare, text, tmp_path / "absent"):
        code, out, err = run(path)
        assert (code, out, len(err.splitlines())) == (2, "", 1)
        assert err.startswith("Artifact:")


def test_another_models_checkpoint_is_refused(artifact, tmp_path, tiny):
    """Tables or layers that differ: named, with both."""
    state = torch.load(tiny.bare, weights_only=True)["state_dict"]
    state["emb_l.1.weight"] = state["emb_l.1.weight"][:-1]
    torch.save({"state_dict": state}, tmp_path / "other.pt")
    with pytest.raises(ModelError, match=r"was not made from .* tables differ"):
        bench(artifact, against=tmp_path / "other.pt", batch=(1,))


def test_too_little_memory_is_told_beforehand(artifact, tiny, monkeypatch):
    """Tables that would not fit are refused before they are read."""
    monkeypatch.setattr(bench_module, "read_available", lambda: 1 << 20)
    with pytest.raises(ModelError, match="GB of memory"):
        bench(artifact, against=tiny.bare, batch=(1,))


def test_noise_is_told():
    """A warning names the batch sizes whose figures cannot be trusted."""
    rows = [{"batch": 8, "noisy": True}, {"batch": 1, "noisy": False}, {"batch": 8, "noisy": True}]
    (warning,) = bench_module.warn_of_noise(rows)
    assert "too noisy: at batch 8 the" in warning
    assert bench_module.warn_of_noise(rows[1:2]) == []


def test_the_figures_are_printed_and_drawn(run, artifact, tmp_path):
    """--json prints one object and nothing else; without it stands the table; no chart is replaced without --force."""
    chart = tmp_path / "speed.svg"
    arguments = (artifact, "--batch", "2,4", "--seconds", "0.01", "--chart", chart)
    code, out, _ = run(*arguments)
    assert code == 0
    assert "Embedding stage:" in out
    assert "<svg" in chart.read_text()
    assert run(*arguments)[0] == 2
    code, out, _ = run(*arguments, "--force", "--json")
    found = json.loads(out)
    models = {(row["batch"], row["contender"]) for row in found["rows"] if row["stage"] == "model"}
    assert code == 0
    assert models == {(batch, f"converted{precision}") for batch in (2, 4) for precision in ("", " bf16", " int8")}
    assert "Embedding stage:" in render_latency(found, 80)


def test_fbgemm_that_does_not_load_is_left_out(monkeypatch):
    """An FBGEMM built for another torch costs its contender and nothing else."""

    def fail(name):
        raise OSError("undefined symbol")

    monkeypatch.setattr(contenders.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(contenders.importlib, "import_module", fail)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = int8_contenders([torch.zeros(4, 8)], (0,))
    assert [one.name for one in made] == ["torch int8"]


def test_foreign_artifact_error_is_the_readers(tmp_path):
    """A damaged artifact is the reader's to refuse."""
    (tmp_path / "x.safetensors").write_bytes(b"\0" * 64)
    with pytest.raises(ArtifactError):
        bench(tmp_path / "x.safetensors")
    with pytest.raises(OptionError):
        bench(tmp_path / "x.safetensors", batch=())


def test_tables_called_one_by_one_match_the_network(artifact):
    """Single modules give the vectors that the network's embedding stage gives at once."""
    served = open_served(artifact)
    (drawn,) = ZipfSource(served.input_rows, exponent=1.05, dense=2, hottest={}).draw_calls(1, 20)
    apart = torch.stack(call_tables(served.tables, served.inputs, drawn.columns), dim=1)
    together = served.model.embed(drawn.ids)
    assert torch.equal(apart, together if isinstance(together, torch.Tensor) else torch.stack(list(together), dim=1))
