"""Layer widths that a file states."""

from __future__ import annotations

import pytest

from memrec_convert.errors import ModelError
from memrec_convert.models.network import read_widths


@pytest.mark.parametrize("widths", [[3, 0, 1], [3, -2], "ab", [True, 2], [4], [4.0, 1], None])
def test_widths_that_no_layer_has_are_refused(widths):
    """Zero, negative, no number, or too few: one sentence that names the part."""
    with pytest.raises(ModelError, match=r"architecture > top: expected a list of 2 or more layer widths, found"):
        read_widths({"top": widths}, "top")


def test_a_network_without_dense_inputs_has_none():
    """Where a part may be empty, zero inputs are a width."""
    assert read_widths({"bottom": [0]}, "bottom", least=1, narrowest=0) == [0]
    assert read_widths({"top": [1, 1]}, "top") == [1, 1]
