"""Known networks in one order of sums: the plain network's answers but for rounding, the same bits everywhere."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from wide_networks import WIDE, draw_inputs, make_network

from memrec_convert.kernels.loading import load_kernel
from memrec_convert.models import ClickNetwork, ordered_products

NARROW = {"MKL_ENABLE_INSTRUCTIONS": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MEMREC_KERNEL": "scalar"}


def differentiate(network: ClickNetwork) -> tuple[Tensor, ...]:
    """Logits of 70 samples, and their gradients with respect to the tables' vectors."""
    dense, ids = draw_inputs(network, 70)
    vectors = [one.detach().requires_grad_() for one in network.embed(ids)]
    logits = network.interact(dense, vectors)
    return logits.detach(), *torch.autograd.grad(logits.square().sum(), vectors)


def digest_all() -> str:
    """Of all networks' logits and gradients, and of the logits without gradients."""
    found = hashlib.sha256()
    for name in WIDE:
        network = make_network(name)
        with ordered_products(network), torch.no_grad():
            found.update(network(*draw_inputs(network, 70)).numpy().tobytes())
        with ordered_products(network):
            for one in differentiate(network):
                found.update(one.numpy().tobytes())
    return found.hexdigest()


@pytest.mark.parametrize("name", WIDE)
def test_answers_and_gradients_are_the_plain_network_s(name):
    """With gradients and without, and afterwards everything is as before, also after an error."""
    network = make_network(name)
    plain, inputs = differentiate(network), draw_inputs(network, 70)
    before = network(*inputs)
    with ordered_products(network):
        for mine, theirs in zip(differentiate(network), plain, strict=True):
            assert torch.allclose(mine, theirs, rtol=1e-3, atol=1e-4)
        found = differentiate(network)[0]
        with torch.no_grad():
            assert torch.equal(network(*inputs), found)
    with pytest.raises(RuntimeError, match="on the way"), ordered_products(network, torch.nn.Linear(1, 1)):
        raise RuntimeError("on the way")
    assert network.ordered is None
    assert torch.equal(network(*inputs), before)


@pytest.mark.skipif(load_kernel() is None, reason="lookups run in torch here")
def test_bits_rest_on_no_blas():
    """A process whose torch, BLAS and kernel are told of a lesser machine has the same bits."""
    code = "import test_ordered_products as own; print(own.digest_all())"
    folder = str(Path(__file__).parent)
    other = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | NARROW | {"PYTHONPATH": folder},
    )
    assert other.stdout.strip() == digest_all()
