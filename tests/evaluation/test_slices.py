"""Slices of the AUC difference by the form of a lookup."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memrec_convert.errors import ModelError
from memrec_convert.evaluation.metrics import auc
from memrec_convert.evaluation.slices import slice_by_form

NAMES = ("kept", "row", "code(2)", "hashed", "mean")
ROWS = st.lists(
    st.tuples(st.integers(0, 1), st.integers(-5, 5), st.integers(-5, 5), st.integers(-1, 4), st.booleans()),
    min_size=1,
    max_size=60,
)


@given(ROWS)
def test_a_slice_is_the_auc_of_its_samples_alone(rows):
    """Every slice's figures are those of the samples picked by hand, and empty slices do not appear."""
    labels, before, after, codes, unseen = (np.array(column) for column in zip(*rows, strict=True))
    slices = slice_by_form(labels, before, after, {"user": codes.astype(np.int8)}, NAMES, unseen={"user": unseen})
    members = {**{name: codes == code for code, name in enumerate(NAMES)}, "unseen": unseen}
    assert [entry.form for entry in slices] == [form for form, chosen in members.items() if chosen.any()]
    for entry in slices:
        chosen = members[entry.form]
        assert entry.samples == chosen.sum()
        assert entry.share == chosen.sum() / len(rows)
        assert entry.auc_before == auc(labels[chosen], before[chosen])
        assert entry.auc_after == auc(labels[chosen], after[chosen])
        defined = entry.auc_before is not None
        assert entry.delta == (entry.auc_after - entry.auc_before if defined else None)


def test_tables_keep_their_order_and_forms_theirs():
    """Slices come table by table as given, each in the order of the form names, unseen ids last."""
    forms = {"zip": np.array([2, 0, 2, 0], np.int8), "age": np.array([1, 1, 1, 1], np.int8)}
    unseen = {"zip": np.array([True, False, False, False])}
    slices = slice_by_form([0, 1, 1, 0], np.zeros(4), np.zeros(4), forms, NAMES, unseen=unseen)
    assert [(s.table, s.form) for s in slices] == [
        ("zip", "kept"),
        ("zip", "code(2)"),
        ("zip", "unseen"),
        ("age", "row"),
    ]


def test_damage_shows_in_the_slice_that_was_damaged():
    """Scores spoilt for the hashed lookups alone leave the other slice's delta at zero."""
    labels = np.array([0, 1] * 20)
    codes = np.repeat([1, 3], 20).astype(np.int8)
    before = labels.astype(float)
    after = np.where(codes == 3, 0.0, before)
    deltas = {s.form: s.delta for s in slice_by_form(labels, before, after, {"user": codes}, NAMES)}
    assert deltas == {"row": 0.0, "hashed": -0.5}


@pytest.mark.parametrize(
    ("forms", "unseen", "said"),
    [
        ({"user": np.zeros(3, np.int8)}, None, r"table 'user': found shape \(3,\)"),
        ({"user": np.array([0, 5], np.int8)}, None, "codes up to 5"),
        ({"user": np.zeros((2, 1), np.int8)}, None, "one code below 5 for each of 2 samples"),
        ({"user": np.zeros(2, np.int8)}, {"user": np.zeros(1, bool)}, r"unseen flags of table 'user'"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(forms, unseen, said):
    """A form array of another length or with an unknown code names its table."""
    with pytest.raises(ModelError, match=said):
        slice_by_form([0, 1], [0.0, 1.0], [0.0, 1.0], forms, NAMES, unseen=unseen)
