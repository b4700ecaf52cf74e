"""Requests to a compiled program: what fits comes through as it is, what does not is refused by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from memrec_convert.exports.request import CheckedNetwork

pytestmark = pytest.mark.usefixtures("operators")
PLAIN = {"dense": np.zeros((4, 3), np.float32), "ids": np.zeros((4, 2), np.int64)}
BAGS = {
    "dense": np.zeros((3, 2), np.float32),
    "ids_0": np.zeros(5, np.int64),
    "offsets_0": np.zeros(3, np.int64),
    "weights_0": np.zeros(5, np.float32),
    "ids_1": np.zeros(3, np.int64),  # one id per sample
}
DENSE, IDS = torch.rand(3, 2), torch.arange(5)
OFFSETS, WEIGHTS, SINGLE = torch.tensor([0, 2, 2]), torch.rand(5), torch.arange(3)


class Same(nn.Module):
    """A network that answers with its inputs."""

    def forward(self, *tensors):
        """All of them."""
        return tensors


def ask(feeds, *tensors):
    """What a checked network hands on."""
    return CheckedNetwork(Same(), feeds)(*tensors)


@pytest.mark.parametrize("samples", [0, 1, 7])
def test_requests_that_fit_come_through(samples):
    """Any number of samples; int32 ids and strided tensors become what compiled code expects."""
    dense, ids = torch.rand(3, samples).t(), torch.arange(2 * samples, dtype=torch.int32).reshape(samples, 2)
    taken = ask(PLAIN, dense, ids)
    assert torch.equal(taken[0], dense)
    assert taken[0].is_contiguous()
    assert torch.equal(taken[1], ids.long())
    assert taken[1].dtype == torch.int64
    assert taken[0].data_ptr() != dense.data_ptr() or not samples


def test_bags_that_fit_come_through():
    """Ids of any number, offsets, weights and single ids; every other element of a longer tensor too."""
    given = [DENSE, IDS, OFFSETS, WEIGHTS, SINGLE]
    for taken, wanted in zip(ask(BAGS, *given), given, strict=True):
        assert torch.equal(taken, wanted)
    spread = [torch.stack([one, one + 1], dim=-1)[..., 0] for one in given]
    for taken, wanted in zip(ask(BAGS, *spread), given, strict=True):
        assert torch.equal(taken, wanted)


@pytest.mark.parametrize(
    ("dense", "ids", "said"),
    [
        (torch.rand(8, 3), torch.zeros(7, 2, dtype=torch.int64), "ids has 7 entries, not 8 as the tensors before it"),
        (torch.rand(8, 2), torch.zeros(8, 2, dtype=torch.int64), "dense is 2 wide, and the network takes 3"),
        (torch.rand(8, 3), torch.zeros(8, 3, dtype=torch.int64), "ids is 3 wide, and the network takes 2"),
        (torch.rand(8, 3).double(), torch.zeros(8, 2, dtype=torch.int64), "dense must be float32"),
        (torch.rand(8, 3).half(), torch.zeros(8, 2, dtype=torch.int64), "dense must be float32"),
        (torch.rand(8, 3), torch.zeros(8, 2), "ids must be int64 or int32"),
        (torch.rand(8, 3), torch.zeros(8, 2, dtype=torch.int16), "ids must be int64 or int32"),
        (torch.rand(8, 3), torch.zeros(8, dtype=torch.int64), "ids must have 2 dimensions"),
        (torch.rand(3), torch.zeros(1, 2, dtype=torch.int64), "dense must have 2 dimensions"),
        (torch.tensor(1.0), torch.zeros(1, 2, dtype=torch.int64), "dense must have 2 dimensions"),
    ],
)
def test_requests_that_do_not_fit_are_refused(dense, ids, said):
    """Other numbers of samples, widths, dtypes and dimensions."""
    with pytest.raises(RuntimeError, match=said):
        ask(PLAIN, dense, ids)


@pytest.mark.parametrize("bytes_left", [0, 8])
def test_a_storage_that_was_cut_is_not_read(bytes_left):
    """A tensor may outlive a part of its memory; what is not there any more is not read."""
    for place in (0, 1):
        given = [torch.rand(8, 3), torch.zeros(8, 2, dtype=torch.int64)]
        given[place].untyped_storage().resize_(bytes_left)
        with pytest.raises(RuntimeError, match="has a storage smaller than itself"):
            ask(PLAIN, *given)


@pytest.mark.parametrize("place", [0, 1])
def test_tensors_without_values_are_refused(place):
    """A tensor of the device meta has a shape alone."""
    given = [torch.rand(8, 3), torch.zeros(8, 2, dtype=torch.int64)]
    given[place] = given[place].to("meta")
    with pytest.raises(RuntimeError, match="on the device meta"):
        ask(PLAIN, *given)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({1: IDS[:4], 3: WEIGHTS[:4]}, None),
        ({1: IDS[:1], 3: WEIGHTS[:1]}, "offsets_0 must stay within the ids of its input"),
        ({2: torch.tensor([0, 2])}, "offsets_0 has 2 entries, not 3"),
        ({2: torch.tensor([1, 2, 2])}, "offsets_0 must begin with 0 and not fall"),
        ({2: torch.tensor([0, 2, 1])}, "offsets_0 must begin with 0 and not fall"),
        ({2: torch.tensor([0, 2, 6])}, "offsets_0 must stay within the ids of its input"),
        ({2: torch.tensor([0.0, 2, 2])}, "offsets_0 must be int64 or int32"),
        ({3: WEIGHTS[:4]}, "weights_0 has 4 entries, not 5 as its ids"),
        ({3: WEIGHTS.double()}, "weights_0 must be float32"),
        ({4: SINGLE[:2]}, "ids_1 has 2 entries, not 3"),
        ({0: DENSE[:0], 2: OFFSETS[:0], 4: SINGLE[:0]}, "offsets_0 must stay within the ids"),
    ],
)
def test_bags_that_do_not_fit_are_refused(changed, said):
    """Each tensor against those before it."""
    given = [changed.get(place, one) for place, one in enumerate([DENSE, IDS, OFFSETS, WEIGHTS, SINGLE])]
    if said is None:
        assert torch.equal(ask(BAGS, *given)[1], changed[1])
        return
    with pytest.raises(RuntimeError, match=said):
        ask(BAGS, *given)
