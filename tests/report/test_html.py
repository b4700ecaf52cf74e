"""The HTML page: well-formed, complete, small, and proof against what files write into their names."""

import random
import re
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from page_parser import parse_page

from memrec_convert.cli.commands import cli
from memrec_convert.errors import ReportError
from memrec_convert.report import Report
from memrec_convert.report.html import read_comparison, read_latency, render_html
from memrec_convert.report.html.charts import split_shares
from memrec_convert.report.html.markup import MOST_CHARACTERS, escape, make_harmless, shorten_names
from memrec_convert.report.templating import read_text

HOSTILE = "\"'><script>window.hacked=1</script><img src=x onerror=window.hacked=1>&lt;\u202eevil\u2066\x1b[31m</title>"


def build_comparison(name="product quantisation", note="a note"):
    """What `compare --json` prints at two budgets, one method out of reach of the smaller."""

    def row(method, size, delta):
        auc = None if delta is None else 0.8027 + delta
        return {
            "method": method,
            "bytes": size,
            "auc": auc,
            "auc_delta": delta,
            "log_loss": 0.5,
            "epochs": 0,
            "ci95": None if delta is None else [delta - 1e-4, delta + 1e-4],
            "seconds": 1.0,
            "note": note,
        }

    ours = "memrec-convert auto"
    return {
        "budgets": [
            {"budget_bytes": 24_000_000, "rows": [row(ours, 24_000_000, -0.002), row(name, 30_000_000, None)]},
            {"budget_bytes": 48_000_000, "rows": [row(ours, 48_000_000, -3e-4), row(name, 47_000_000, -0.02)]},
        ]
    }


def build_latency(name="original", size=46_000_000):
    """What `bench --json` writes for two contenders at two batch sizes."""
    rows = [
        {
            "stage": stage,
            "batch": batch,
            "contender": who,
            "ns_per_lookup": 100.0 * factor / batch,
            "items_per_second": 1e5 * batch / factor,
            "ms_p50": 0.01 * factor,
            "ms_p99": 0.02 * factor,
            "spread": 0.1,
            "noisy": batch == 64,
            "repetitions": 9,
            "ratio_to_original": 4.0 / factor / (1 + (batch > 1)),
        }
        for stage in ("embedding", "model")
        for batch in (1, 64)
        for who, factor in (("converted", 2.0), (name, 4.0))
    ]
    return {"artifact": {"path": name, "bytes": size}, "threads": 2, "rows": rows, "warnings": [f"noise of {name}"]}


def with_curve(report, **plan):
    """The report with a rate curve, and a training history."""
    curve = [{"predicted_bytes": 10**9 // ratio, "predicted_auc_drop": ratio * 1e-5} for ratio in (10, 100, 1000)]
    history = [{"step": step, "score": 0.8 + step * 1e-6} for step in (0, 100, 200)]
    gate = {"says": "within the bound", "tried": [{"budget_bytes": 50_000_000, "drop": 0.0004}]}
    return replace(
        report,
        plan={**report.plan, "curve": curve, "gate": gate, **plan},
        fine_tune={**report.fine_tune, "metric": "auc", "history": history},
    )


def render_full(report, name="original", note="a note"):
    """The page with everything that can be on it."""
    return render_html(
        with_curve(report),
        comparison=read_comparison(build_comparison(name, note)),
        latency=read_latency(build_latency(name)),
    )


@pytest.fixture
def page(full):
    """The page of a full report, parsed."""
    return parse_page(render_full(full))


def section_of(page, anchor):
    """The section that a link names."""
    (found,) = [one for one in page.find("section") if one.attributes["id"] == anchor]
    return found


def test_the_page_has_landmarks_headings_in_order_and_names(page):
    """One header, nav, main and footer; one h1; no level of heading is skipped; every id is there once."""
    assert [len(page.find(name)) for name in ("header", "nav", "main", "footer", "h1")] == [1] * 5
    levels = [int(one.name[1]) for one in page.walk() if re.fullmatch(r"h[1-6]", one.name)]
    assert levels[0] == 1
    assert all(below - above <= 1 for above, below in pairwise(levels))
    ids = [one.attributes["id"] for one in page.walk() if "id" in one.attributes]
    assert len(ids) == len(set(ids))
    assert page.attributes["lang"] == "en"
    links = {one.attributes["href"] for one in page.find("a")}
    assert links == {f"#{one.attributes['id']}" for one in page.find("section")}
    for one in page.find("section"):
        assert one.attributes["aria-labelledby"] in ids


def test_every_table_and_chart_says_what_it_is(page):
    """Tables have a caption, heads of columns and of rows; charts are images with a title and a description."""
    tables, charts = page.find("table"), [one for one in page.find("svg") if "role" in one.attributes]
    assert len(tables) >= 10
    for table in tables:
        assert table.children[0].name == "caption"
        assert table.children[0].text
        heads = table.find("thead")[0].find("th")
        assert all(one.attributes["scope"] == "col" and one.text for one in heads)
        for row in table.find("tbody")[0].find("tr"):
            assert len(row.children) == len(heads)
            assert (row.children[0].name, row.children[0].attributes["scope"]) == ("th", "row")
    assert len(charts) >= 11
    for chart in charts:
        assert chart.attributes["role"] == "img"
        assert [one.name for one in chart.children[:2]] == ["title", "desc"]
        assert chart.children[0].text
        assert chart.children[1].text
    assert all(one.attributes.get("aria-hidden") for legend in page.find("ul") for one in legend.find("svg"))


def test_a_page_says_everything_that_matters(page):
    """Headline, quality, bytes, rivals, curve, lookups, plan, calibration, latency, warnings and provenance."""
    text = page.text
    for said in (
        "2.16 GB → 46.0 MB",
        "47x smaller",
        "-0.0006",
        "95 % interval -0.0009 to -0.0003: worse",
        "1.00x to 2.00x",
        "user0",
        "codes 1b base + 28b x 4100 ids",
        "46,000,000 bytes",
        "0.802700",
        "user.parquet",
        "within the bound",
        "table user has unread rows",
        "pairs are the lower triangle of user",
        "ab" * 16,
        "GAUC 0.7200",
        "int8 user",
        "fine-tuned",
        "noise of original",
        "original (noisy)",
        "what compression costs, both fine-tuned",
        "teacher",
    ):
        assert said in text, said
    titles = [one.children[0].text for one in page.find("section")]
    assert titles == [
        "Warnings",
        "Quality",
        "Training and compression",
        "Where the bytes go",
        "AUC against bytes",
        "Rate curve",
        "Lookups by form",
        "Plan by table",
        "What each table alone costs",
        "Calibration",
        "AUC by form of the lookup",
        "Latency against batch size",
        "How the plan was chosen",
        "Fine-tuning",
        "Assumptions and provenance",
    ]


def test_a_page_of_nothing_measured_claims_nothing(bare):
    """What nobody measured says so or is left out; the page is whole all the same."""
    page = parse_page(render_html(bare))
    anchors = [one.attributes["id"] for one in page.find("section")]
    assert anchors == ["quality", "bytes", "lookups", "tables", "calibration", "plan", "training", "origin", "missing"]
    for anchor in ("quality", "lookups", "calibration"):
        assert "Not measured" in section_of(page, anchor).text
    assert "not measured" in page.find("header")[0].text


def test_what_a_page_lacks_comes_with_the_command_for_it(full, bare):
    """Every section without figures names a command; each command's name of a file is a placeholder, not the file's."""
    lacking = section_of(parse_page(render_html(bare)), "missing")
    commands = [one.text for one in lacking.find("code")]
    assert all(one.startswith("memrec-convert ") for one in commands)
    for option in ("--eval ", "--bench-json ", "--compare-json ", "--report-html ", "--data LOG"):
        assert any(option in one for one in commands), option
    assert "small" not in lacking.text
    assert [one for one in parse_page(render_full(full)).find("section") if one.attributes["id"] == "missing"] == []
    timed = parse_page(render_html(full, latency=read_latency(build_latency())))
    assert "bench" not in section_of(timed, "missing").text
    assert "compare" in section_of(timed, "missing").text


def test_the_commands_that_a_page_names_are_valid(bare):
    """Each parses: its command and its options exist."""
    for one in section_of(parse_page(render_html(bare)), "missing").find("code"):
        words = one.text.partition(" > ")[0].split()[1:]
        name, *arguments = words if words[0] in cli.commands else ["convert", *words]
        arguments = ["1MB" if word == "SIZE" else word for word in arguments]
        cli.commands[name].make_context(name, arguments).close()


def test_methods_are_ranked_at_the_size_nearest_to_the_artifacts(full):
    """Best first, with this artifact among them; a method that cannot get that small is named."""
    comparison = build_comparison()
    chart = find_ranking(render_html(full, comparison=read_comparison(comparison)))
    assert chart.children[0].text == "Change of the AUC at 48.0 MB"
    names = [one.text for one in chart.find("text") if one.attributes.get("class") == "name"]
    assert names == ["memrec-convert auto", "this artifact", "product quantisation"]
    page = render_html(full, comparison=read_comparison({"budgets": comparison["budgets"][:1]}))
    names = [one.text for one in find_ranking(page).find("text") if one.attributes.get("class") == "name"]
    assert names == ["memrec-convert auto"]
    assert "Not that small: product quantisation." in parse_page(page).text
    assert "at 24.0 MB, the nearest to this artifact's 46.0 MB" in parse_page(page).text


def find_ranking(text):
    """The first chart of the section on rivals."""
    charts = [one for one in section_of(parse_page(text), "rivals").find("svg") if "role" in one.attributes]
    return charts[0]


@pytest.mark.parametrize("seed", range(5))
def test_forms_keep_their_colour_and_their_order_in_every_bar(seed):
    """From the nearest to the original to the coarsest, whatever order the report has them in."""
    forms = ["kept", "row", "code(10)", "code(8)", "code(5)", "code(2)", "code(1)", "hashed", "mean", "code(x)"]
    shuffled = random.Random(seed).sample(forms, len(forms))
    parts = split_shares(dict.fromkeys(shuffled, 0.1))
    assert [form for form, _, _ in parts] == forms
    colours = [colour for _, _, colour in parts]
    assert colours[2] == colours[3]
    assert colours[5] == colours[6]
    assert len(set(colours)) == 8


def test_the_page_is_that_of_the_report_read_back(full):
    """Through JSON and back, nothing changes."""
    report = with_curve(full)
    assert render_html(Report.from_json(report.to_json())) == render_html(report)


def test_nothing_is_loaded_and_no_foreign_script_may_run(full):
    """No address but anchors and an empty icon; the policy allows this script and this style alone."""
    text = render_full(full)
    page = parse_page(text)
    for one in page.walk():
        for name in ("src", "href", "action", "data", "poster", "srcset", "xlink:href"):
            assert one.attributes.get(name, "#").startswith(("#", "data:,")), one.attributes
        assert not [name for name in one.attributes if name.startswith("on") or name == "style"]
    assert "http:" not in text
    assert "https:" not in text
    assert "url(" not in text
    assert "@import" not in text
    (policy,) = [one.attributes["content"] for one in page.find("meta") if "http-equiv" in one.attributes]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert len(page.find("script")) == len(page.find("style")) == 1


def shape_of(text):
    """Every element of a page with its class, in order."""
    return [(one.name, one.attributes.get("class"), sorted(one.attributes)) for one in parse_page(text).walk()]


@given(st.one_of(st.just(HOSTILE), st.text(alphabet="<>&\"'/=`\u202e\u0301 abc\n\0\ud800", min_size=1, max_size=60)))
@settings(max_examples=40, deadline=None)
def test_no_name_changes_the_pages_structure(make_report, name):
    """Whatever a name holds, the page has the elements and attributes of a harmless one."""
    beside = name.replace("\ud800", "")  # half a letter, which no JSON file can hold
    hostile = render_full(make_report(f"u{name}", f"t{name}"), f"o{beside}", beside)
    assert shape_of(hostile) == shape_of(render_full(make_report("user", "text"), "original", "a note"))
    hostile.encode()


@given(st.text(max_size=200))
def test_text_is_shown_and_never_markup(text):
    """Parsed back, an escaped text is its harmless form; nothing in it is invisible."""
    escaped = escape(text)
    assert not set(escaped) & set("<>\"'")
    assert parse_page(f"<!DOCTYPE html>\n<p>{escaped}</p>").text == make_harmless(text)
    assert make_harmless(text).isprintable()


def test_marks_that_pile_up_are_shown_as_escapes():
    """Ordinary accents stay; a tower of them does not reach into other lines."""
    assert make_harmless("e\u0301a") == "e\u0301a"
    assert make_harmless("Z" + "\u0300" * 9) == "Z" + "\u0300" * 3 + "\\u0300" * 6


def test_endless_names_lose_their_middle():
    """A name of a million letters takes little room, and names in charts fit a telephone, wide letters too."""
    assert len(make_harmless("x" * 1_000_000)) == MOST_CHARACTERS
    assert [len(name) for name in shorten_names(["x" * 50, "y" * 60], 18)] == [18, 18]
    assert max(map(len, shorten_names(["\u8868" * 50, "y" * 60], 18))) == 9


def test_no_template_lets_a_value_become_markup():
    """Escaping is never switched off, and every value within a tag stands in quotes or is a template's own word."""
    for name in ("page.html", "parts.html", "plots.html"):
        text = re.sub(r"{#.*?#}", "", read_text(name), flags=re.DOTALL)
        assert not re.search(r"\|\s*safe\b|autoescape|Markup", text), name
        for inside in re.findall(r"<[a-z][^<>]*>", re.sub(r"{%.*?%}", "", text, flags=re.DOTALL)):
            unquoted = re.sub(r'"[^"{}]*(?:{{[^{}]*}}[^"{}]*)*"', "", inside)
            assert "{{" not in unquoted, inside


def test_a_page_of_thousands_of_tables_stays_under_two_megabytes(make_report):
    """Three thousand tables with long names, slices, warnings: under 2 MB, and it says what it leaves out."""
    report = make_report("n" * 500, "t" * 500, tables=3000)
    report = replace(
        report,
        slices=report.slices * 3000,
        warnings=report.warnings * 1000,
        ablation=report.ablation * 3000,
        assumed=report.assumed * 1000,
    )
    page = render_full(report, "o" * 5000, "n" * 5000)
    assert len(page.encode()) < 2_000_000
    assert "(the first 400 of 3,000; all are in the JSON)" in page
    assert "and 1,800 more, in the JSON" in page


def test_odd_figures_draw_no_fault(full):
    """Zeros, negative sizes, empty deciles, shares beyond one, loose mappings: every page is whole."""
    loose = [{"predicted_bytes": 0}, 3, {"predicted_bytes": 5, "predicted_auc_drop": None}]
    beyond = {"a": 7.0, "b": -1.0}
    odd = [
        replace(full, tables=tuple(replace(t, bytes_before=0, bytes_after=0, rows=0) for t in full.tables)),
        replace(full, tables=tuple(replace(t, bytes_after=-5, lookup_share=beyond) for t in full.tables)),
        replace(full, tables=(), budget_bytes=0, artifact=replace(full.artifact, bytes=0)),
        replace(full, deciles=replace(full.deciles, after=())),
        replace(full, deciles=replace(full.deciles, before=(), after=()), slices=(), ablation=()),
        replace(full, auc=replace(full.auc, ci95=None, verdict=""), groups=replace(full.groups, gauc=None)),
        replace(full, auc=replace(full.auc, after=full.auc.before, ci95=(0.0, 0.0))),
        replace(full, auc=replace(full.auc, before=-1e15, after=1e15, ci95=(-1e15, 1e15))),
        replace(full, fine_tune={"history": "none", "metric": None}, evaluation={"log": ["a"], "samples": "many"}),
        replace(full, fine_tune={"history": [1, {"step": "x"}, {"step": 1, "score": True}]}),
        with_curve(full, curve=loose, gate="no"),
        with_curve(full, curve="long", gate={"tried": {"a": 1}, "says": 3}),
    ]
    for report in odd:
        assert parse_page(render_html(report)).find("main")


@pytest.mark.parametrize("kind", ["comparison", "latency"])
@pytest.mark.parametrize("values", [None, 3, [], {}, {"budgets": 3}, {"rows": []}, {"budget_bytes": -1, "rows": []}])
def test_figures_of_another_kind_are_refused(kind, values):
    """What neither command wrote is refused in one sentence."""
    read = {"comparison": read_comparison, "latency": read_latency}[kind]
    with pytest.raises(ReportError, match=r"cannot be read: .*; give what (compare|bench) --json"):
        read(values)


def test_a_rival_without_figures_of_its_own_is_no_figure():
    """A negative size, an infinite AUC and a time of zero are refused."""
    for key, value in (("bytes", -3), ("auc", float("inf")), ("method", 7)):
        values = build_comparison()
        values["budgets"][0]["rows"][0][key] = value
        if key == "auc":  # JSON has no infinity: it comes as null, which is a method out of reach
            assert read_comparison(values)[0].rows[0].auc is None
            continue
        with pytest.raises(ReportError, match=f"rows > 0 > {key}"):
            read_comparison(values)
    values = build_latency()
    values["rows"][0]["items_per_second"] = 0.0
    with pytest.raises(ReportError, match="greater than 0"):
        read_latency(values)


def test_figures_of_another_file_or_log_are_said_to_be(full):
    """A page never sets foreign figures beside its own without a word."""
    other = build_comparison()
    for table in other["budgets"]:
        for row in table["rows"]:
            row["auc"] = row["auc"] and row["auc"] + 0.01
    page = render_html(full, comparison=read_comparison(other), latency=read_latency(build_latency(size=7)))
    assert "different rows or a different checkpoint: its original has an AUC of 0.812700" in page
    assert "Another file was timed than this report" in page
    same = render_full(full)
    assert "another checkpoint" not in same
    assert "Another file" not in same


def read_colours(block):
    """The custom colours of a block of the style sheet."""
    return dict(re.findall(r"--([a-z0-9]+): (#[0-9a-f]{6});", block))


def measure_contrast(one, other):
    """The contrast ratio of two colours, as WCAG 2 defines it."""

    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("dark", [False, True])
def test_contrast_is_enough_in_light_and_dark(dark):
    """Text has at least 4.5 to 1 on every ground it stands on, lines and areas at least 3 to 1."""
    light, *rest = read_text("style.css").split("@media screen and (prefers-color-scheme: dark)")
    colours = read_colours(rest[0].split("* {")[0] if dark else light)
    for name in ("ink", "soft", "link", "alarm"):
        for ground in ("paper", "card"):
            assert measure_contrast(colours[name], colours[ground]) >= 4.5, (name, ground)
    for number in range(8):
        assert measure_contrast(colours[f"c{number}"], colours["paper"]) >= 3, number
