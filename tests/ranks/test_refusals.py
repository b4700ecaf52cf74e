"""Ranks that are not about the same conversion stop at the start, each with a sentence, and write nothing."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import make_checkpoint
from launch import Rank

from memrec_convert.conversion.ranks.joining import RankedRun
from memrec_convert.errors import OptionError


def refused(case, rank, *said):
    """Both ranks end with code 2 and these words, and nothing is written."""
    for ended in case.run("odd", 2, {1: rank}):
        assert ended.code == 2, ended.said
        assert all(part in ended.said for part in said), ended.said
        assert "Traceback" not in ended.said
    assert case.nothing_written("odd")


def test_another_option_is_refused(case):
    """The rank and both values are named."""
    rank = Rank(arguments=case.arguments("odd", "--seed", "7"))
    refused(case, rank, "rank 1 differs from rank 0 in the options", '"seed": 7')


def test_another_checkpoint_is_refused(case, tmp_path):
    """Of the same name and size, with other rows."""
    (tmp_path / "other").mkdir()
    other = make_checkpoint(tmp_path / "other" / "dlrm.pt", seed=1)
    assert other.stat().st_size == case.checkpoint.stat().st_size
    arguments = tuple(str(other) if part == str(case.checkpoint) else part for part in case.arguments("odd"))
    refused(case, Rank(arguments=arguments), "rank 1 differs from rank 0 in")


def test_another_version_is_refused(case):
    """Which of the two is where is said."""
    refused(case, Rank(version="0.0.1"), "rank 1 differs from rank 0 in the version of memrec_convert: 0.0.1")


def test_rows_that_are_no_numbers_stop_every_rank(case, tmp_path):
    """A NaN in the range of one rank is told by all, by table and row."""

    def spoil(tables):
        tables[0][5990, 3] = float("nan")

    case.checkpoint = make_checkpoint(tmp_path / "nan.pt", change=spoil)
    refused(case, Rank(), "emb_l.0", "5990")


def test_a_full_disk_is_one_sentence_at_every_rank(case, tmp_path):
    """A work folder that takes no more: every rank says so, whether it met it or was stopped by another that did."""
    place = tmp_path / "small"
    place.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root may mount a small file system")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip("file systems cannot be mounted here")
    try:
        arguments = tuple(str(place) if part == str(case.work("odd")) else part for part in case.arguments("odd"))
        ended = case.run("odd", 2, {rank: Rank(arguments=arguments) for rank in (0, 1)})
    finally:
        subprocess.run(["umount", str(place)], check=True)
    for one in ended:
        assert one.code == 2, one.said
        assert "No space left on device" in one.said
    assert case.nothing_written("odd")


@pytest.mark.parametrize(
    ("choices", "named"),
    [
        ({"max_auc_drop": 0.1}, "--max-auc-drop"),
        ({"like": Path("x")}, "--like"),
        ({"method": "memrec"}, "method memrec"),
    ],
)
def test_what_one_process_alone_can_do_is_refused(choices, named):
    """Before any rank is waited for."""
    with pytest.raises(OptionError, match=named):
        RankedRun.begin(choices)
