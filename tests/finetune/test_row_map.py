"""The map that all rows of a table go through: first the identity, always affine, even in its directions."""

import pytest
import torch

from memrec_convert.finetune.row_map import LEAST_ENERGY, LEAST_ROWS_PER_DIM, RowMap, make_map

DIM = 6


def draw_rows(scales=(9.0, 3.0, 1.0, 0.3, 0.1, 0.03), count=200):
    """Rows around a mean of 5, in directions of these standard deviations."""
    generator = torch.Generator().manual_seed(0)
    turn, _ = torch.linalg.qr(torch.randn(DIM, DIM, generator=generator))
    return 5 + torch.randn(count, DIM, generator=generator) * torch.tensor(scales) @ turn


@pytest.mark.parametrize(
    "rows",
    [draw_rows(), draw_rows((1, 1, 0, 0, 0, 0)), torch.full((50, DIM), 2.0), torch.zeros(50, DIM), 1e-20 * draw_rows()],
    ids=["full", "flat", "one row", "zeros", "tiny"],
)
def test_at_first_rows_stay(rows):
    """Whatever the rows are, also where they do not differ in some direction or in any."""
    found = RowMap(rows)(rows)
    assert torch.allclose(found, rows, rtol=1e-5, atol=1e-5 * float(rows.abs().max()))


def test_rows_between_rows_stay_between_them():
    """A trained map is affine: it says the same of rows that were never seen."""
    rows = draw_rows()
    row_map = RowMap(rows)
    with torch.no_grad():
        row_map.matrix += 0.3 * torch.randn(DIM, DIM, generator=torch.Generator().manual_seed(1))
        first, second = rows[:50], rows[50:100]
        between = row_map(0.3 * first + 0.7 * second)
        assert torch.allclose(between, 0.3 * row_map(first) + 0.7 * row_map(second), atol=1e-3)
        assert float((between - 0.3 * first - 0.7 * second).abs().mean()) > 0.1
        assert torch.allclose(row_map(row_map.mean), row_map.mean)


def test_weak_directions_learn_as_fast_as_strong_ones():
    """The matrix is fed with as much energy in each direction, but for those that hardly exist."""
    rows = draw_rows((9.0, 3.0, 1.0, 0.3, 0.1, 1e-5))
    row_map = RowMap(rows)
    fed = ((rows - row_map.mean) @ row_map.whitening).square().mean(dim=0)
    assert torch.allclose(fed[1:], torch.ones(DIM - 1), rtol=1e-3)
    assert float(fed[0]) < 1e-3
    weakest, strongest = (float(reach) for reach in row_map.whitening.norm(dim=0).aminmax())
    assert strongest == pytest.approx(weakest * LEAST_ENERGY**-0.5, rel=1e-3)


def test_few_rows_get_no_map():
    """A map has dim * dim numbers: rows fewer than a few times the dim can learn as much by themselves."""
    rows = draw_rows(count=LEAST_ROWS_PER_DIM * DIM)
    assert make_map(rows) is not None
    assert make_map(rows[1:]) is None
    assert make_map(rows[:0]) is None
