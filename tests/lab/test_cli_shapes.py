"""`plan --shape` on the command line: JSON keys, a light start, and one sentence for what is wrong."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from memrec_convert.cli.commands import cli, main


def test_a_plan_from_a_shape_needs_no_torch():
    """The JSON has the keys that scripts rely on, and torch was never imported for it."""
    code = """
import sys
sys.argv = ["memrec-convert", "plan", "--shape", "criteo-tb", "--budget", "48MB", "--json"]
from memrec_convert.cli import main
try:
    main()
except SystemExit as end:
    print(end.code, "torch" in sys.modules, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr.split() == ["0", "False"]
    plan = json.loads(done.stdout)
    assert plan["published_bytes"] == 45_909_508
    assert plan["bytes"] <= 48_000_000
    assert len(plan["tables"]) == 26


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--shape", "criteo-t", "--budget", "1MB"], "did you mean 'criteo-tb'"),
        (["--shape", "criteo-tb", "--budget", "1MB"], "below the dense part"),
        (["--shape", "criteo-tb"], "no budget was given"),
        (["--shape", "avazu", "--budget", "5MB", "--zipf", "-1"], "Zipf exponent"),
        (["--shape", "avazu", "--budget", "5MB", "--data", "log.parquet"], "--data cannot be combined with --shape"),
        (["--shape", "avazu", "--budget", "5MB", "--curve"], "--curve cannot be combined with --shape"),
        (["dlrm.pt", "--shape", "avazu", "--budget", "5MB"], "not both"),
        (["--budget", "5MB"], "a checkpoint FILE or --shape"),
        (["dlrm.pt", "--budget", "5MB", "--zipf", "1"], "--zipf needs --shape"),
    ],
)
def test_what_makes_no_plan_is_refused_in_a_sentence(monkeypatch, capsys, arguments, words):
    """Exit code 2, one line on stderr, nothing on stdout."""
    monkeypatch.setattr(sys, "argv", ["memrec-convert", "plan", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    streams = capsys.readouterr()
    assert (end.value.code, streams.out, streams.err.count("\n")) == (2, "", 1)
    assert words in streams.err


def test_the_text_of_a_plan_from_a_shape_has_both_counts():
    """Without --json it is the table; with --quiet nothing."""
    shown = CliRunner().invoke(cli, ["plan", "--shape", "avazu", "--budget", "6MB"])
    silent = CliRunner().invoke(cli, ["plan", "--shape", "avazu", "--budget", "6MB", "--quiet"])
    assert shown.exit_code == 0
    assert "one table for the pooled sample" in shown.output
    assert (silent.exit_code, silent.output) == (0, "")
