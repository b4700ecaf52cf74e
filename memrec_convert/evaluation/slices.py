"""Where a change of AUC comes from: the difference over the samples whose lookup in a table has a given form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from memrec_convert.errors import ModelError
from memrec_convert.evaluation.metrics import Float64, Labels, auc, paired

UNSEEN = "unseen"
"""The slice of the samples whose id never occurred in the lookup profile: a flag beside the form."""


@dataclass(frozen=True)
class Slice:
    """The samples whose lookup in `table` has `form`; AUCs and `delta` are None where they hold one class only."""

    table: str
    form: str
    samples: int
    share: float
    auc_before: float | None
    auc_after: float | None
    delta: float | None


def slice_by_form(
    labels: ArrayLike,
    before: ArrayLike,
    after: ArrayLike,
    forms: Mapping[str, NDArray[np.int8]],
    form_names: Sequence[str],
    *,
    unseen: Mapping[str, NDArray[np.bool_]] | None = None,
) -> list[Slice]:
    """One slice for each table and form that occurs, in the order of `forms` and `form_names`.

    `forms[table]` is int8 [n]: the position in `form_names` of the form of each sample's lookup, or a negative
    number where the sample has no lookup in that table. `unseen[table]`, bool [n], adds the slice of the samples
    whose id the profile never saw. `share` is of all n samples. LogError and ModelError as `metrics.measure`;
    ModelError too where an array does not fit.
    """
    clicked, old = paired(labels, before)
    _, new = paired(labels, after)
    return [
        _slice(table, form, members, clicked, old, new)
        for table, form, members in _memberships(forms, form_names, unseen or {}, samples=len(clicked))
        if members.any()
    ]


def _memberships(
    forms: Mapping[str, NDArray[np.int8]],
    form_names: Sequence[str],
    unseen: Mapping[str, NDArray[np.bool_]],
    *,
    samples: int,
) -> Iterator[tuple[str, str, NDArray[np.bool_]]]:
    """(table, form, bool [samples]) for every form of every table, its unseen ids last."""
    for table, codes in forms.items():
        codes = np.asarray(codes)
        if codes.shape != (samples,) or int(codes.max()) >= len(form_names):
            raise ModelError(
                f"forms of table {table!r}: found shape {codes.shape} and codes up to {codes.max(initial=-1)}, "
                f"expected one code below {len(form_names)} for each of {samples} samples."
            )
        for code, form in enumerate(form_names):
            yield table, form, codes == code
        if table in unseen:
            flags = np.asarray(unseen[table], dtype=np.bool_)
            if flags.shape != (samples,):
                raise ModelError(
                    f"unseen flags of table {table!r}: found shape {flags.shape}, expected one for each of "
                    f"{samples} samples."
                )
            yield table, UNSEEN, flags


def _slice(
    table: str, form: str, members: NDArray[np.bool_], clicked: Labels, before: Float64, after: Float64
) -> Slice:
    """The AUCs over `members`, a bool [n] with at least one True."""
    auc_before = auc(clicked[members], before[members])
    auc_after = auc(clicked[members], after[members])
    delta = None if auc_before is None or auc_after is None else auc_after - auc_before
    samples = int(members.sum())
    return Slice(table, form, samples, samples / len(members), auc_before, auc_after, delta)
