"""Adam for rows of which a batch touches few."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from memrec_convert.finetune.row_adam import RowAdam

ROWS, DIM, RATE, EPS = 50, 4, 0.1, 1e-3


def draw_steps(steps, lookups, *, rows=ROWS):
    """Ids and factors of each step's loss."""
    draw = torch.Generator().manual_seed(steps)
    return [
        (torch.randint(0, rows, (lookups,), generator=draw), torch.randn(lookups, DIM, generator=draw))
        for _ in range(steps)
    ]


def train(optimizer, tables, steps, *, sparse):
    """Takes the steps; the loss is a sum of the looked-up rows' products with the factors, with every table."""
    for ids, factors in steps:
        for table in tables:
            table.grad = None
        loss = sum((functional.embedding(ids, table, sparse=sparse) * factors).sum() for table in tables)
        loss.backward()
        optimizer.step()


def test_it_is_adam_without_momentum():
    """Also for rows that many steps leave alone, and where a step has a row several times."""
    start = torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(0))
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    steps = draw_steps(40, 12)
    train(RowAdam([{"params": [ours], "lr": RATE}], eps=EPS), [ours], steps, sparse=True)
    train(torch.optim.Adam([theirs], lr=RATE, betas=(0.0, 0.999), eps=EPS), [theirs], steps, sparse=False)
    assert (ours - start).abs().max() > 1
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_rows_that_no_step_has_stay():
    """To the bit."""
    table = nn.Parameter(torch.randn(ROWS, DIM))
    before = table.detach().clone()
    steps = draw_steps(5, 8, rows=ROWS // 2)
    train(RowAdam([{"params": [table], "lr": RATE}]), [table], steps, sparse=True)
    seen = torch.cat([ids for ids, _ in steps]).unique()
    moved = (table.detach() != before).any(dim=1).nonzero().squeeze(1)
    assert moved.tolist() == seen.tolist()


@pytest.mark.parametrize("workers", [2, 5])
def test_threads_change_no_bit(workers):
    """Several tables are moved side by side."""
    found = []
    for threads in (1, workers):
        tables = [nn.Parameter(torch.ones(ROWS, DIM) * number) for number in range(4)]
        train(RowAdam([{"params": tables, "lr": RATE}], workers=threads), tables, draw_steps(6, 20), sparse=True)
        found.append(torch.stack([table.detach() for table in tables]))
    assert torch.equal(*found)


def test_a_table_without_a_gradient_stays_and_groups_have_the_rate():
    """As with torch's own optimizers."""
    used, idle = nn.Parameter(torch.ones(ROWS, DIM)), nn.Parameter(torch.ones(ROWS, DIM))
    optimizer = RowAdam([{"params": [used, idle], "lr": RATE}])
    steps = draw_steps(2, 8)
    train(optimizer, [used], steps[:1], sparse=True)
    optimizer.param_groups[0]["lr"] = 0.0
    after = used.detach().clone()
    train(optimizer, [used], steps[1:], sparse=True)
    assert not torch.equal(after, torch.ones(ROWS, DIM))
    assert torch.equal(used, after)
    assert torch.equal(idle, torch.ones(ROWS, DIM))
