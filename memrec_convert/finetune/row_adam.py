"""Adam for rows of which a batch touches few: a step costs what its batch has, not the table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from memrec_convert.parallel import Hands


class RowAdam(torch.optim.Optimizer):
    """Adam (Kingma and Ba, arXiv 1412.6980) without momentum, on parameters [rows, dim] whose gradients are sparse.

    A row's second moment decays with every step, as Adam's does, also with those that do not touch the row. Momentum
    would move rows long after they were seen: Adam's spreads a gradient over later steps, which sum to this one move.
    """

    def __init__(
        self, params: Iterable[Any], *, lr: float = 1e-3, beta: float = 0.999, eps: float = 1e-8, workers: int = 1
    ) -> None:
        super().__init__(params, {"lr": lr, "beta": beta, "eps": eps})
        self.hands = Hands(workers)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Moves the rows that the gradients name; sums of equal rows are taken in the order of the batch."""
        assert closure is None
        moves = [
            (rows, rows.grad, group) for group in self.param_groups for rows in group["params"] if rows.grad is not None
        ]
        self.hands.map(lambda move: self._move(*move), moves)

    @torch.no_grad()
    def _move(self, rows: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state, (rate, beta, eps) = self.state[rows], (group[name] for name in ("lr", "beta", "eps"))
        if not state:
            state["step"] = 0
            state["squares"] = torch.zeros_like(rows)
            state["moved"] = torch.zeros(len(rows), dtype=torch.int64)  # the step of a row's last move
        state["step"] += 1
        numbers, place = torch.unique(gradient._indices()[0], return_inverse=True)
        own = rows.new_zeros(len(numbers), rows.shape[1]).index_add_(0, place, gradient._values())
        decay = beta ** (state["step"] - state["moved"][numbers]).to(rows.dtype).unsqueeze(1)
        squares = state["squares"][numbers].mul_(decay).addcmul_(own, own, value=1 - beta)
        state["squares"][numbers] = squares
        state["moved"][numbers] = state["step"]
        own /= (squares / (1 - beta ** state["step"])).sqrt_().add_(eps)
        rows.index_add_(0, numbers, own, alpha=-rate)
