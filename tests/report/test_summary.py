"""The report on one screen: what it says first, what it leaves to --full, and that its next command is one."""

import subprocess
from dataclasses import replace

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from memrec_convert.cli.commands import cli
from memrec_convert.report import Comparison, render_summary, render_terminal, suggest_step
from memrec_convert.report.summary import SCREEN_LINES, Step
from memrec_convert.report.text import make_plain


def read_command(text):
    """The words of the one command of a summary, as a shell reads them."""
    lines = text.split("\n")
    start = next(number for number, line in enumerate(lines) if line.startswith("  memrec-convert"))
    end = next(number for number in range(start, len(lines)) if not lines[number].endswith(" \\"))
    script = "\n".join(lines[start : end + 1]).replace("memrec-convert", "printf '%s\\0'", 1)
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.split("\0")[:-1]


def test_a_summary_is_headline_sizes_quality_worries_and_a_command(full):
    """In this order, on one screen of 80 columns, and nothing of the tables."""
    text = render_summary(full, suggest_step(full, source="user.pt"))
    order = [
        "2.16 GB -> 46.0 MB (47x), AUC 0.8027 -> 0.8021 (-0.0006, ",
        "out/user.safetensors: 95.8 % of 48.0 MB used; memory once loaded: 47.0 MB",
        "2.15 GB  36.0 MB",
        "Measured on 100,020 rows of user.parquet",
        "0.802700  0.802100  -0.000600",
        "What to worry about:\n- The change of the AUC is -0.0006: it is worse.\n- a note\n",
        "- table user has unread rows",
        "- Assumed: pairs are the lower triangle of user",
        "  memrec-convert report out/user.report.json --html out/user.html\n",
        "--full",
    ]
    places = [text.index(said) for said in order]
    assert places == sorted(places)
    assert text.count("\n") <= SCREEN_LINES
    assert max(map(len, text.split("\n"))) <= 80
    assert "33,762,577" not in text
    assert "33,762,577" in render_terminal(full)


@given(
    st.text(max_size=300),
    st.text(alphabet="abc \n\x1b\u202e表", max_size=400),
    st.integers(0, 40),
    st.integers(60, 100),
)
@settings(max_examples=40, deadline=None)
def test_no_report_makes_a_summary_longer_than_a_screen(make_report, name, text, number, width):
    """Whatever its names, however many its warnings: the lines fit, are harmless, and what is left out is counted."""
    report = make_report(name, text)
    report = replace(report, warnings=tuple(f"{i}: {text}" for i in range(number)))
    shown = render_summary(report, Step("Next:", ("verify", "a.safetensors")), width)
    lines = shown.split("\n")
    assert len(lines) - 1 <= SCREEN_LINES
    assert all(len(line) <= width and line == make_plain(line) for line in lines)
    told = sum(line.startswith("- ") for line in lines) - ("more: --full" in shown)
    left = next((int(line.split()[2]) for line in lines if line.endswith("more: --full")), 0)
    assert told + left == 2 + number  # the AUC and the assumption too
    assert "  memrec-convert verify a.safetensors" in lines


def test_nothing_to_worry_about_is_said(full):
    """Without warnings and assumptions, and with an AUC that is the same, the summary says so."""
    calm = replace(full, warnings=(), assumed=(), auc=replace(full.auc, verdict="same"))
    assert "What to worry about: nothing that was measured.\n" in render_summary(calm)


def test_what_was_not_measured_is_the_first_worry(bare):
    """Without an evaluation the cost is unknown, and ids were weighted by a guess."""
    text = " ".join(render_summary(bare).split())
    assert "What to worry about: - The AUC was not measured, so nobody knows what the conversion costs" in text
    assert "- Rows were weighted by uniform, for want of a log: give --data LOG." in text


def test_slices_and_calibration_are_worries_where_they_move(full):
    """The slice that loses most is named if it is large; so is calibration that moved by more than 0.02."""
    slices = (replace(full.slices[0], delta=-0.02), replace(full.slices[0], form="unseen", share=0.001, delta=-0.3))
    text = " ".join(render_summary(replace(full, slices=slices, calibration=Comparison(1.0, 0.95))).split())
    assert "The AUC changes by -0.0200 over the 30 % of the rows whose lookup in user0 has the form code(3)." in text
    assert "Calibration moved from 1.0000 to 0.9500." in text
    assert "Calibration moved" not in render_summary(full)


@pytest.mark.parametrize("name", ["plain", "with space", "it's; rm -rf $(x) & `y`", "-dash", "表", "a" * 200])
@pytest.mark.parametrize("paged", [False, True])
@pytest.mark.parametrize("measured", [False, True])
def test_the_next_command_is_one_that_runs(full, name, paged, measured):
    """A shell reads the names back as they are, and the command takes these options."""
    report = replace(full, artifact=replace(full.artifact, path=f"out/{name}.safetensors"))
    report = report if measured else replace(report, auc=None)
    words = read_command(render_summary(report, suggest_step(report, source=f"in/{name}.pt", paged=paged)))
    cli.commands[words[0]].make_context(words[0], words[1:]).close()
    expected = {
        (False, False): ["verify", f"out/{name}.safetensors", "--against", f"in/{name}.pt"],
        (False, True): ["verify", f"out/{name}.safetensors", "--against", f"in/{name}.pt"],
        (True, False): ["report", f"out/{name}.report.json", "--html", f"out/{name}.html"],
        (True, True): ["bench", f"out/{name}.safetensors", "--against", f"in/{name}.pt"],
    }
    assert words == expected[measured, paged]


def test_a_name_that_cannot_be_shown_is_in_no_command(full):
    """A name with control or direction marks would be pasted as another one: there is no command then."""
    for mark in ("\x1b[31m", "\u202e", "\n"):
        step = suggest_step(full, file=f"a{mark}.report.json")
        assert "memrec-convert report" not in render_summary(full, step)


def test_the_commands_print_a_screen_or_all_of_it(tiny, tmp_path):
    """`convert` and `report` print the summary with a command that then runs; --full prints the whole report."""
    target = tmp_path / "a b.safetensors"
    ran = CliRunner().invoke(
        cli, ["convert", str(tiny.bare), "--budget", "12kB", "--out", str(target), "--threads", "1"]
    )
    assert ran.exit_code == 0, ran.output
    shown = [line for line in ran.stdout.splitlines() if not line.endswith(" ...")]  # click 8.1 mixes stderr in
    assert len(shown) <= SCREEN_LINES + 1
    words = read_command(ran.stdout)
    assert words == ["verify", str(target), "--against", str(tiny.bare)]
    again = CliRunner().invoke(cli, words)
    assert again.exit_code == 0, again.output
    shown = CliRunner().invoke(cli, ["report", str(tmp_path / "a b.report.json")])
    words = read_command(shown.stdout)
    assert words[:2] == ["report", str(tmp_path / "a b.report.json")]
    assert CliRunner().invoke(cli, words).exit_code == 0
    assert (tmp_path / "a b.html").exists()
    whole = CliRunner().invoke(cli, ["report", str(tmp_path / "a b.report.json"), "--full"])
    assert "Provenance:" in whole.stdout
    assert "Provenance:" not in shown.stdout
