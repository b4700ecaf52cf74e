"""Adam on parameters with dense gradients, and what the kernel and torch each make of a step."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from memrec_convert.finetune import row_adam
from memrec_convert.finetune.adam import Adam
from memrec_convert.finetune.row_adam import RowAdam

SHAPES = [(7,), (30, 5), (1, 64), (0, 3)]


def draw(seed):
    """Numbers of every shape."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in SHAPES]


def take_steps(optimizer, parameters, *, steps=20):
    """Steps by gradients of changing length; where the parameters then are."""
    for step in range(steps):
        for parameter, gradient in zip(parameters, draw(step + 1), strict=True):
            parameter.grad = gradient * 10.0 ** (step % 3 - 2)
        optimizer.step()
    return [one.detach() for one in parameters]


def test_it_is_torchs():
    """Two rates and epsilons; the parameters end where torch's Adam brings them."""
    ours, theirs = ([nn.Parameter(one) for one in draw(0)] for _ in range(2))
    groups = [[{"params": own[:2], "lr": 0.1}, {"params": own[2:], "lr": 0.02, "eps": 1e-2}] for own in (ours, theirs)]
    found, wanted = take_steps(Adam(groups[0]), ours), take_steps(torch.optim.Adam(groups[1]), theirs)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    assert (found[1] - draw(0)[1]).abs().max() > 0.5


def test_threads_change_no_bit():
    """Parameters are moved side by side."""
    found = []
    for workers in (1, 2, 5):
        own = [nn.Parameter(one) for one in draw(0)]
        found.append(take_steps(Adam([{"params": own, "lr": 0.1}], workers=workers), own))
    assert all(torch.equal(*pair) for other in found[1:] for pair in zip(found[0], other, strict=True))


def test_gradients_of_any_layout_are_taken():
    """A gradient that lies across memory."""
    plain, across = (nn.Parameter(torch.ones(4, 6)) for _ in range(2))
    pulls = torch.randn(6, 4, generator=torch.Generator().manual_seed(3))
    plain.grad, across.grad = pulls.T.contiguous(), pulls.T
    for one in (plain, across):
        Adam([{"params": [one], "lr": 0.1}]).step()
    assert torch.equal(plain, across)


@pytest.mark.parametrize("lie", [lambda one: one.t(), lambda one: one.repeat(1, 2)[:, ::2]], ids=["across", "apart"])
def test_parameters_of_any_layout_are_moved(lie):
    """Parameters, and gradients like them, that do not lie row by row without gaps."""
    start = torch.randn(6, 6, generator=torch.Generator().manual_seed(4))
    plain, other = nn.Parameter(lie(start).contiguous()), nn.Parameter(lie(start))
    assert not other.is_contiguous()
    optimizers = [Adam([{"params": [one], "lr": 0.1}]) for one in (plain, other)]
    for step in range(10):
        pulls = torch.randn(6, 6, generator=torch.Generator().manual_seed(step))
        plain.grad, other.grad = lie(pulls).contiguous(), lie(pulls)
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(plain, other, rtol=1e-5, atol=1e-6)


def test_threads_move_rows_without_the_kernel(monkeypatch):
    """Each by itself, where gradients may be recorded."""
    monkeypatch.setattr(row_adam, "load_kernel", lambda: None)
    tables = [nn.Parameter(torch.ones(10, 3)) for _ in range(4)]
    for table in tables:
        table.grad = torch.sparse_coo_tensor([[1, 2]], torch.ones(2, 3), (10, 3), check_invariants=True)
    RowAdam([{"params": tables, "lr": 0.1}], workers=2).step()
    assert all((table[1] < 1).all() and (table[0] == 1).all() for table in tables)


def test_rows_move_alike_with_and_without_the_kernel(monkeypatch):
    """A row that is there several times, one after a long rest, one that is never there."""
    found = []
    for native in (True, False):
        if not native:
            monkeypatch.setattr(row_adam, "load_kernel", lambda: None)
        table = nn.Parameter(torch.ones(9, 5))
        optimizer, generator = RowAdam([{"params": [table], "lr": 0.1}], eps=1e-3), torch.Generator().manual_seed(1)
        for step in range(30):
            ids = torch.tensor([[0, 3, 3, 7, 3, 0]]) if step % 10 else torch.tensor([[8, 1, 8, 2, 5, 4]])
            pulls = torch.randn(6, 5, generator=generator)
            table.grad = torch.sparse_coo_tensor(ids, pulls, (9, 5), check_invariants=True)
            optimizer.step()
        found.append(table.detach())
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)
    assert torch.equal(found[0][6], torch.ones(5))


def test_no_optimizer_imports_torchs_compiler():
    """It takes longer than many a training."""
    words = (
        "import sys, torch\n"
        "from memrec_convert.finetune.adam import Adam\n"
        "one = torch.nn.Parameter(torch.ones(3))\n"
        "one.grad = torch.ones(3)\n"
        "Adam([{'params': [one], 'lr': 0.1}]).step()\n"
        "print(one[0].item() < 1, 'torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]
