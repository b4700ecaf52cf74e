"""Sizes and budgets as people write them, there and back."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memrec_convert.errors import BudgetError
from memrec_convert.units import (
    SHARE_ALLOWANCE_BYTES,
    format_bytes,
    last_level_cache,
    parse_budget,
    parse_bytes,
    parse_threshold,
)

FACTORS = {"": 1, "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


@given(st.integers(1, 10**15))
def test_printed_sizes_read_back_within_half_of_the_last_digit(size):
    """format_bytes keeps three digits, and parse_bytes reads what it prints."""
    back = parse_bytes(format_bytes(size).replace(",", ""))
    assert abs(back - size) <= size * 0.005
    assert size >= 1000 or back == size


@given(st.integers(1, 999_999), st.integers(0, 3), st.sampled_from(sorted(FACTORS)))
def test_sizes_are_exact_to_the_byte(digits, places, unit):
    """A decimal number times its unit is computed exactly and rounded down to whole bytes."""
    text = f"{digits // 10**places}.{digits % 10**places:0{places}d}" if places else str(digits)
    exact = int(Fraction(digits, 10**places) * FACTORS[unit])
    if exact > 0:
        assert parse_bytes(f"{text} {unit}") == exact
        assert parse_bytes(f" {text}{unit.upper()} ") == exact


@pytest.mark.parametrize(
    ("text", "size"),
    [("48MB", 48_000_000), ("46MiB", 46 * 2**20), ("2.01MB", 2_010_000), (".5kB", 500), ("600 kb", 600_000), (7, 7)],
)
def test_sizes_of_the_documentation(text, size):
    """Decimal and binary units differ, case does not matter, and floats lose no byte."""
    assert parse_bytes(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        "MB",
        "48XB",
        "-5MB",
        "1e6",
        "4,8MB",
        "4.MB",
        "0",
        "0kB",
        0,
        -1,
        True,
        "nan",
        "inf",
        "٤MB",
        "9" * 50,
        "10000000TB",
        2**63,
        pytest.param(10**5000, id="endless"),
        "5%",
        "100x",
    ],
)
def test_what_is_no_size_is_refused(text):
    """Everything else is one sentence, including nothing, negative, endless and non-ASCII numbers."""
    with pytest.raises(BudgetError):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (600, "600 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (538_000, "538 kB"),
        (999_400, "999 kB"),
        (999_600, "1.00 MB"),
        (9_994_999, "9.99 MB"),
        (9_996_000, "10.0 MB"),
        (48_000_000, "48.0 MB"),
        (99_960_000, "100 MB"),
        (2_160_000_000, "2.16 GB"),
        (96.137e9, "96.1 GB"),
        (1.5e16, "15,000 TB"),
        (-48e6, "-48.0 MB"),
    ],
)
def test_sizes_have_three_digits(size, text):
    """Rounding up to the next power moves to the next unit or drops a decimal, never a fourth digit."""
    assert format_bytes(size) == text


def test_a_fixed_budget_is_the_whole_file():
    """Bytes are taken as they are, whatever the source's size."""
    budget = parse_budget("48MB")
    assert budget.resolve(table_bytes=10**12, dense_bytes=10**9) == 48_000_000
    assert parse_budget(5000).resolve(table_bytes=1, dense_bytes=1) == 5000


@pytest.mark.parametrize(
    ("text", "share"), [("5%", Fraction(1, 20)), ("100x", Fraction(1, 100)), ("49 X", Fraction(1, 49))]
)
def test_a_share_adds_the_dense_part_and_the_allowance(text, share):
    """5 % and 100x are of the table bytes, exactly; the dense part and 20 kB come on top."""
    for tables in (4900, 30_000_000, 96_136_908_288):
        resolved = parse_budget(text).resolve(table_bytes=tables, dense_bytes=123)
        assert resolved == int(tables * share) + 123 + SHARE_ALLOWANCE_BYTES


@given(st.integers(1, 10**7), st.integers(0, 10**13))
def test_every_whole_ratio_is_exact(ratio, tables):
    """Nx grants the whole part of tables / N, for every N: no byte is lost to a float."""
    resolved = parse_budget(f"{ratio}x").resolve(table_bytes=tables, dense_bytes=0)
    assert resolved == tables // ratio + SHARE_ALLOWANCE_BYTES


@pytest.mark.parametrize("text", ["", "0%", "0x", "x", "%", "-5%", "5 percent", "llcc", True, "0"])
def test_what_is_no_budget_is_refused(text):
    """A budget of nothing, or of unknown form, is one sentence."""
    with pytest.raises(BudgetError):
        parse_budget(text)


def write_cache(folder, entries):
    """A sysfs cache folder: (type, level, size) per index."""
    for place, texts in enumerate(entries):
        index = folder / f"index{place}"
        index.mkdir(parents=True)
        for name, text in zip(("type", "level", "size"), texts, strict=True):
            (index / name).write_text(f"{text}\n")
    return folder


def test_llc_is_the_highest_data_cache(tmp_path):
    """The last level that holds data counts, with the file that says so; instruction caches do not."""
    folder = write_cache(
        tmp_path, [("Data", 1, "48K"), ("Unified", 2, "2048K"), ("Unified", 3, "30720K"), ("Instruction", 4, "99999K")]
    )
    size, source = last_level_cache(folder)
    assert size == 30720 * 1024
    assert source == f"L3, {folder / 'index2' / 'size'}"


@pytest.mark.parametrize("entries", [[], [("Data", 1, "unknown")], [("Data", "one", "48K")], [("Data", 1, "0K")]])
def test_a_machine_that_hides_its_cache_is_told_apart(tmp_path, entries):
    """Without a readable size the error asks for bytes instead."""
    with pytest.raises(BudgetError, match="give bytes"):
        last_level_cache(write_cache(tmp_path, entries))


def test_the_llc_budget_says_where_it_comes_from(monkeypatch):
    """'llc' resolves to the cache's bytes and carries its source as a note."""
    monkeypatch.setattr("memrec_convert.units.last_level_cache", lambda: (32 * 2**20, "L3, there"))
    budget = parse_budget(" LLC ")
    assert budget.resolve(table_bytes=1, dense_bytes=1) == 32 * 2**20
    assert budget.note == "last-level cache of this machine, 33.6 MB (L3, there)"


@pytest.mark.parametrize(
    ("text", "threshold"),
    [
        ("10000rows", ("rows", 10000)),
        ("1 ROWS", ("rows", 1)),
        ("0", ("bytes", 0)),
        (0, ("bytes", 0)),
        ("100kB", ("bytes", 10**5)),
    ],
)
def test_thresholds_count_rows_or_bytes(text, threshold):
    """A threshold is a number of rows, a size, or zero."""
    assert parse_threshold(text) == threshold


@pytest.mark.parametrize("text", ["rows", "5%", "-1rows", "many", "1.5rows", "", "9" * 5000 + "rows"])
def test_what_is_no_threshold_names_the_forms(text):
    """The sentence names both forms, not those of a budget."""
    with pytest.raises(BudgetError, match="10000rows"):
        parse_threshold(text)
