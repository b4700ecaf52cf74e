"""Whole networks through the kernel: the numbers of torch, whatever the block, the threads or the batch."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from wide_networks import ROWS, WIDE, draw_inputs, make_network

from memrec_convert.errors import ModelError
from memrec_convert.models import settle_compute

NARROW = ("bf16", "int8")


@pytest.fixture
def threads():
    """torch's number of threads is the test's to change."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def need_the_kernel(network, dense, ids):
    """Skips where networks run in torch, whose sums depend on the batch: without the kernel, or with an old torch."""
    vectors = torch.cat(list(network.embed(ids)), dim=1)
    if network._pipeline.run(network, None, dense, vectors) is None:
        pytest.skip("networks run in torch here: there is no kernel, or it cannot read this torch's tensors")


@pytest.mark.parametrize("samples", [0, 1, 7, 200])
@pytest.mark.parametrize("compute", NARROW)
@pytest.mark.parametrize("name", WIDE)
def test_the_kernel_computes_what_torch_does(name, compute, samples):
    """Logits of the torch form at that precision, for an empty batch, one sample and many."""
    network = make_network(name, compute)
    dense, ids = draw_inputs(network, samples)
    need_the_kernel(network, dense, ids)
    vectors = network.embed(ids)
    found, expected = network.interact(dense, vectors), network._interact(dense, vectors)
    assert found.shape == (samples,)
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)
    network.compute = "fp32"
    assert samples == 0 or not torch.equal(found, network(dense, ids))


@pytest.mark.parametrize("compute", NARROW)
@pytest.mark.parametrize("name", WIDE)
def test_blocks_and_threads_change_no_bit(name, compute, threads):
    """A sample's logit does not depend on the block that it falls into, nor on who computes it."""
    network = make_network(name, compute)
    dense, ids = draw_inputs(network, 500)
    need_the_kernel(network, dense, ids)
    found = []
    for count, block in ((1, 0), (2, 0), (1, 1), (2, 7), (1, 500)):
        torch.set_num_threads(count)
        network._pipeline.block = block
        found.append(network(dense, ids))
    assert all(torch.equal(one, found[0]) for one in found)
    assert torch.equal(network(dense[:9], ids[:9]), found[0][:9])


@pytest.mark.parametrize("compute", NARROW)
def test_a_changed_weight_shows(compute):
    """Written in place, replaced by load_state_dict, or given another precision: no copy outlives its weights."""
    network = make_network("dlrm, lower", compute)
    dense, ids = draw_inputs(network, 5)
    before = network(dense, ids)
    network.top[0].weight.mul_(2)
    doubled = network(dense, ids)
    assert not torch.equal(doubled, before)
    network.compute = "int8" if compute == "bf16" else "bf16"
    assert not torch.equal(network(dense, ids), doubled)
    state = {name: torch.zeros_like(tensor) for name, tensor in network.state_dict().items()}
    network.load_state_dict(state, assign=True)
    assert not network(dense, ids).any()


def test_copies_have_pipelines_of_their_own():
    """A deep copy and a pickled one give the same logits and do not follow the original."""
    network = make_network("dlrm, lower", "int8")
    dense, ids = draw_inputs(network, 5)
    before = network(dense, ids)
    copies = copy.deepcopy(network), pickle.loads(pickle.dumps(network))
    network.top[0].weight.zero_()
    assert all(torch.equal(one(dense, ids), before) for one in copies)


def test_what_learns_is_computed_in_fp32():
    """A gradient is asked of the dense part: the logits are those of fp32, and it arrives."""
    network = make_network("dlrm, lower", "int8").requires_grad_(True)
    dense, ids = draw_inputs(network, 5)
    logits = network(dense, ids)
    logits.sum().backward()
    network.compute = "fp32"
    assert torch.equal(network(dense, ids), logits)
    assert all(parameter.grad is not None for parameter in network.top.parameters())


def test_another_dtype_takes_the_way_of_torch():
    """Dense features that the kernel does not read: the layers complain as they do in fp32."""
    network = make_network("dlrm, lower", "int8")
    dense, ids = draw_inputs(network, 3)
    with pytest.raises(RuntimeError, match="dtype"):
        network(dense.double(), ids)


def test_ids_outside_their_table_are_refused_as_ever():
    """The error names the table's ids, not the pipeline."""
    network = make_network("dlrm, lower", "int8")
    dense, ids = draw_inputs(network, 3)
    ids[1, 2] = ROWS
    with pytest.raises((IndexError, RuntimeError)):
        network(dense, ids)


def test_a_precision_that_does_not_exist_is_refused():
    """One sentence with what there is; auto takes what is fast here, and a model without the choice takes none."""
    network = make_network("dlrm, lower")
    with pytest.raises(ModelError, match="compute is 'fp8'; expected fp32, bf16, int8 or auto"):
        settle_compute(network, "fp8")
    settle_compute(network, "auto")
    assert network.compute in ("fp32", "bf16", "int8")
    with pytest.raises(ModelError, match="Linear cannot be computed in int8"):
        settle_compute(torch.nn.Linear(2, 2), "int8")


def test_a_slow_precision_warns_once(monkeypatch):
    """Forced where the processor has no instructions for it: it works, and says so."""
    network = make_network("dlrm, lower")
    monkeypatch.setattr("memrec_convert.models.list_fast", lambda: ["fp32"])
    with pytest.warns(RuntimeWarning, match="no fast int8 products, so the dense part is slow"):
        settle_compute(network, "int8")
    dense, ids = draw_inputs(network, 3)
    assert network(dense, ids).isfinite().all()


@pytest.mark.parametrize("compute", ["fp32", *NARROW])
@pytest.mark.parametrize("extra", [-1, 1])
def test_ids_for_other_inputs_than_the_models_are_refused(compute, extra):
    """A column too many or too few is a sentence at every precision, never the score of other columns."""
    network = make_network("dlrm, lower", compute)
    dense, ids = draw_inputs(network, 3)
    wrong = torch.cat([ids, ids[:, :1]], dim=1) if extra > 0 else ids[:, :-1]
    with pytest.raises(ModelError, match="the model has"):
        network(dense, wrong)
