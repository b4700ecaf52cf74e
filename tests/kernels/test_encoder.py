"""The encoder: every instruction set's bits, exact decisions, and what the reference makes of the same rows."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from memrec_convert.kernels import encoder, encoder_reference

SIZES = (1, 2, 3, 4, 5, 8, 16, 17, 64, 100, 256)


def draw_frame(
    seed: int, dim: int, sizes: tuple[int, ...], rows: int = 150
) -> tuple[Tensor, list[Tensor], Tensor, Tensor]:
    """Rows of very different lengths, books of falling ones, a centre and a metric that leans."""
    draw = torch.Generator().manual_seed(seed)
    points = torch.randn(rows, dim, generator=draw) * torch.rand(rows, 1, generator=draw).mul(6).exp()
    points[::17] = 0
    books = [torch.randn(size, dim, generator=draw) * 8 * 0.6**stage for stage, size in enumerate(sizes)]
    metric = torch.randn(dim, dim, generator=draw) / dim**0.5 + torch.eye(dim)
    return points, books, torch.randn(dim, generator=draw), metric


def bits_of(*tensors: Tensor) -> list[bytes]:
    """What must be the same everywhere."""
    return [one.contiguous().numpy().tobytes() for one in tensors]


@pytest.mark.parametrize("dim", [1, 3, 16, 24, 128])
def test_every_instruction_set_has_the_same_bits(native, dim):
    """Codes, distances, points and norms: greedy and by beam, with depths, for all kinds of rows."""
    found = {}
    before = native.active()
    for name in native.instruction_sets():
        assert native.choose(name)
        bits = []
        for kind in (torch.float32, torch.bfloat16, torch.float16):
            rows, books, centre, metric = draw_frame(dim, dim, (4, 17, 256))
            rows, frame = rows.clamp(-6e4, 6e4).to(kind), {"centre": centre, "metric": metric}
            depths = torch.arange(len(rows), dtype=torch.int8) % 5 - 1
            for beam in (1, 2, 4):
                bits += bits_of(*encoder.search_codes(rows, books, depths=depths, beam=beam, **frame))
            bits += bits_of(*encoder.code_each_depth(rows, books, **frame))
            bits += bits_of(*encoder.find_nearest(rows, torch.cat([*books, books[2] + 1])))
            bits += bits_of(encoder.measure_rows(rows, **frame)[0], encoder.in_metric(rows, metric))
        found[name] = bits
    native.choose(before)
    assert all(bits == found["scalar"] for bits in found.values())


@pytest.mark.parametrize("entries", [1, 2, 31, 95, 96, 97, 129, 257])
@pytest.mark.parametrize("width", [1, 16, 19])
def test_systems_have_one_solution_on_every_instruction_set(native, entries, width):
    """Around whole blocks and strips: it solves the system, and its bits are those of the plain code."""
    draw = torch.Generator().manual_seed(entries)
    half = torch.randn(entries, entries + 5, generator=draw, dtype=torch.float64)
    matrix, right = half @ half.T, torch.randn(entries, width, generator=draw, dtype=torch.float64)
    found, before = {}, native.active()
    for name in native.instruction_sets():
        assert native.choose(name)
        found[name] = right.clone()
        encoder.solve_positive(matrix.tril(), found[name])
    native.choose(before)
    assert torch.allclose(matrix @ found["scalar"], right, atol=1e-6)
    assert all(torch.equal(one, found["scalar"]) for one in found.values())


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**20), st.integers(4, 40), st.sampled_from(SIZES))
def test_the_nearest_entry_is_found(seed, dim, size):
    """No entry is nearer than the one that is taken, by more than the screen in integers may miss: next to never."""
    rows, (book,), _, _ = draw_frame(seed, dim, (size,))
    nearest, squared = encoder.find_nearest(rows, book)
    square = (rows.double().unsqueeze(1) - book.double()).square().sum(dim=2)
    assert torch.allclose(square.gather(1, nearest.unsqueeze(1)).squeeze(1), squared.double(), rtol=1e-5, atol=1e-9)
    best = square.min(dim=1).values
    missed = squared.double() > best * (1 + 1e-5) + 1e-9
    assert int(missed.sum()) <= 2
    assert float((squared.double().sum() - best.sum()) / best.sum().clamp(min=1e-9)) < 1e-3


@pytest.mark.parametrize("beam", [1, 2, 4])
def test_codes_are_those_of_the_reference(native, beam):
    """The reference in torch decides alike but for ties within its rounding; depths are kept to."""
    rows, books, centre, metric = draw_frame(5, 12, (4, 16, 64, 256), rows=400)
    depths = torch.arange(len(rows), dtype=torch.int8) % 6 - 1
    frame = {"centre": centre, "metric": metric, "depths": depths, "beam": beam}
    own_books = [book @ metric for book in books]
    codes, squared = encoder.search_codes(rows, own_books, **frame)
    wanted, reference = encoder_reference.search_codes(rows, own_books, **frame)
    same = (codes == wanted).all(dim=1)
    assert float(same.float().mean()) > 0.98
    assert torch.allclose(squared[same], reference[same], rtol=1e-3, atol=1e-3)
    assert not codes[depths < 0].any()
    assert not squared[depths < 0].any()
    assert not any(codes[depths == depth, depth:].any() for depth in range(5))


def test_a_wider_beam_loses_less():
    """What greedy choices spoil, partial codes that are kept make good: on average, not for every row."""
    rows, books, _, _ = draw_frame(6, 32, (64,) * 6, rows=500)
    losses = [float(encoder.search_codes(rows, books, beam=beam)[1].double().sum()) for beam in (1, 2, 4, 16)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]


def test_distances_are_those_of_the_codes():
    """At each depth the distance is that of the row less the entries that its codes name so far."""
    rows, books, centre, metric = draw_frame(7, 20, (16, 256, 5))
    codes, squared = encoder.code_each_depth(rows, books, centre=centre, metric=metric)
    rest = (rows - centre).double() @ metric.double()
    for depth in range(4):
        assert torch.allclose(squared[depth].double(), rest.square().sum(dim=1), rtol=1e-4, atol=1e-4)
        if depth < 3:
            rest = rest - books[depth][codes[:, depth].long()].double()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e38, 1e-42])
def test_numbers_at_the_edges_name_entries_that_exist(value):
    """Nothing is read or named outside a book, whatever rows and books hold."""
    rows, books, _, _ = draw_frame(8, 16, (5, 100))
    rows[3], rows[4, 2] = value, value
    for odd in (None, books[1]):
        if odd is not None:
            odd[7], odd[9, 3] = value, value
        for beam in (1, 4):
            codes, _ = encoder.search_codes(rows, books, beam=beam)
            assert all(int(codes[:, stage].max()) < len(book) for stage, book in enumerate(books))


@pytest.mark.parametrize("scale", [1e-42, 1e-38, 1e-30, 1.0, 1e15])
def test_nearest_entries_are_found_at_any_scale(scale):
    """Books of tiny numbers, whose scale has no inverse in fp32, and of large ones."""
    draw = torch.Generator().manual_seed(11)
    centres = torch.randn(200, 24, generator=draw) * scale
    nearest, _ = encoder.find_nearest(centres[50:90], centres)
    if scale > 1e-20:  # squares of smaller ones are zero
        assert nearest.tolist() == list(range(50, 90))
    assert set(nearest.tolist()) <= set(range(200))


@pytest.mark.parametrize("dim", [1, 16, 19, 128])
def test_rows_are_compared_each_with_its_own(native, dim):
    """Less a row of their own in place of a centre: the bits of the difference's length, on every instruction set."""
    rows, _, _, metric = draw_frame(12, dim, (), rows=77)
    others, before = rows.flip(0) + 0.5, native.active()
    for frame in (None, metric):
        wanted, widest = encoder.measure_rows(rows - others, metric=frame)
        for name in native.instruction_sets():
            assert native.choose(name)
            squared, found = encoder.measure_rows(rows, others=others, metric=frame)
            assert torch.equal(squared, wanted)
            assert found == widest
    native.choose(before)
    reference, _ = encoder_reference.measure_rows(rows, centre=others, metric=metric)
    assert torch.allclose(encoder.measure_rows(rows, others=others, metric=metric)[0], reference, rtol=1e-4)


def test_sums_and_systems_are_those_of_torch():
    """Weighted sums of points, normal equations and their solution, against torch in double."""
    rows, books, _, _ = draw_frame(9, 8, (6, 9), rows=300)
    weights, draw = torch.rand(300, generator=torch.Generator().manual_seed(1)), torch.Generator().manual_seed(2)
    codes, _ = encoder.search_codes(rows, books)
    depths = torch.randint(-1, 3, (300,), generator=draw, dtype=torch.int8)
    masses, sums = encoder.sum_by_nearest(rows, weights, codes[:, 0].long(), 6)
    one_hot = torch.nn.functional.one_hot(codes[:, 0].long(), 6).double() * weights.double().unsqueeze(1)
    assert torch.allclose(masses, one_hot.sum(dim=0))
    assert torch.allclose(sums, one_hot.T @ rows.double())
    facts = {"rows": rows, "weights": weights, "depths": depths, "codes": codes, "firsts": torch.tensor([0, 6, 15])}
    normal, right = torch.zeros(15, 15, dtype=torch.float64), torch.zeros(15, 8, dtype=torch.float64)
    encoder.add_to_normal(normal, right, **facts)
    wanted, wanted_right = torch.zeros_like(normal), torch.zeros_like(right)
    encoder_reference.add_to_normal(wanted, wanted_right, *facts.values())
    assert torch.allclose(normal, wanted)
    assert torch.allclose(right, wanted_right)
    matrix = normal + normal.T - torch.diag(normal.diagonal()) + torch.eye(15)
    solution = right.clone()
    encoder.solve_positive(matrix.clone(), solution)
    assert torch.allclose(matrix @ solution, right)
    with pytest.raises((ArithmeticError, RuntimeError)):
        encoder.solve_positive(-matrix, right)
    assert torch.allclose(encoder.square_norms(rows), rows.double().square().sum(dim=1))
