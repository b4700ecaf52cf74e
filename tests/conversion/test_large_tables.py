"""Conversion of tables that are not held: bounds, equal bytes, interruption, and going on with --work."""

import shutil
from functools import partial

import pytest
import torch

from memrec_convert import convert, load
from memrec_convert.conversion.inputs import workspace
from memrec_convert.conversion.plan import plan
from memrec_convert.conversion.steps import fitting
from memrec_convert.conversion.verify import verify
from memrec_convert.distill import rows as rows_module
from memrec_convert.distill.columns import Scratch
from memrec_convert.errors import OutputError
from memrec_convert.models import StoredTable


@pytest.fixture
def large(monkeypatch):
    """Every table counts as large, stays in its file, and all numbers per row go to files."""
    monkeypatch.setattr(rows_module, "LARGE_ELEMENTS", 1000)
    monkeypatch.setattr(workspace, "HELD_BYTES", 0)
    monkeypatch.setattr(workspace, "Scratch", partial(Scratch, memory_bytes=0))


def files_in(folder):
    """Names in a folder."""
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("weights", ["displacement", "uniform", "optimizer"])
@pytest.mark.parametrize("budget", ["9kB", "20kB"])
def test_without_data(tiny, tmp_path, large, weights, budget):
    """The file is within the budget, sound, near the source, and nothing else is left in its folder."""
    report = convert(tiny.checkpoint, budget, out=tmp_path / "o.safetensors", weights=weights, threads=1)
    assert report.artifact.bytes <= report.budget_bytes
    assert files_in(tmp_path) == ["o.card.md", "o.report.json", "o.safetensors"]
    assert report.weights == weights
    found = verify(tmp_path / "o.safetensors", against=tiny.checkpoint).against["tables"]
    assert max(table["relative_error"] for table in found) < 1.05
    assert any(word in table.form for table in report.tables for word in ("codes", "ids at", "trellis"))


def test_with_data_it_is_as_good_as_when_all_is_held(tiny, tmp_path, monkeypatch):
    """The AUC of the large way is within 0.004 of that of the small way at the same budget."""
    choices = {"data": tiny.train, "eval": tiny.test, "epochs": 0, "threads": 1}
    small = convert(tiny.checkpoint, "12kB", out=tmp_path / "small.safetensors", **choices)
    monkeypatch.setattr(rows_module, "LARGE_ELEMENTS", 1000)
    monkeypatch.setattr(workspace, "HELD_BYTES", 0)
    other = convert(tiny.checkpoint, "12kB", out=tmp_path / "large.safetensors", **choices)
    assert other.auc.before == small.auc.before
    assert other.auc.after == pytest.approx(small.auc.after, abs=0.004)


def test_the_number_of_threads_changes_nothing(tiny, tmp_path, large):
    """Same bytes with one and with three."""
    for threads in (1, 3):
        convert(tiny.bare, "12kB", out=tmp_path / f"{threads}.safetensors", threads=threads)
    assert (tmp_path / "1.safetensors").read_bytes() == (tmp_path / "3.safetensors").read_bytes()


def test_the_published_form_is_fitted_to_a_sample(tiny, tmp_path, large, monkeypatch):
    """Where all rows are too many, part of them stand for the others."""
    from memrec_convert.conversion.steps import published_form

    whole = convert(tiny.bare, "20kB", out=tmp_path / "whole.safetensors", method="memrec", threads=1)
    monkeypatch.setattr(published_form, "HASHED_ELEMENTS", 8000)
    monkeypatch.setattr(published_form, "SAMPLE_ROWS", 100)
    part = convert(tiny.bare, "20kB", out=tmp_path / "part.safetensors", method="memrec", threads=1)
    assert part.artifact.bytes <= part.budget_bytes
    assert (tmp_path / "whole.safetensors").read_bytes() != (tmp_path / "part.safetensors").read_bytes()
    assert part.plan["distortion"] < 3 * whole.plan["distortion"]


def test_rows_that_are_not_finite_read_as_zeros(tiny, tmp_path, large):
    """Also where they are looked up in the file."""
    state = torch.load(tiny.bare, weights_only=True)["state_dict"]
    state["emb_l.0.weight"][7] = float("inf")
    torch.save({"state_dict": state}, tmp_path / "odd.pt")
    report = convert(
        tmp_path / "odd.pt",
        "20kB",
        out=tmp_path / "o.safetensors",
        data=tiny.train,
        eval=tiny.test,
        epochs=0,
        allow_nonfinite=True,
        threads=1,
    )
    assert any("emb_l.0: 1 rows" in warning for warning in report.warnings)
    assert 0.5 < report.auc.before < 1


def test_an_interruption_leaves_nothing(tiny, tmp_path, large, monkeypatch):
    """Ctrl-C at any reading of rows: no file at or beside the target."""

    class Interrupting:
        def __init__(self, after):
            self.left = after

        def __call__(self, *_):
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt

    for after in (0, 1, 3, 6, 9, 12, 15):
        with pytest.raises(KeyboardInterrupt):
            convert(tiny.bare, "12kB", out=tmp_path / "o.safetensors", threads=1, progress=Interrupting(after))
        assert files_in(tmp_path) == []


def test_progress_counts_bytes_of_rows(tiny, tmp_path, large):
    """Each stage that reads large tables ends at its total, and never falls back."""
    told = []
    convert(tiny.bare, "12kB", out=tmp_path / "o.safetensors", threads=1, progress=lambda *one: told.append(one))
    for stage, passes in (("read rows", 1), ("fit tables", 1), ("plan and code", 2)):
        steps = [(done, total) for name, done, total in told if name == stage]
        assert {total for _, total in steps} == {passes * 4 * 8 * (2000 + 300)}
        assert [done for done, _ in steps] == sorted(done for done, _ in steps)
        assert steps[-1][0] == steps[-1][1]


@pytest.mark.parametrize("way", ["small", "large"])
def test_a_second_call_goes_on_from_the_work_folder(tiny, tmp_path, monkeypatch, request, way):
    """The same inputs are not fitted or coded again, give the same bytes, and another budget reuses the fit."""
    if way == "large":
        request.getfixturevalue("large")
    work = tmp_path / "work"
    convert(tiny.bare, "12kB", out=tmp_path / "none.safetensors", threads=1)
    convert(tiny.bare, "12kB", out=tmp_path / "one.safetensors", work=work, threads=1)
    monkeypatch.setattr(fitting, "measure_table", lambda *_, **__: pytest.fail("fitted again"))
    monkeypatch.setattr(fitting, "measure_lists", lambda *_, **__: pytest.fail("fitted again"))
    with monkeypatch.context() as patch:
        for coding in ("distill.streamed._code_chunk", "conversion.steps.coding.building.refine_table"):
            patch.setattr(f"memrec_convert.{coding}", lambda *_, **__: pytest.fail("coded again"))
        convert(tiny.bare, "12kB", out=tmp_path / "two.safetensors", work=work, threads=1)
    first = (tmp_path / "one.safetensors").read_bytes()
    assert first == (tmp_path / "none.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()
    assert plan(tiny.bare, "20kB", work=work, threads=1).predicted_bytes <= 20_000


def test_an_interrupted_run_keeps_its_finished_tables(tiny, tmp_path, large, monkeypatch):
    """What was fitted before the interruption is not fitted again."""
    fitted, measure_table = [], fitting.measure_table

    def watch(name, *arguments, **choices):
        fitted.append(name)
        if len(fitted) == 2:
            raise KeyboardInterrupt
        return measure_table(name, *arguments, **choices)

    monkeypatch.setattr(fitting, "measure_table", watch)
    choices = {"out": tmp_path / "o.safetensors", "work": tmp_path / "work", "threads": 1}
    with pytest.raises(KeyboardInterrupt):
        convert(tiny.bare, "12kB", **choices)
    convert(tiny.bare, "12kB", **choices)
    assert fitted == ["emb_l.0", "emb_l.1", "emb_l.1", "emb_l.2"]


@pytest.mark.parametrize("change", ["source", "weights", "seed", "data"])
def test_a_changed_input_is_fitted_anew(tiny, tmp_path, monkeypatch, change):
    """Another checkpoint of the same name, other weights, another seed, a log: none uses what was kept."""
    shutil.copy(tiny.bare, tmp_path / "m.pt")
    convert(tmp_path / "m.pt", "12kB", out=tmp_path / "a.safetensors", work=tmp_path / "work", threads=1)
    if change == "source":
        state = torch.load(tiny.bare, weights_only=True)["state_dict"]
        state["emb_l.0.weight"][3] += 1
        torch.save({"state_dict": state}, tmp_path / "m.pt")
    changes = {"weights": {"weights": "uniform"}, "seed": {"seed": 1}, "data": {"data": tiny.train}}.get(change, {})
    fitted, measure_table = [], fitting.measure_table

    def watch(name, *arguments, **choices):
        fitted.append(name)
        return measure_table(name, *arguments, **choices)

    monkeypatch.setattr(fitting, "measure_table", watch)
    convert(tmp_path / "m.pt", "12kB", out=tmp_path / "b.safetensors", work=tmp_path / "work", threads=1, **changes)
    assert sorted(fitted) == ["emb_l.0", "emb_l.1", "emb_l.2"]


def test_damaged_work_is_made_anew(tiny, tmp_path, large):
    """Files of the folder that were cut or overwritten do no harm."""
    choices = {"work": tmp_path / "work", "threads": 1}
    convert(tiny.bare, "12kB", out=tmp_path / "a.safetensors", **choices)
    for number, path in enumerate(sorted((tmp_path / "work").iterdir())):
        path.write_bytes(path.read_bytes()[:-9] if number % 2 else b"nonsense")
    convert(tiny.bare, "12kB", out=tmp_path / "b.safetensors", **choices)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_a_work_folder_that_cannot_be_made_is_refused(tiny, tmp_path):
    """In a sentence that names it."""
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="keep fits and results"):
        convert(tiny.bare, "12kB", out=tmp_path / "a.safetensors", work=tmp_path / "file" / "work")


def test_the_converted_model_holds_no_source_table(tiny, tmp_path, large):
    """What is loaded runs without the checkpoint."""
    convert(tiny.bare, "12kB", out=tmp_path / "a.safetensors", threads=1)
    model = load(tmp_path / "a.safetensors")
    assert not any(isinstance(module, StoredTable) for module in model.modules())
    assert model(torch.rand(4, 2), torch.zeros(4, 3, dtype=torch.int64)).shape == (4,)
