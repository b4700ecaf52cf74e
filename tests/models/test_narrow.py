"""Linear layers in bf16 and int8: how they round, and that the kernel computes what torch says."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from memrec_convert.kernels.loading import load_kernel
from memrec_convert.models.narrow import Layer, NarrowLinear, list_fast, quantise_weight, takes_int8, widen_weight

WIDTHS = st.integers(1, 150)


def make_layer(inputs: int, outputs: int, precision, *, positive: bool = False, seed: int = 0) -> Layer:
    """A layer of random weights with a ReLU."""
    draw = torch.Generator().manual_seed(seed)
    weight, bias = torch.randn(outputs, inputs, generator=draw), torch.randn(outputs, generator=draw)
    return Layer(weight, bias, precision, relu=True, positive=positive)


def run(layer: Layer, rows: torch.Tensor) -> torch.Tensor:
    """The layer through the kernel."""
    native = load_kernel()
    out = torch.empty(len(rows), len(layer.weight))
    address = rows.data_ptr(), rows.stride(0), len(rows), out.data_ptr(), out.stride(0), 1
    native.run_layer(layer.pack(native), *address)
    return out


@pytest.fixture(params=["auto", "scalar", "avx2", "avx512"])
def instruction_set(request):
    """One instruction set after the other; those that this machine lacks are skipped."""
    native = load_kernel()
    if native is None:
        pytest.skip("layers run in torch here")
    before = native.active()
    if request.param != "auto" and not native.choose(request.param):
        pytest.skip(f"no {request.param} here")
    yield request.param
    assert native.choose(before)


@settings(max_examples=50, deadline=None)
@given(WIDTHS, WIDTHS, st.integers(0, 99), st.floats(1e-20, 1e20))
def test_a_quantised_weight_is_quantised_again_without_change(inputs, outputs, seed, size):
    """What a file holds gives the same file again: rows times scale are exact, and their bytes come back."""
    weight = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed)) * size
    rows, scale = quantise_weight(weight)
    again = quantise_weight(widen_weight(rows, scale))
    assert torch.equal(rows, again[0])
    assert torch.equal(scale, again[1])
    assert bool(((widen_weight(rows, scale) - weight).abs() <= 0.502 * scale.unsqueeze(1)).all())


def test_only_large_matrices_are_narrowed():
    """Few inputs or outputs save nothing, and of too many the sums would not fit; vectors are no matrices."""
    found = [takes_int8(shape) for shape in ((8, 32), (7, 32), (8, 31), (8, 1 << 16), (8, (1 << 16) + 1), (64,))]
    assert found == [True, False, False, True, False, False]


def test_the_largest_sums_fit():
    """All inputs and weights at their largest: the sum of 2**16 products is exact."""
    if load_kernel() is None:
        pytest.skip("layers run in torch here")
    layer = Layer(torch.ones(16, 1 << 16), None, "int8", positive=True)
    rows = torch.ones(1, 1 << 16)
    assert torch.equal(run(layer, rows), layer.apply(rows))
    assert run(layer, rows)[0, 0] == pytest.approx(1 << 16, rel=1e-4)


def test_a_row_of_zeros_stays_one():
    """An output without weights has the scale 0, and no division makes it NaN."""
    rows, scale = quantise_weight(torch.zeros(3, 4))
    assert not rows.any()
    assert not scale.any()


@settings(max_examples=40, deadline=None)
@given(WIDTHS, WIDTHS, st.integers(0, 20), st.booleans(), st.integers(0, 99))
def test_int8_layers_have_the_bits_of_the_reference(inputs, outputs, count, positive, seed):
    """For any widths and number of rows, with rows of zeros among them, and inputs of either sign."""
    if load_kernel() is None:
        pytest.skip("layers run in torch here")
    layer = make_layer(inputs, outputs, "int8", positive=positive, seed=seed)
    rows = torch.randn(count, inputs, generator=torch.Generator().manual_seed(seed))
    rows = rows.abs() if positive else rows
    rows[::3] = 0.0
    assert torch.equal(run(layer, rows), layer.apply(rows))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize(("inputs", "outputs", "count"), [(1, 1, 1), (479, 70, 13), (33, 129, 200), (64, 16, 6)])
def test_layers_are_the_reference_on_every_instruction_set(instruction_set, precision, inputs, outputs, count):
    """Int8 to the bit, bf16 and fp32 but for the order of their sums; a stride wider than the rows is right as well."""
    layer = make_layer(inputs, outputs, precision)
    rows = torch.randn(count, inputs + 5, generator=torch.Generator().manual_seed(1))[:, :inputs]
    found, expected = run(layer, rows), layer.apply(rows)
    if precision == "int8":
        assert torch.equal(found, expected)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * inputs**0.5)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_what_is_not_finite_shows_in_its_own_row_alone(precision):
    """NaN and infinity make a row of NaN, as in fp32, or infinity; the others keep their numbers."""
    if load_kernel() is None:
        pytest.skip("layers run in torch here")
    layer = make_layer(40, 20, precision)
    layer = Layer(layer.weight, layer.bias, precision)
    rows = torch.randn(4, 40)
    clean = run(layer, rows)
    rows[1, 7], rows[2, 39] = torch.nan, torch.inf
    found = run(layer, rows)
    assert found[1].isnan().all()
    assert not found[2].isfinite().any()
    assert torch.equal(found[[0, 3]], clean[[0, 3]])


@pytest.mark.parametrize("compute", ["bf16", "int8"])
def test_a_narrow_linear_stands_for_a_linear(compute):
    """Within its rounding, on rows that are not contiguous too; a small layer is the very layer in fp32."""
    torch.manual_seed(0)
    large, small = nn.Linear(64, 32), nn.Linear(8, 4)
    rows = torch.randn(64, 17).t()
    torch.testing.assert_close(NarrowLinear(large, compute)(rows), large(rows), rtol=0, atol=0.05)
    torch.testing.assert_close(NarrowLinear(small, compute)(rows[:, :8]), small(rows[:, :8]), rtol=1e-5, atol=1e-6)


def test_what_is_fast_ends_with_fp32():
    """Every machine has fp32; what is narrower comes first."""
    found = list_fast()
    assert found[-1] == "fp32"
    assert found == [one for one in ("int8", "bf16", "fp32") if one in found]
