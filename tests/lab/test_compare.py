"""The bake-off on a tiny trained model: equal bytes, equal training, rows that are kept, a chart."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import torch

from memrec_convert import convert, evaluate
from memrec_convert.conversion.inputs.preparing import prepare
from memrec_convert.errors import LogError, OptionError, OutputError, ProfileLeakError
from memrec_convert.lab import compare as module
from memrec_convert.lab.chart import collect_lines, draw_comparison
from memrec_convert.lab.compare import MEMREC, compare
from memrec_convert.lab.contest import Contest
from memrec_convert.lab.drawing import check_chart
from memrec_convert.lab.entrant import Entrant, describe_split
from memrec_convert.lab.held import RivalBag
from memrec_convert.lab.rendering import render_comparison
from memrec_convert.lab.rivals import RIVALS
from memrec_convert.lab.split import split_budget
from memrec_convert.lab.training import train_tables

BUDGETS = [9_000, 14_000]
METHODS = ["memrec-convert auto", MEMREC, *(rival.name for rival in RIVALS)]
KEYS = ["method", "bytes", "auc", "auc_delta", "ci95", "log_loss", "epochs", "seconds", "note"]


@pytest.fixture(scope="module")
def found(tiny):
    """Every method at two budgets, nobody trained."""
    return compare(tiny.bare, BUDGETS, data=tiny.train, eval=tiny.test, epochs=0).to_json()


def open_contest(tiny, **choices):
    """A contest with training data and a hold-out."""
    job = prepare(tiny.bare, BUDGETS[0], {"data": tiny.train, "val": tiny.val, **choices}, eval=tiny.test)
    return Contest(job)


def test_every_method_has_a_row_within_each_budget(found):
    """Ours first, then MEM-REC and the rivals by their usual names; all bytes counted."""
    assert [table["budget_bytes"] for table in found["budgets"]] == BUDGETS
    for table in found["budgets"]:
        assert [row["method"] for row in table["rows"]] == METHODS
        for row in table["rows"]:
            assert list(row) == KEYS
            assert row["bytes"] <= table["budget_bytes"], row
            assert row["ci95"][0] <= row["auc_delta"] <= row["ci95"][1]
            assert row["epochs"] == 0
    assert json.loads(json.dumps(found)) == found


def test_our_row_is_what_convert_makes(tiny, found, tmp_path):
    """The same bytes and the same AUC."""
    report = convert(tiny.bare, BUDGETS[0], data=tiny.train, eval=tiny.test, epochs=0, out=tmp_path / "a.safetensors")
    row = found["budgets"][0]["rows"][0]
    assert row["bytes"] == report.artifact.bytes
    assert row["auc"] == pytest.approx(report.auc.after, abs=1e-9)
    assert row["ci95"] == pytest.approx(list(report.auc.ci95), abs=1e-9)


def test_deltas_are_against_the_original(tiny, found):
    """AUC less its change is the checkpoint's own, for every method."""
    original = evaluate(tiny.bare, tiny.test).auc
    for table in found["budgets"]:
        assert all(row["auc"] - row["auc_delta"] == pytest.approx(original, abs=1e-9) for row in table["rows"])


def test_one_budget_gives_a_list_of_one(tiny, found):
    """With the same figures, whatever the number of threads."""
    one = compare(
        tiny.bare, BUDGETS[1], data=tiny.train, eval=tiny.test, epochs=0, only=["hashing", "mean row"], threads=1
    )
    expected = [
        row for row in found["budgets"][1]["rows"] if row["method"] in ("hashing trick", "hot rows int8 + mean row")
    ]
    assert {row["method"] for row in one.budgets[0]["rows"]} == {row["method"] for row in expected}
    for new, old in zip(one.budgets[0]["rows"], expected, strict=True):
        assert new | {"seconds": 0} == old | {"seconds": 0}


def test_a_budget_out_of_reach_names_the_smallest_size(tiny):
    """Each method then has its smallest size and no figures; at that size it is there."""
    methods = ["hot rows int8 + zero", "memrec-convert"]
    tried = compare(tiny.bare, 2_000, data=tiny.train, eval=tiny.test, epochs=0, only=methods)
    for row in tried.budgets[0]["rows"]:
        assert row["auc"] is row["auc_delta"] is row["ci95"] is row["log_loss"] is None
        assert row["bytes"] > 2_000
        assert f"{row['bytes']} bytes" in row["note"]
    rival = next(row for row in tried.budgets[0]["rows"] if "zero" in row["method"])
    again = compare(tiny.bare, rival["bytes"], data=tiny.train, eval=tiny.test, epochs=0, only=["+ zero"])
    assert again.budgets[0]["rows"][0]["bytes"] == rival["bytes"]
    assert again.budgets[0]["rows"][0]["auc"] is not None


def test_the_counted_bytes_are_those_of_a_file(tiny):
    """Written with safetensors under the same metadata, a rival's model has exactly the bytes of its row."""
    from safetensors.torch import save

    entrant = Entrant(next(rival for rival in RIVALS if "product" in rival.name), open_contest(tiny, epochs=0))
    split = split_budget(entrant.options, BUDGETS[1], entrant.count_bytes)
    made = entrant.make(BUDGETS[1])
    tensors = {name: tensor.contiguous() for name, tensor in made.model.state_dict().items()}
    assert len(save(tensors, metadata={"memrec_convert": entrant.describe_file(split.options)})) == made.nbytes


def test_finished_rows_are_found_again(tiny, tmp_path, monkeypatch):
    """With --work nothing is made twice, a new budget goes on from there, and other data shares nothing."""
    choices = {"data": tiny.train, "eval": tiny.test, "epochs": 0, "work": tmp_path / "w", "only": ["int4", "low rank"]}
    first = compare(tiny.bare, BUDGETS, **choices)
    made = []
    run = module._run
    monkeypatch.setattr(module, "_run", lambda *args: made.append(args[2]) or run(*args))
    assert compare(tiny.bare, BUDGETS, **choices) == first
    assert made == []
    more = compare(tiny.bare, [*BUDGETS, 20_000], **choices)
    assert more.budgets[:2] == first.budgets
    assert made == [20_000, 20_000]
    compare(tiny.bare, BUDGETS, **choices | {"eval": tiny.val})
    assert len(made) == 6
    for path in (tmp_path / "w").iterdir():
        path.write_text("damaged")
    again = compare(tiny.bare, BUDGETS[0], **choices)
    assert [row["auc"] for row in again.budgets[0]["rows"]] == [row["auc"] for row in first.budgets[0]["rows"]]


@pytest.mark.parametrize(
    "name", ["hashing trick", "product quantisation", "hot rows int8 + mean row", "low rank (SVD)"]
)
def test_training_helps_on_the_hold_out_or_changes_nothing(tiny, name):
    """The best state is kept, and it is one that the file can hold."""
    contest = open_contest(tiny, epochs=1, batch_size=256)
    entrant = Entrant(next(rival for rival in RIVALS if rival.name == name), contest)
    split = split_budget(entrant.options, BUDGETS[0], entrant.count_bytes)
    tables = [RivalBag(option.build()) for option in split.options]
    model = contest.put_in(tables)
    before = evaluate_on(contest.job.subject.hold_out, model)
    step = train_tables(contest.job.subject, model, tables, contest.job.options)
    after = evaluate_on(contest.job.subject.hold_out, model)
    assert after > before if step else after == before
    for table, option in zip(tables, split.options, strict=True):
        assert table.shapes() == option.shapes
        held = {name: value.clone() for name, value in table.values.items()}
        table.refresh()
        assert all(torch.equal(table.values[name], value) for name, value in held.items())


def test_the_dense_part_trains_where_it_is_asked_to(tiny):
    """Then rivals move theirs too; else it stays the original's."""
    for train_dense in (False, True):
        contest = open_contest(tiny, epochs=1, batch_size=256, train_dense=train_dense)
        made = Entrant(next(rival for rival in RIVALS if "hashing" in rival.name), contest).make(BUDGETS[0])
        original = contest.job.subject.model.bottom.state_dict()
        moved = any(not torch.equal(value, original[name]) for name, value in made.model.bottom.state_dict().items())
        assert moved == train_dense
        assert not any(parameter.requires_grad for parameter in made.model.parameters())


def test_a_narrow_dense_part_is_measured_as_it_is_stored(tiny):
    """With dense bf16 every number of it is one that bf16 holds, before training and after."""
    contest = open_contest(tiny, epochs=1, batch_size=256, train_dense=True, dense="bf16")
    model = Entrant(RIVALS[0], contest).make(BUDGETS[0]).model
    for value in [*model.bottom.parameters(), *model.top.parameters()]:
        assert torch.equal(value, value.to(torch.bfloat16).float())


def evaluate_on(batches, model):
    """AUC on a source of batches."""
    from memrec_convert.evaluation.metrics import auc

    with torch.no_grad():
        logits = np.concatenate([model(batch.dense, batch.ids).numpy() for batch in batches.stream()])
    return auc(np.concatenate([batch.labels.numpy() for batch in batches.stream()]), logits)


def test_with_a_hold_out_everybody_is_trained(tiny):
    """One epoch each by default; rows say so."""
    choices = {"data": tiny.train, "val": tiny.val, "eval": tiny.test, "only": ["hashing", "memrec-convert"]}
    trained = compare(tiny.bare, BUDGETS[0], **choices)
    assert [row["epochs"] for row in trained.budgets[0]["rows"]] == [1, 1]
    untrained = compare(tiny.bare, BUDGETS[0], epochs=0, **choices)
    hashing = [next(r for r in one.budgets[0]["rows"] if "hashing" in r["method"]) for one in (trained, untrained)]
    assert hashing[0]["bytes"] == hashing[1]["bytes"]
    assert hashing[0]["auc"] != hashing[1]["auc"]


def test_what_cannot_be_compared_is_refused(tiny, tmp_path):
    """One sentence each, before any work is done."""
    with pytest.raises(LogError, match="hold-out"):
        compare(tiny.bare, BUDGETS[0], data=tiny.train, eval=tiny.test, epochs=2)
    with pytest.raises(OptionError, match="known: memrec-convert"):
        compare(tiny.bare, BUDGETS[0], data=tiny.train, eval=tiny.test, only=["magic"])
    with pytest.raises(OptionError, match="no budget"):
        compare(tiny.bare, [], data=tiny.train, eval=tiny.test)
    with pytest.raises(ProfileLeakError):
        compare(tiny.bare, BUDGETS[0], data=tiny.train, eval=tiny.train)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="another folder"):
        compare(tiny.bare, BUDGETS[0], data=tiny.train, eval=tiny.test, work=tmp_path / "file")


def test_the_text_shows_the_best_first(found):
    """A table per budget, within the width, the losers below; what was not reached comes last, with its remark."""
    rows = [
        make_row("weak", -0.25),
        make_row("unreached", None),
        make_row("strong", -0.01),
        make_row("middling", -0.125),
    ]
    text = render_comparison({"budgets": [{"budget_bytes": 9000, "rows": rows}]}, 80)
    places = [text.index(word) for word in ("strong", "middling", "weak", "unreached", "cannot reach")]
    assert places == sorted(places)
    for width in (40, 80, 120):
        text = render_comparison(found, width)
        assert all(len(line) <= width for line in text.splitlines())
        assert text.count("nobody trained") == 2


def make_row(method, delta):
    """A row as `compare` gives it."""
    reached = dict.fromkeys(["auc", "auc_delta", "ci95", "log_loss"])
    if delta is not None:
        reached = {"auc": 0.7, "auc_delta": delta, "ci95": [delta - 0.001, delta + 0.001], "log_loss": 0.5}
    return {"method": method, "bytes": 8000, **reached, "epochs": 0, "seconds": 1.0, "note": "cannot reach the budget"}


def test_the_chart_has_a_line_per_method(found, tmp_path):
    """SVG with every name in it, the same bytes for the same figures."""
    pytest.importorskip("matplotlib")
    for name in ("a.svg", "b.svg"):
        draw_comparison(found, tmp_path / name)
    drawn = (tmp_path / "a.svg").read_bytes()
    assert drawn == (tmp_path / "b.svg").read_bytes()
    words = "".join(ElementTree.fromstring(drawn).itertext())
    assert all(method in words for method in METHODS)
    with pytest.raises(OutputError, match="exists"):
        draw_comparison(found, tmp_path / "a.svg")


def test_lines_leave_out_what_was_never_reached():
    """And go by rising bytes."""
    rows = [{"method": "a", "bytes": 9, "auc_delta": -0.1}, {"method": "b", "bytes": 5, "auc_delta": None}]
    lines = collect_lines([{"rows": rows}, {"rows": [{"method": "a", "bytes": 4, "auc_delta": -0.2}]}])
    assert lines == {"a": [(4, -0.2), (9, -0.1)]}


def test_a_chart_without_matplotlib_is_refused_at_once(tmp_path, monkeypatch):
    """The sentence says what to install; and charts are SVG."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(OutputError, match="plots"):
        check_chart(tmp_path / "a.svg")
    with pytest.raises(OutputError, match="SVG"):
        check_chart(tmp_path / "a.png")


def test_a_split_is_described_in_a_few_words(tiny):
    """How many tables the method holds, and what became of the others."""
    entrant = Entrant(RIVALS[0], open_contest(tiny, epochs=0))
    small = [min(options, key=lambda option: option.nbytes) for options in entrant.options]
    assert describe_split(small) == "3 at the mean row"
