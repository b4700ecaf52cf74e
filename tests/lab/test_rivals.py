"""Every rival: its bytes are real, it decodes from nothing else, and it loses what it said it would."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from memrec_convert.encoding.spec import count_bytes
from memrec_convert.lab.held import BlockInt8, RivalBag
from memrec_convert.lab.rivals import RIVALS
from memrec_convert.lab.rivals.clusters import fit_codebook
from memrec_convert.lab.rivals.int4 import clip_greedily
from memrec_convert.lab.rivals.plain import plain_options
from memrec_convert.lab.rivals.product import Cut, fit_product
from memrec_convert.lab.rivals.rival import sizes_up_to

NAMES = [rival.name for rival in RIVALS]


def all_options(rival, view):
    """What every rival may do, and what this one adds."""
    return [*plain_options(view), *rival.options(view)]


def a_few(options):
    """Options from the smallest to the largest, five at most."""
    ordered = sorted(options, key=lambda option: option.nbytes)
    return [ordered[place] for place in sorted({0, *np.linspace(0, len(ordered) - 1, 5).astype(int).tolist()})]


def decoded(table, view):
    """All rows as the table holds them."""
    return table.lookup(torch.arange(view.count))


def loss(table, view):
    """What the table loses, in the unit of the options."""
    return view.total(lambda piece: decoded(table, view)[piece])


def test_names_are_different():
    """Each rival has its own row."""
    assert len(set(NAMES)) == len(NAMES)


@pytest.mark.parametrize("rival", RIVALS, ids=NAMES)
def test_a_built_table_has_the_planned_tensors(rival, view):
    """Dtypes, shapes and so the bytes are those that the search counted with."""
    for option in a_few(all_options(rival, view)):
        table = RivalBag(option.build())
        assert table.shapes() == option.shapes, option.label
        held = sum(tensor.numel() * tensor.element_size() for tensor in table.state_dict().values())
        assert held == count_bytes(option.shapes.values()) < option.nbytes


@pytest.mark.parametrize("rival", RIVALS, ids=NAMES)
def test_rows_are_decoded_from_the_file_s_tensors_alone(rival, view, other_view):
    """A table built from other rows gives this one's once it holds this one's tensors."""
    others = {option.label: option for option in all_options(rival, other_view)}
    compared = 0
    for option in a_few(all_options(rival, view)):
        if option.label in others:
            table, other = RivalBag(option.build()), RivalBag(others[option.label].build())
            other.load_state_dict(table.state_dict())
            other.refresh()
            assert torch.equal(decoded(other, view), decoded(table, view))
            compared += 1
    assert compared


@pytest.mark.parametrize("rival", RIVALS, ids=NAMES)
def test_what_a_table_learns_stays_in_the_table(rival, view):
    """Numbers that change do so in the file's tensors: never in the original's rows, nor in another table's."""
    for option in a_few(all_options(rival, view)):
        before, other = view.rows.clone(), RivalBag(option.build())
        kept = decoded(other, view).clone()
        table = RivalBag(option.build())
        table.store({name: values + 1 for name, values in table.values.items()})
        assert not torch.equal(decoded(table, view), kept)
        assert torch.equal(view.rows, before), option.label
        assert torch.equal(decoded(other, view), kept), option.label


@pytest.mark.parametrize("rival", RIVALS, ids=NAMES)
def test_options_lose_about_what_they_promise(rival, view):
    """The split trusts these numbers. A codebook fitted anew to the rows that were chosen may do better."""
    energy = float(view.survey.values.sum())
    for option in a_few(all_options(rival, view)):
        found = loss(RivalBag(option.build()), view)
        assert found <= 1.05 * option.distortion + 1e-3 * energy, option.label
        assert found >= 0.6 * option.distortion - 1e-3 * energy, option.label


@pytest.mark.parametrize("rival", RIVALS, ids=NAMES)
def test_no_row_is_lost_to_more_bytes(rival, view):
    """The largest option of each rival loses less than the mean row; what all may do is among the options."""
    options = all_options(rival, view)
    mean = next(option for option in options if option.label == "mean row")
    assert max(options, key=lambda option: option.nbytes).distortion < 0.5 * mean.distortion
    assert {"mean row", "int8 rows", "fp32 rows"} <= {option.label for option in options}


def test_bags_are_summed_with_their_weights(view):
    """A rival's table stands where an nn.EmbeddingBag stood."""
    table = RivalBag(plain_options(view)[1].build())
    bag = torch.nn.EmbeddingBag.from_pretrained(view.rows, mode="sum")
    ids, offsets, weights = torch.tensor([3, 5, 3, 9]), torch.tensor([0, 1, 1]), torch.tensor([1.0, 2.0, 0.5, 1.5])
    assert torch.allclose(table(ids, offsets, weights), bag(ids, offsets, weights))
    assert torch.allclose(table(ids, torch.arange(4)), view.rows[ids])


def test_greedy_clipping_never_hurts(view):
    """The clipped range is at least as good as the full one, and better where a row has an outlier."""
    rows = view.rows.clone()
    rows[:, 0] += 3.0
    codes, ranges = clip_greedily(rows)
    clipped = (codes * ranges[:, 1:] + ranges[:, :1] - rows).square().sum(dim=1)
    low, scale = rows.amin(dim=1, keepdim=True), (rows.amax(dim=1, keepdim=True) - rows.amin(dim=1, keepdim=True)) / 15
    plain = (((rows - low) / scale).round() * scale + low - rows).square().sum(dim=1)
    assert bool((clipped <= plain * 1.01 + 1e-4).all())
    assert float(clipped.mean()) < float(plain.mean())
    assert int(codes.min()) >= 0
    assert int(codes.max()) <= 15


def test_product_codes_see_each_other_s_errors(view):
    """In a metric that couples sub-vectors, codes chosen in turn lose less than codes chosen apart."""
    rows = view.sample.rows
    book = fit_product(view, Cut(4, 4, view.dim), rows.residual, rows.weights)
    codes = book.encode(rows.residual)
    apart = torch.stack([fit_assign(book, part, rows.residual) for part in range(4)], dim=1)
    together = view.estimate(view.distances(rows.residual - book.decode(codes)))
    assert together < view.estimate(view.distances(rows.residual - book.decode(apart)))


def fit_assign(book, part, points):
    """The nearest entry of one sub-vector in the identity metric."""
    own = book.cut.column(part)
    entries = book.entries[part * book.cut.size : (part + 1) * book.cut.size]
    return torch.cdist(points[:, own], entries).argmin(dim=1)


def test_codebooks_are_the_same_for_the_same_seed(view):
    """Nothing depends on the hour."""
    rows = view.sample.rows
    first, second = (fit_codebook(rows.residual, rows.weights, view.survey.metric, 16, seed=(3,)) for _ in range(2))
    assert torch.equal(first.entries, second.entries)


def test_int8_blocks_round_to_half_a_step():
    """Each block has its own scale, so a large block does not coarsen a small one."""
    values = torch.cat([torch.randn(4, 6), 100 * torch.randn(4, 6)])
    storage = BlockInt8(2)
    found = storage.decode(storage.encode(values))
    for block in (slice(0, 4), slice(4, 8)):
        step = float(values[block].abs().max()) / 127
        assert float((found[block] - values[block]).abs().max()) <= 0.5001 * step


def test_sizes_cover_the_range():
    """From the least to the most, each once, in steps of a few percent."""
    sizes = sizes_up_to(1000)
    assert sizes[0] == 8
    assert sizes[-1] == 1000
    assert sizes == sorted(set(sizes))
    assert max(b / a for a, b in pairwise(sizes)) < 1.13
    assert sizes_up_to(5) == []
