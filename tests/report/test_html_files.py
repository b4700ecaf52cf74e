"""Pages as files: written with an artifact or from its report later, and refused in one sentence."""

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner
from page_parser import parse_page
from test_html import build_comparison, build_latency

from memrec_convert import convert
from memrec_convert.cli.commands import cli
from memrec_convert.conversion.report import LARGEST_NUMBER, MOST_LEVELS, Companions, plan_page, show_report
from memrec_convert.errors import MemrecError, OutputError, ReportError
from memrec_convert.report import Report


@pytest.fixture
def files(full, tmp_path):
    """A folder with a report, a comparison and a measurement of speed."""
    for name, values in (("a.report", full.to_json()), ("compare", build_comparison()), ("bench", build_latency())):
        (tmp_path / f"{name}.json").write_text(json.dumps(values), encoding="utf-8")
    return tmp_path


def test_a_conversion_writes_its_page_with_the_rate_curve(tiny, tmp_path):
    """With `report_html` there is one more file, and the report holds the curve that it draws."""
    comparison = tmp_path / "compare.json"
    comparison.write_text(json.dumps(build_comparison()), encoding="utf-8")
    report = convert(
        tiny.checkpoint,
        "12kB",
        data=tiny.train,
        val=tiny.val,
        eval=tiny.test,
        out=tmp_path / "a.safetensors",
        report_html=tmp_path / "a.html",
        compare_json=comparison,
        threads=1,
    )
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["a.card.md", "a.html", "a.report.json", "a.safetensors", "compare.json"]
    sections = {one.attributes["id"] for one in parse_page((tmp_path / "a.html").read_text("utf-8")).find("section")}
    assert {"quality", "curve", "rivals", "training", "lookups"} <= sections
    curve = report.plan["curve"]
    assert len(curve) >= 3
    assert all(point["predicted_bytes"] > 0 and point["predicted_auc_drop"] >= 0 for point in curve)
    drops = [point["predicted_auc_drop"] for point in sorted(curve, key=lambda point: point["predicted_bytes"])]
    assert drops[0] >= drops[-1]
    written = json.loads((tmp_path / "a.report.json").read_text("utf-8"))
    assert Report.from_json(written).to_json() == written == report.to_json()


def test_without_data_there_is_a_page_and_no_curve(tiny, tmp_path):
    """Nothing can be predicted without data; the page is there all the same."""
    page = tmp_path / "a.html"
    report = convert(tiny.bare, "12kB", out=tmp_path / "a.safetensors", report_html=page, threads=1)
    assert report.plan["curve"] == []
    assert "Not measured" in page.read_text("utf-8")


def test_the_command_shows_a_report_and_makes_its_page(files):
    """`report FILE` prints what convert printed; with --html the page appears, with what the other files hold."""
    page = files / "a.html"
    ran = CliRunner().invoke(
        cli,
        [
            "report",
            str(files / "a.report.json"),
            "--html",
            str(page),
            "--compare-json",
            str(files / "compare.json"),
            "--bench-json",
            str(files / "bench.json"),
        ],
    )
    assert ran.exit_code == 0, ran.output
    assert ran.output.startswith("2.16 GB -> 46.0 MB (47x)")
    text = page.read_text("utf-8")
    sections = {one.attributes["id"] for one in parse_page(text).find("section")}
    assert {"rivals", "latency"} <= sections
    silent = CliRunner().invoke(cli, ["report", str(files / "a.report.json"), "--html", str(page), "--force", "-q"])
    assert (silent.exit_code, silent.output) == (0, "")
    assert "rivals" not in {one.attributes["id"] for one in parse_page(page.read_text("utf-8")).find("section")}


def test_a_page_replaces_nothing_unasked(files):
    """An existing page stays without force; the files that are read are never replaced."""
    page = files / "a.html"
    page.write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        show_report(files / "a.report.json", html=page)
    for read in ("a.report.json", "compare.json"):
        before = (files / read).read_bytes()
        with pytest.raises(OutputError, match="it is read too"):
            show_report(files / "a.report.json", html=files / read, compare_json=files / "compare.json", force=True)
        assert (files / read).read_bytes() == before
    assert page.read_text() == "mine"


def test_results_of_one_name_are_refused_before_any_work(tiny, tmp_path):
    """The page cannot be the artifact, its report, or the checkpoint, not even with force."""
    before = tiny.bare.read_bytes()
    for page in ("a.safetensors", "a.report.json", "a.card.md"):
        with pytest.raises(OutputError, match="two results would have this name"):
            convert(tiny.bare, "12kB", out=tmp_path / "a.safetensors", report_html=tmp_path / page, threads=1)
    with pytest.raises(OutputError, match="it is the checkpoint itself"):
        convert(tiny.bare, "12kB", out=tmp_path / "a.safetensors", report_html=tiny.bare, force=True, threads=1)
    assert tiny.bare.read_bytes() == before
    assert list(tmp_path.iterdir()) == []


def test_figures_without_a_page_are_refused(tmp_path):
    """What only the page can show is not read for nothing."""
    assert plan_page(None) is None
    for name in ("compare_json", "bench_json"):
        with pytest.raises(OutputError, match="none was asked for"):
            plan_page(None, **{name: tmp_path / "x.json"})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        "null",
        "{}",
        '{"artifact": 3}',
        "[" * 100_000,
        '{"a": 1e999}',
        f'{{"a": {"9" * 400}}}',
        '{"a": ' * (MOST_LEVELS + 2) + "1" + "}" * (MOST_LEVELS + 2),
        "\x00\xff",
        '{"a": "\\ud800"}',
        "\ufeff{}",
    ],
)
def test_what_is_no_report_is_refused_in_one_sentence(text, files):
    """Empty, broken, foreign, endless and too deep files: ReportError, one line, no page."""
    (files / "bad.json").write_text(text, encoding="utf-8")
    for arguments in (
        {"path": files / "bad.json"},
        {"path": files / "a.report.json", "compare_json": files / "bad.json"},
        {"path": files / "a.report.json", "bench_json": files / "bad.json"},
    ):
        with pytest.raises(ReportError) as caught:
            show_report(**arguments, html=files / "page.html")
        assert "\n" not in str(caught.value)
        assert str(caught.value).endswith(".")
    assert not (files / "page.html").exists()


def test_numbers_that_no_figure_has_are_refused(full, files):
    """Numbers are bounded, so that no arithmetic of the page overflows; the largest allowed give a page."""
    values = full.to_json()
    for number, allowed in ((LARGEST_NUMBER, True), (LARGEST_NUMBER * 2, False)):
        values["auc"]["after"] = number
        (files / "a.report.json").write_text(json.dumps(values), encoding="utf-8")
        if allowed:
            show_report(files / "a.report.json", html=files / "page.html")
            assert parse_page((files / "page.html").read_text("utf-8"))
        else:
            with pytest.raises(ReportError, match="the number 2e"):
                show_report(files / "a.report.json")


def test_a_missing_report_is_a_sentence(tmp_path):
    """A name that leads nowhere, or to a folder, is refused."""
    for path in (tmp_path / "none.json", tmp_path, "nul\0l"):
        with pytest.raises(MemrecError, match="cannot read"):
            show_report(path)


def test_companions_are_named_after_the_artifact(tmp_path, full):
    """Report and card lie beside the artifact; a page only where one was asked for."""
    made = Companions.beside(tmp_path / "b.safetensors")
    assert [path.name for path in made.paths] == ["b.report.json", "b.card.md"]
    asked = replace(made, page=plan_page(tmp_path / "p.html"))
    asked.write(full)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.card.md", "b.report.json", "p.html"]
