"""A conversion that starts from an earlier artifact: what did not move stays, and nothing gets worse by it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
import torch

from memrec_convert import apply, convert, diff, verify
from memrec_convert.artifact.reader import build_modules, read_artifact
from memrec_convert.cli.commands import cli
from memrec_convert.clicklog import SyntheticSpec, write_synthetic_log
from memrec_convert.conversion.inputs import workspace
from memrec_convert.conversion.measuring import carried, worth
from memrec_convert.conversion.steps import carrying, recoding
from memrec_convert.conversion.steps.fitting import IdleTable
from memrec_convert.distill import rows as rows_module
from memrec_convert.errors import ArtifactError, LogError, OptionError
from memrec_convert.planning import search
from memrec_convert.report import Report

ROWS, DIM = (2000, 300, 40), 8
"""Of the tiny model's tables."""

TinyModel = Any
"""The fixture's, in a file whose name several folders have."""

BUDGET = "12kB"
Change = Callable[[dict[str, torch.Tensor]], object]


@pytest.fixture(scope="module", autouse=True)
def coarse() -> Iterator[None]:
    """Small tables are held as large ones are at small budgets: in codes, without the fine codecs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "FINE_RATIO", 0)
        yield


@pytest.fixture(scope="module")
def yesterday(tiny: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifact of the tiny model."""
    out = tmp_path_factory.mktemp("yesterday") / "yesterday.safetensors"
    convert(tiny.bare, BUDGET, out=out, epochs=0)
    return out


def write_today(tiny: TinyModel, path: Path, change: Change) -> Path:
    """The tiny model with changed tensors."""
    state = torch.load(tiny.bare, weights_only=True)["state_dict"]
    change(state)
    torch.save({"state_dict": state}, path)
    return path


def move_some(state: dict[str, torch.Tensor], *, by: float = 0.5) -> None:
    """One row in twenty moves, and the dense part a little."""
    draw = torch.Generator().manual_seed(1)
    for number, rows in enumerate(ROWS):
        moved = torch.rand(rows, generator=draw) < 0.05
        weight = state[f"emb_l.{number}.weight"]
        weight[moved] += by * weight.std() * torch.randn(int(moved.sum()), DIM, generator=draw)
    state["bot_l.0.weight"] += 0.01


def codes_of(path: Path) -> dict[str, np.ndarray]:
    """The rows of each table as they are decoded."""
    modules = build_modules(read_artifact(path), filled=True)
    return {one.name: one.lookup(torch.arange(one.spec.rows)).numpy() for one in modules.values()}


def told(report: Report) -> dict[str, Any]:
    """What the report says of the earlier artifact."""
    found: dict[str, Any] = report.to_json()["plan"]["like"]
    return found


def test_rows_that_did_not_move_keep_their_codes(tiny: TinyModel, yesterday: Path, tmp_path: Path) -> None:
    """Of the rows that stayed, nine in ten and more decode as before, and the patch is a part of the file."""
    today = write_today(tiny, tmp_path / "today.pt", move_some)
    report = convert(today, like=yesterday, out=tmp_path / "new.safetensors")
    found = told(report)
    assert found["reason"] == ""
    assert sum(table["coded"] for table in found["tables"]) > 1000
    assert sum(table["kept"] for table in found["tables"]) > 0.8 * sum(table["coded"] for table in found["tables"])
    assert verify(tmp_path / "new.safetensors", against=today).tables == len(ROWS)
    assert report.fine_tune is None
    old, new = codes_of(yesterday), codes_of(tmp_path / "new.safetensors")
    before = torch.load(tiny.bare, weights_only=True)["state_dict"]
    after = torch.load(today, weights_only=True)["state_dict"]
    stayed = same = 0
    for name in [table["name"] for table in found["tables"] if not table["refitted"]]:
        rows = (before[f"{name}.weight"] == after[f"{name}.weight"]).all(dim=1).numpy()
        stayed += int(rows.sum())
        same += int((old[name] == new[name]).all(axis=1)[rows].sum())
    assert same > 0.9 * stayed > 1000
    made = diff(yesterday, tmp_path / "new.safetensors", out=tmp_path / "patch")
    assert made.bytes < 0.5 * made.new_bytes
    apply(yesterday, tmp_path / "patch", out=tmp_path / "made")
    assert (tmp_path / "made").read_bytes() == (tmp_path / "new.safetensors").read_bytes()


def test_large_tables_are_taken_over_from_a_sample(
    tiny: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tables that stay in their file: one pass codes their rows, most keep their codes, for any number of threads."""
    monkeypatch.setattr(rows_module, "LARGE_ELEMENTS", 1000)
    monkeypatch.setattr(workspace, "HELD_BYTES", 0)
    convert(tiny.bare, BUDGET, out=tmp_path / "old", epochs=0)
    today = write_today(tiny, tmp_path / "today.pt", partial(move_some, by=0.2))
    for threads in (1, 3):
        found = told(convert(today, like=tmp_path / "old", out=tmp_path / f"{threads}", threads=threads))
    assert found["reason"] == ""
    (coded,) = [table for table in found["tables"] if table["coded"] > 1000]
    assert 0.85 * coded["coded"] < coded["kept"] < coded["coded"]
    assert (tmp_path / "1").read_bytes() == (tmp_path / "3").read_bytes()
    with_them = verify(tmp_path / "1", against=today).against["tables"]
    before = verify(tmp_path / "old", against=tiny.bare).against["tables"]
    assert with_them[0]["relative_error"] < 1.1 * before[0]["relative_error"]


@pytest.mark.parametrize("share", [0.05, 0.12, 0.2])
def test_rows_that_moved_far_are_coded_anew(
    tiny: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    """In large tables, where limits tell which codes serve: however many moved, they lose no more than they did."""
    monkeypatch.setattr(rows_module, "LARGE_ELEMENTS", 1000)
    monkeypatch.setattr(workspace, "HELD_BYTES", 0)
    convert(tiny.bare, BUDGET, out=tmp_path / "old.safetensors", epochs=0)
    moved = torch.rand(ROWS[0], generator=torch.Generator().manual_seed(2)) < share

    def change(state: dict[str, torch.Tensor]) -> None:
        weight = state["emb_l.0.weight"]
        weight[moved] = weight[moved].roll(1, dims=0)

    today = write_today(tiny, tmp_path / "today.pt", change)
    before = torch.load(tiny.bare, weights_only=True)["state_dict"]["emb_l.0.weight"].numpy()
    after = torch.load(today, weights_only=True)["state_dict"]["emb_l.0.weight"].numpy()
    report = convert(today, like=tmp_path / "old.safetensors", out=tmp_path / "new.safetensors")
    assert not told(report)["reason"]
    assert not told(report)["tables"][0]["refitted"]
    old, new = (codes_of(tmp_path / f"{name}.safetensors")["emb_l.0"] for name in ("old", "new"))
    chosen = moved.numpy()
    assert np.square(new - after)[chosen].mean() < 1.3 * np.square(old - before)[chosen].mean()


def test_a_day_without_change_changes_next_to_nothing(tiny: TinyModel, yesterday: Path, tmp_path: Path) -> None:
    """Converted like itself, all but a handful of rows keep their codes; plan, specs and codebooks are yesterday's."""
    report = convert(tiny.bare, like=yesterday, out=tmp_path / "new.safetensors")
    tables = told(report)["tables"]
    assert not any(table["refitted"] for table in tables)
    assert all(table["kept"] >= 0.99 * table["coded"] for table in tables)
    assert all(table["loss"] == pytest.approx(table["fresh_loss"], rel=0.02) for table in tables)
    old, new = read_artifact(yesterday).metadata, read_artifact(tmp_path / "new.safetensors").metadata
    assert (old.modules, old.plan) == (new.modules, new.plan)


def test_trellis_rows_are_taken_over(tiny: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables and levels in fine codecs keep them; of the same rows all but a few lie in the level that they lay in."""
    monkeypatch.setattr(search, "FINE_RATIO", 30)
    convert(tiny.bare, "16kB", out=tmp_path / "old", epochs=0)
    assert any("trellis" in str(module) for module in read_artifact(tmp_path / "old").metadata.modules.values())
    found = told(convert(tiny.bare, like=tmp_path / "old", out=tmp_path / "new"))
    assert found["reason"] == ""
    old, new = codes_of(tmp_path / "old"), codes_of(tmp_path / "new")
    assert all((old[name] == new[name]).all(axis=1).mean() > 0.97 for name in old)


@pytest.mark.parametrize("by", [+77, -77])
def test_tables_may_grow_and_shrink(tiny: TinyModel, yesterday: Path, tmp_path: Path, by: int) -> None:
    """New rows take codes of the base, rows that are gone leave their levels, and the file is sound."""

    def resize(state: dict[str, torch.Tensor]) -> None:
        weight = state["emb_l.0.weight"]
        state["emb_l.0.weight"] = torch.cat([weight, weight[:by] * 0.9]) if by > 0 else weight[:by].clone()

    today = write_today(tiny, tmp_path / "today.pt", resize)
    found = told(convert(today, like=yesterday, out=tmp_path / "new.safetensors"))
    assert found["reason"] == ""
    assert (found["tables"][0]["rows_before"], found["tables"][0]["rows"]) == (ROWS[0], ROWS[0] + by)
    assert "emb_l.0" in found["says"]
    verify(tmp_path / "new.safetensors", against=today)


def renumber(state: dict[str, torch.Tensor]) -> np.ndarray:
    """Shuffles the rows of the first table, of which 9 are gone and 4 new; the earlier row of each, -1 for new."""
    draw = np.random.default_rng(5)
    weight = state["emb_l.0.weight"]
    origins = np.append(draw.permutation(len(weight))[:-9], np.full(4, -1))
    draw.shuffle(origins)
    state["emb_l.0.weight"] = torch.where(torch.from_numpy(origins >= 0)[:, None], weight[origins], 0.01)
    return origins


def write_row_map(path: Path, origins: np.ndarray, table: str = "emb_l.0") -> Path:
    """A row map of one table: parquet, or CSV by its suffix."""
    new = np.flatnonzero(origins >= 0)
    lines = pa.table({"table": [table] * len(new), "new": new, "old": origins[new]})
    (pacsv.write_csv if path.suffix == ".csv" else pq.write_table)(lines, path)
    return path


def test_rows_that_were_renumbered_keep_their_codes(tiny: TinyModel, yesterday: Path, tmp_path: Path) -> None:
    """With a row map a table whose rows were shuffled keeps nine codes in ten; without, hardly any."""
    origins = np.zeros(0)

    def change(state: dict[str, torch.Tensor]) -> None:
        nonlocal origins
        origins = renumber(state)

    today = write_today(tiny, tmp_path / "today.pt", change)
    made = []
    for name in ("map.parquet", "map.csv"):
        rows = write_row_map(tmp_path / name, origins)
        found = told(convert(today, like=yesterday, row_map=rows, out=tmp_path / f"{name}.safetensors"))
        made.append((tmp_path / f"{name}.safetensors").read_bytes())
    assert made[0] == made[1]
    table = found["tables"][0]
    assert found["reason"] == ""
    assert table["renumbered"] == ((origins >= 0) & (origins != np.arange(len(origins)))).sum()
    assert table["kept"] > 0.9 * table["coded"] > 1000
    assert f"{table['renumbered']:,} rows had another number" in found["says"]
    old, new = codes_of(yesterday)["emb_l.0"], codes_of(tmp_path / "map.csv.safetensors")["emb_l.0"]
    if not table["refitted"]:
        known = origins >= 0
        assert (old[origins[known]] == new[known]).all(axis=1).mean() > 0.9
    verify(tmp_path / "map.csv.safetensors", against=today)
    alone = told(convert(today, like=yesterday, out=tmp_path / "alone.safetensors"))["tables"][0]
    assert alone["kept"] < 0.5 * table["kept"]


def test_large_tables_that_were_renumbered_keep_their_codes(
    tiny: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that are not listed have their number, or are new where another row has taken it."""
    monkeypatch.setattr(rows_module, "LARGE_ELEMENTS", 1000)
    monkeypatch.setattr(workspace, "HELD_BYTES", 0)
    convert(tiny.bare, BUDGET, out=tmp_path / "old", epochs=0)

    def swap(state: dict[str, torch.Tensor]) -> None:
        state["emb_l.0.weight"][:500] = state["emb_l.0.weight"][:500].flip(0)

    today = write_today(tiny, tmp_path / "today.pt", swap)
    rows = write_row_map(tmp_path / "map.parquet", np.arange(500)[::-1].copy())
    found = told(convert(today, like=tmp_path / "old", row_map=rows, out=tmp_path / "new"))
    table = found["tables"][0]
    assert table["renumbered"] == 500
    assert table["kept"] > 0.95 * table["coded"] > 1000
    alone = told(convert(today, like=tmp_path / "old", out=tmp_path / "alone"))["tables"][0]
    assert alone["kept"] < table["kept"] - 100


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([("emb_l.0", 2000, 1)], r"> old: found 2000, expected rows of the earlier table 'emb_l\.0', 0 to 1999"),
        ([("emb_l.0", 1, 2000)], r"> new: found 2000, expected rows of today's table 'emb_l\.0', 0 to 1999"),
        ([("emb_l.0", -1, 3)], r"> old: found -1"),
        ([("emb_l.0", 1, 7), ("emb_l.0", 2, 7)], r"row 7 of table 'emb_l\.0' stands there twice"),
        ([("emb_l.9", 1, 2)], r"no table 'emb_l\.9' is in both models.*inspect"),
        ([("emb_l.0", 1.5, 2)], r"(?s)whole|integer"),
        ([("emb_l.0", None, 2)], r"missing"),
        ([(None, 1, 2)], r"missing"),
    ],
)
@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_a_row_map_that_cannot_be_is_one_sentence(
    tiny: TinyModel, yesterday: Path, tmp_path: Path, lines: list[tuple[Any, ...]], said: str, suffix: str
) -> None:
    """Rows beyond their tables, a row with two origins, unknown tables, other values: named, and nothing is written."""
    table = pa.table(dict(zip(("table", "old", "new"), map(list, zip(*lines, strict=True)), strict=True)))
    if table.schema.field("table").type == pa.null():
        table = table.set_column(0, "table", pa.array([None], pa.string()))
    if table.schema.field("old").type == pa.null():
        table = table.set_column(1, "old", pa.array([None], pa.int64()))
    path = tmp_path / f"map.{suffix}"
    (pacsv.write_csv if suffix == "csv" else pq.write_table)(table, path)
    with pytest.raises(LogError, match=said):
        convert(tiny.bare, like=yesterday, row_map=path, out=tmp_path / "new")
    assert list(tmp_path.iterdir()) == [path]


def test_a_row_map_needs_an_earlier_artifact_and_its_columns(tiny: TinyModel, yesterday: Path, tmp_path: Path) -> None:
    """Without --like, without the file, and with other columns: one sentence each."""
    with pytest.raises(OptionError, match="--like"):
        convert(tiny.bare, BUDGET, row_map=tmp_path / "map.csv", out=tmp_path / "new")
    with pytest.raises(LogError, match=r"map\.csv does not exist"):
        convert(tiny.bare, like=yesterday, row_map=tmp_path / "map.csv", out=tmp_path / "new")
    (tmp_path / "map.csv").write_text("table,before,after\nemb_l.0,1,2\n")
    with pytest.raises(LogError, match="columns 'table', 'before', 'after'; expected 'table', 'old', 'new'"):
        convert(tiny.bare, like=yesterday, row_map=tmp_path / "map.csv", out=tmp_path / "new")


def test_where_a_fresh_fit_is_better_it_is_made(tiny: TinyModel, yesterday: Path, tmp_path: Path) -> None:
    """Another model's rows owe nothing to yesterday's: the file is that of a conversion from nothing, as is said."""

    def replace(state: dict[str, torch.Tensor]) -> None:
        draw = torch.Generator().manual_seed(3)
        for number, rows in enumerate(ROWS):
            state[f"emb_l.{number}.weight"] = torch.randn(rows, DIM, generator=draw) ** 3

    today = write_today(tiny, tmp_path / "today.pt", replace)
    found = told(convert(today, BUDGET, like=yesterday, out=tmp_path / "like.safetensors", epochs=0))
    assert "a fresh fit" in found["reason"]
    assert found["says"].startswith("Converted anew")
    convert(today, BUDGET, out=tmp_path / "fresh.safetensors", epochs=0)
    assert (tmp_path / "like.safetensors").read_bytes() == (tmp_path / "fresh.safetensors").read_bytes()


@pytest.mark.parametrize("large", [False, True])
def test_where_a_fresh_conversion_ranks_better_it_is_made(
    tiny: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: bool
) -> None:
    """Yesterday's plan was made for other weights; whatever its distortion, its AUC on a large hold-out is lower."""
    monkeypatch.setattr(carrying, "MOST_LOST", float("inf"))
    if large:
        monkeypatch.setattr(rows_module, "LARGE_ELEMENTS", 1000)
        monkeypatch.setattr(workspace, "HELD_BYTES", 0)
    spec = SyntheticSpec(tables=ROWS, dense=2, train_rows=1, val_rows=100_000, test_rows=1)
    logs = {"data": tiny.train, "val": write_synthetic_log(spec, tmp_path / "logs").val, "assume": {"pairs": "lower"}}
    convert(tiny.bare, "6kB", weights="uniform", out=tmp_path / "old")
    found = told(convert(tiny.bare, like=tmp_path / "old", out=tmp_path / "new", **logs, epochs=0))
    says = "AUC drop of 0\\.0.* a fresh fit of a sample loses .* less" if large else "AUC of a fresh conversion is 0"
    assert re.search(says, found["reason"])
    convert(tiny.bare, "6kB", out=tmp_path / "fresh", **logs, epochs=0)
    assert (tmp_path / "new").read_bytes() == (tmp_path / "fresh").read_bytes()
    monkeypatch.setattr(carried, "MOST_AUC_LOST", 0.4)
    assert told(convert(tiny.bare, like=tmp_path / "old", out=tmp_path / "kept", **logs, epochs=0))["reason"] == ""


def test_a_small_hold_out_does_not_tell(tiny: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gain in AUC whose interval reaches below zero may be luck, and does not decide."""
    monkeypatch.setattr(carrying, "MOST_LOST", float("inf"))
    convert(tiny.bare, "9kB", weights="uniform", out=tmp_path / "old")
    logs = {"data": tiny.train, "val": tiny.val}
    assert told(convert(tiny.bare, like=tmp_path / "old", out=tmp_path / "new", **logs))["reason"] == ""


def test_what_cannot_be_taken_over_is_converted_anew(tiny: TinyModel, yesterday: Path, tmp_path: Path) -> None:
    """A smaller budget, and an artifact that lacks a table, each give a conversion from nothing that says why."""
    small = told(convert(tiny.bare, "11kB", like=yesterday, out=tmp_path / "small.safetensors"))
    assert "the budget is 11000" in small["reason"]

    def drop(state: dict[str, torch.Tensor]) -> None:
        for name in [name for name in state if not name.startswith(("emb_l.0", "emb_l.1"))]:
            del state[name]

    two = write_today(tiny, tmp_path / "two.pt", drop)
    convert(two, "20kB", tables_only=True, out=tmp_path / "two.safetensors")
    more = told(convert(tiny.bare, BUDGET, like=tmp_path / "two.safetensors", tables_only=True, out=tmp_path / "more"))
    assert "no table emb_l.2" in more["reason"]
    less = told(convert(two, BUDGET, like=yesterday, tables_only=True, out=tmp_path / "less"))
    assert "emb_l.2 is gone" in less["reason"]


@pytest.mark.parametrize("share", [0.999, 0.99, 0.988])
def test_what_has_grown_is_taken_from_a_level(tiny: TinyModel, yesterday: Path, tmp_path: Path, share: float) -> None:
    """A file that would be up to 2 % beyond the budget keeps the plan, and a level gives up its least worthy rows."""
    budget = int(share * yesterday.stat().st_size)
    report = convert(tiny.bare, budget, like=yesterday, out=tmp_path / "new.safetensors")
    found = told(report)
    assert found["reason"] == ""
    assert sum(table["kept"] for table in found["tables"]) > 0.9 * sum(table["coded"] for table in found["tables"])
    assert 0.97 * budget < (tmp_path / "new.safetensors").stat().st_size <= budget
    verify(tmp_path / "new.safetensors", against=tiny.bare)


def test_threads_do_not_change_the_file(tiny: TinyModel, yesterday: Path, tmp_path: Path) -> None:
    """One thread and three write the same bytes."""
    today = write_today(tiny, tmp_path / "today.pt", move_some)
    for threads in (1, 3):
        convert(today, like=yesterday, out=tmp_path / f"{threads}", threads=threads)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "3").read_bytes()


def test_with_data_the_divergence_is_measured_and_nothing_is_trained(
    tiny: TinyModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With logs the weights come from them, a bound on the AUC holds, and codes stay as they were taken over."""
    logs = {"data": tiny.train, "val": tiny.val}
    convert(tiny.checkpoint, BUDGET, out=tmp_path / "old", **logs, epochs=0)
    words = ["convert", str(tiny.checkpoint), "--like", str(tmp_path / "old"), "--out", str(tmp_path / "new")]
    words += ["--data", str(tiny.train), "--val", str(tiny.val)]
    cli.main([*words, "--fail-if-worse-than", "0.05", "--quiet"], standalone_mode=False)
    report = convert(tiny.checkpoint, like=tmp_path / "old", out=tmp_path / "again", eval=tiny.test, **logs)
    assert (tmp_path / "new").stat().st_size == (tmp_path / "again").stat().st_size
    values = report.to_json()
    assert told(report)["reason"] == ""
    assert values["plan"]["divergence"] is not None
    assert values["fine_tune"] is None
    assert f"not fine-tuned: rows taken over from {tmp_path / 'old'} keep their codes" in values["warnings"]
    assert not any("it needs" in warning for warning in values["warnings"])
    cli.main([*words, "--full", "--force"], standalone_mode=False)
    assert "rows kept their codes" in " ".join(capsys.readouterr().out.split())


def test_a_table_that_was_left_out_stays_out(tiny: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fresh conversion, which would leave it out too, is not held to be nearer to the original."""
    idle = [IdleTable(0, -0.0001, 0.00001)]
    monkeypatch.setattr(worth, "_find_idle", lambda subject, fitted, options: idle)
    monkeypatch.setattr(recoding.Taught, "has_gained", lambda taught: True)
    logs = {"data": tiny.train, "val": tiny.val, "batch_size": 256}
    first = convert(tiny.checkpoint, BUDGET, out=tmp_path / "first.safetensors", **logs)
    again = convert(tiny.checkpoint, out=tmp_path / "again.safetensors", like=tmp_path / "first.safetensors", **logs)
    assert first.tables[0].form == again.tables[0].form == "mean row"
    assert not told(again)["reason"]


def test_what_does_not_go_with_it_is_refused(tiny: TinyModel, yesterday: Path, tmp_path: Path) -> None:
    """A search for a size, and a file that is no artifact, are errors."""
    with pytest.raises(OptionError, match="--max-auc-drop"):
        convert(tiny.bare, like=yesterday, max_auc_drop=0.001, val=tiny.val, out=tmp_path / "new")
    with pytest.raises(ArtifactError):
        convert(tiny.bare, like=tiny.bare, out=tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_tables_kept_in_a_codec_that_is_offered_to_none_today(
    tiny: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tables below today's threshold have figures of the plain codecs alone; what yesterday's loses is measured."""
    monkeypatch.setattr(search, "FINE_RATIO", 30)
    report = convert(tiny.bare, "16kB", out=tmp_path / "old", epochs=0, threshold=0)
    assert any(table.form.startswith("trellis") for table in report.tables)
    found = told(convert(tiny.bare, like=tmp_path / "old", out=tmp_path / "new", threshold="10kB"))
    assert found["says"]
