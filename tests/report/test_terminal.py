"""Terminal reports: what they say, and that no name makes them wider than the terminal."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memrec_convert.report import render_evaluation, render_inspection, render_plan, render_terminal
from memrec_convert.report.figures import format_change, format_ratio, format_share, format_value
from memrec_convert.report.text import make_plain, shorten, shorten_all, table_lines

NAMES = st.one_of(
    st.text(max_size=300),
    st.text(alphabet="a_.-/", min_size=60, max_size=200),
    st.sampled_from(["表" * 60, "\x1b[31mred\x1b[0m", "a\nb\r\tc", "\u202eright to left", "x" * 5000, ""]),
    st.just("👩‍👩‍👧 emoji"),
)


def check_lines(text, width=80):
    """No line is wider than asked, and nothing in it moves the cursor or takes two columns."""
    assert text.endswith("\n")
    for line in text.split("\n"):
        assert len(line) <= width
        assert line == make_plain(line)
        assert line == line.rstrip()


@given(NAMES, NAMES)
@settings(max_examples=60, deadline=None)
def test_no_name_makes_a_report_wider_than_80_columns(make_report, name, text):
    """Whatever stands in the source file, every line of every rendering fits and is harmless."""
    report = make_report(name, text)
    values = report.to_json()
    check_lines(render_terminal(report))
    check_lines(render_evaluation({**values, "log": name, "samples": 10}))
    check_lines(render_plan({**values, "predicted_bytes": 47_000_000}))
    table = {"name": name, "rows": 10, "dim": 4, "dtype": "float32", "bytes": 160}
    check_lines(render_inspection({"layout": name, "tables": [table], "warnings": [text], "network": {text: name}}))


@given(st.integers(1, 200), st.integers(1, 10**20))
@settings(max_examples=40, deadline=None)
def test_every_width_is_kept(make_report, width, rows):
    """From 20 columns on the width is kept, even with figures that do not fit; below 20 it is 20."""
    report = make_report("a" * 50)
    report = replace(report, tables=tuple(replace(table, rows=rows) for table in report.tables))
    check_lines(render_terminal(report, width), max(width, 20))


def test_the_headline_says_size_and_auc(full):
    """Both sizes, the ratio, both AUCs, the interval and the verdict, in one sentence."""
    text = " ".join(render_terminal(full).split("\n\n")[0].split())
    assert text == ("2.16 GB -> 46.0 MB (47x), AUC 0.8027 -> 0.8021 (-0.0006, 95 % interval -0.0009 to -0.0003: worse)")


def test_a_full_report_shows_every_part(full):
    """Quality, sizes, tables, lookups, slices, rivals, fine-tuning, warnings and provenance all appear."""
    text = render_terminal(full)
    flat = " ".join(text.split())
    for said in (
        "Artifact: out/user.safetensors",
        "Budget: 48.0 MB, of which 95.8 % is used",
        "Serving memory: 47.0 MB",
        "Rows weighted by: log",
        "Measured on 100,020 rows of user.parquet",
        "AUC 0.802700 0.802100 -0.000600",
        "log loss 0.520000 0.521000 +0.001000",
        "user0 33,762,577 16 2.00 GB 45.0 MB codes 1b base",
        "row 61 %, code(3) 30 %, hashed 9.0 %, a note <0.1 %",
        "user0 code(3) 30,000 30 % 0.8000 0.7990 -0.0010",
        "user0 unseen 12 <0.1 % - - -",
        "int8 user 48.0 MB 0.0123 a note",
        "kept_step: 200",
        "Assumed:",
        "Warnings:",
        "source_digest: abab",
        "read: 1.2 s",
        "Groups by column user: 6,040, of which 5,900 hold both classes and have an AUC, with 99 % of the rows",
        "GAUC 0.7200 -> 0.7190 (-0.0010, 95 % interval -0.0015 to -0.0005: worse)",
        "95 % interval from 2,000 resamples of whole groups: -0.0010 to -0.0002: worse",
        "the hold-out kept step 0, the original itself (AUC 0.00000)",
        "what conversion alone costs 0.8027 0.8018 -0.00090 -0.00120 to -0.00060",
        "user0 0.8022 -0.00050 -0.00070 to -0.00030",
        "2 0.6000 0.5900 0.6100 0.5876",
    ):
        assert said in flat


def test_what_was_not_measured_says_so(bare):
    """A conversion without data claims nothing."""
    text = render_terminal(bare)
    assert "AUC not measured" in text
    assert "Serving memory: not measured" in text
    assert "Lookups by form: not measured" in text
    assert "AUC by form of the lookup: not measured" in text
    assert "None" not in text
    assert "Warnings" not in text


def test_the_table_of_sizes_accounts_for_the_whole_file(full):
    """Tables, dense part, the rest and the sum stand on both sides."""
    flat = " ".join(render_terminal(full).split())
    sizes = "tables 2.15 GB 36.0 MB dense part 10.0 MB 9.99 MB rest of the file 2.24 GB 10.0 kB"
    assert f"{sizes} whole file 4.40 GB 46.0 MB" in flat


def test_many_slices_are_cut_to_the_largest_changes(full):
    """A terminal shows 40 slices, and says how many are left to the JSON."""
    first = full.slices[0]
    slices = tuple(replace(first, form=f"form{i:03d}", delta=-i / 1000) for i in range(100))
    text = render_terminal(replace(full, slices=slices))
    assert "form099" in text
    assert "form060" in text
    assert "form059" not in text
    assert "(60 more slices with smaller changes are in the JSON)" in text


def test_an_inspection_lists_the_tables():
    """Layout, container, sizes, optimizer, network, stored figures and warnings of a checkpoint."""
    text = render_inspection(
        {
            "layout": "facebookresearch-dlrm",
            "container": "zip .pt",
            "dense_bytes": 20_000,
            "file_bytes": 40_000_000,
            "tables": [{"name": "emb_l.0.weight", "rows": 268_532, "dim": 16, "dtype": "float32", "bytes": 17_186_048}],
            "optimizer": "adagrad",
            "warnings": ["two tables are missing"],
            "assumed": ["ReLU between layers"],
            "stored_metrics": {"test_auc": 0.8075},
            "network": {"pairs": "lower"},
            "unrun_classes": ["numpy.dtype"],
        }
    )
    flat = " ".join(text.split())
    for said in (
        "facebookresearch-dlrm (zip .pt): 1 table, 268,532 rows, 17.2 MB; dense part 20.0 kB; file 40.0 MB",
        "emb_l.0.weight 268,532 16 float32 17.2 MB",
        "optimizer state: adagrad",
        "network: (pairs: lower)",
        "stored figures: (test_auc: 0.8075)",
        "classes not run: numpy.dtype",
        "- two tables are missing",
        "- ReLU between layers",
    ):
        assert said in flat


def test_an_inspection_may_know_nothing_but_tables():
    """Every key but `tables` may be missing."""
    text = " ".join(render_inspection({"tables": []}).split())
    assert text == (
        "unknown layout (unknown container): 0 tables, 0 rows, 0 B; dense part not measured optimizer state: none"
    )


@pytest.mark.parametrize("key", ["bytes_after", "predicted_bytes"])
def test_a_plan_shows_what_would_be_written(key):
    """Predicted against budgeted bytes, each table's form, and that nothing was written."""
    table = {"name": "user", "rows": 10, "dim": 4, "bytes_before": 4_000_000, key: 40_000, "form": "mean row"}
    plan = {"budget_bytes": 100_000, "predicted_bytes": 99_000, "weights": "log", "tables": [table]}
    flat = " ".join(render_plan(plan).split())
    assert flat.startswith(
        "Plan: 99.0 kB of 100 kB (99.0 %), from tables of 4.00 MB (40x); nothing was written. Rows weighted by: log"
    )
    assert "user 10 4 4.00 MB 40.0 kB mean row" in flat


def test_a_plan_may_hold_two_numbers_only():
    """Budget and prediction suffice."""
    plan = {"budget_bytes": 10, "predicted_bytes": 5}
    assert render_plan(plan) == "Plan: 5 B of 10 B (50.0 %); nothing was written.\n"


def test_an_evaluation_of_one_model_has_no_change():
    """A bare number, or a comparison without its first side, is a figure on its own."""
    for auc in (0.8, {"before": None, "after": 0.8}):
        text = render_evaluation({"auc": auc, "log_loss": 0.5, "samples": 5, "slices": []})
        assert text.startswith("AUC 0.8000\n\nMeasured on 5 rows\n")
        assert "not measured" in text
    assert render_evaluation({}).startswith("AUC not measured")


def test_an_evaluation_of_two_models_shows_the_interval(full):
    """A comparison reads like the report's headline."""
    text = render_evaluation(full.to_json())
    assert text.startswith("AUC 0.8027 -> 0.8021 (-0.0006, 95 % interval -0.0009 to -0.0003: worse)\n")
    assert "code(3)" in text


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (format_value(None), "not measured"),
        (format_value(-0.00001), "0.0000"),
        (format_change(-0.00001), "0.0000"),
        (format_change(0.00006), "+0.0001"),
        (format_ratio(4.66), "4.7x"),
        (format_ratio(9.96), "10x"),
        (format_ratio(2094.4), "2,094x"),
        (format_ratio(None), "not measured"),
        (format_share(0.0), "0.0 %"),
        (format_share(0.0001), "<0.1 %"),
        (format_share(0.0996), "10 %"),
        (format_share(1.0), "100 %"),
    ],
)
def test_figures_round_without_odd_corners(said, expected):
    """No minus before zero, no share of nothing that is something."""
    assert said == expected


@given(st.text(max_size=60), st.integers(1, 60))
def test_shortened_text_keeps_both_ends(text, width):
    """A text that fits stays; a longer one has the width exactly and begins and ends as it did."""
    short = shorten(text, width)
    if len(text) <= width:
        assert short == text
    else:
        assert len(short) == width
        assert short[0] == text[0]
        assert width < 6 or short[-1] == text[-1]


def test_names_that_differ_in_their_middle_stay_apart():
    """Where cutting the middle would make names equal, what they share goes instead."""
    names = [f"sparse_arch.embedding_bag_collection.embedding_bags.t_{name}.weight" for name in ("user", "item")]
    assert shorten_all([*names, "short"], 12) == ["...user...", "...item...", "short"]
    assert shorten_all(["one_long_name", "another_name"], 9) == ["one...ame", "ano...ame"]


@given(st.lists(st.text(max_size=40), max_size=6), st.integers(1, 30))
def test_shortened_names_fit(texts, width):
    """However alike they are, no name is longer than the width, and those that fit are left alone."""
    short = shorten_all(texts, width)
    assert all(len(name) <= width for name in short)
    assert all(name == text for name, text in zip(short, texts, strict=True) if len(text) <= width)


def test_a_narrow_table_wraps_before_it_cuts():
    """The wrapped column goes on below with every word; names lose their middle; figures stay whole."""
    lines = table_lines(
        ["name", "figure", "text"],
        [["a_very_long_name_of_a_table", "1,234,567", "one two three four five six"]],
        40,
        left=(0, 2),
        wrapped=(2,),
    )
    flat = " ".join(" ".join(lines).split())
    assert "1,234,567" in flat
    assert "..." in flat
    assert all(word in flat for word in ("one", "two", "three", "four", "five", "six"))
