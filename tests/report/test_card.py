"""The model card: complete, and proof against what a source file writes into its names."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memrec_convert.report import render_card
from memrec_convert.report.card import escape_markdown
from memrec_convert.report.text import make_plain

HOSTILE = "a|b*c_d`e[f](http://g)<h>#i~j&k$l\n# m\n| n |\n```\no"


def test_a_card_says_everything_that_matters(full):
    """Sizes by part, quality before and after, tables, plan, rivals, warnings and provenance."""
    card = render_card(full)
    assert card.startswith("# user.safetensors\n\n2.16 GB -> 46.0 MB (47x), AUC 0.8027 -> 0.8021 (-0.0006, ")
    for said in (
        "| AUC | 0.802700 | 0.802100 | -0.000600 |",
        "| log loss | 0.520000 | 0.521000 | +0.001000 |",
        "| tables | 2.15 GB | 36.0 MB |",
        "| dense part | 10.0 MB | 9.99 MB |",
        "| whole file | 4.40 GB | 46.0 MB |",
        "the file has 46,000,000 bytes",
        "| user0 | 33,762,577 | 16 | 2.00 GB | 45.0 MB | codes |",
        "| user0 | code(3) | 30,000 | 30 % | 0.8000 | 0.7990 | -0.0010 |",
        "- theta: 1e-09",
        "| int8 user | 48.0 MB | 0.0123 | a note |",
        "- kept\\_step: 200",
        "- table user has unread rows",
        "| 2 | 0.6000 | 0.5900 | 0.6100 | 0.5876 |",
        "| user0 | 0.8022 | -0.00050 | -0.00070 to -0.00030 |",
        "| what compression costs, both fine-tuned | 0.8027 | 0.8021 | -0.00060 | -0.00090 to -0.00030 |",
        "- GAUC 0.7200 -> 0.7190 (-0.0010, ",
        "- source\\_digest: abab",
        "- time: (read: 1.2 s, plan: 0.5 s)",
    ):
        assert said in card


def test_the_loading_example_is_python_that_loads_the_file(full):
    """The code block compiles, and its string is the artifact's name."""
    code = re.search(r"```python\n(.*?)```", render_card(full), re.DOTALL).group(1)
    calls = []
    exec(compile(code.replace("from memrec_convert import load", ""), "card", "exec"), {"load": calls.append})
    assert "from memrec_convert import load" in code
    assert calls == ["user.safetensors"]


def test_a_card_of_nothing_measured_claims_nothing(bare):
    """Null figures read 'not measured', empty parts 'None.'."""
    card = render_card(bare)
    assert "AUC not measured" in card
    assert "| AUC | not measured | not measured | not measured |" in card
    assert "## AUC by form of the lookup\n\nNot measured." in card
    assert "## Warnings\n\nNone." in card
    assert "## Fine-tuning\n\nNone." in card


@pytest.mark.parametrize("char", list("\\`*_{}[]<#|~&$"))
def test_special_characters_are_escaped(char):
    """Each character that Markdown would act on has a backslash before it."""
    assert escape_markdown(f"a{char}b") == f"a\\{char}b"


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("- item", "\\- item"),
        ("1. item", "1\\. item"),
        ("12) item", "12\\) item"),
        ("===", "\\==="),
        ("> x", "\\> x"),
        ("+1", "\\+1"),
        ("2.16 GB", "2.16 GB"),
        ("123456789. x", "123456789\\. x"),
        ("http://x.org", "http\\://x.org"),
        ("emb.0-weight", "emb.0-weight"),
        ("a\n\nb", "a\\\\n\\\\nb"),
        ("", ""),
    ],
)
def test_text_at_the_start_of_a_line_starts_nothing(text, escaped):
    """No list, heading, link or paragraph begins in a name; ordinary names stay readable."""
    assert escape_markdown(text) == escaped


@given(st.text(max_size=80))
def test_escaping_only_adds_backslashes(text):
    """Taking one backslash away before each punctuation mark gives the plain text back, on one line."""
    escaped = escape_markdown(text)
    assert re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", escaped) == " ".join(make_plain(text).split())


@given(st.one_of(st.just(HOSTILE), st.text(alphabet="|`\n#<>[]()*_- a", max_size=40)))
@settings(max_examples=60, deadline=None)
def test_no_name_changes_the_cards_structure(make_report, name):
    """Whatever a name holds, the card has the headings, table rows and code blocks of a harmless one."""

    def structure(card):
        lines = card.split("\n")
        headings = [line for line in lines if line.startswith("## ")]
        columns = [len(re.findall(r"(?<!\\)\|", line)) for line in lines if line.startswith("|")]
        fences = [line for line in lines if line.startswith("```")]
        return headings, columns, fences

    hostile, harmless = render_card(make_report(name, name)), render_card(make_report("user", "note"))
    assert structure(hostile) == structure(harmless)
