"""Adam for rows of which a batch touches few: a step costs what its batch has, not the table."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from memrec_convert.finetune.adam import SECOND_BETA, Stepper, has_plain_memory
from memrec_convert.kernels.loading import load_kernel


class RowAdam(Stepper):
    """Adam (Kingma and Ba, arXiv 1412.6980) without momentum, on parameters [rows, dim] whose gradients are sparse.

    A row's second moment decays with every step, as Adam's does, also with those that do not touch the row. Momentum
    would move rows long after they were seen: Adam's spreads a gradient over later steps, which sum to this one move.
    """

    def move(self, values: Tensor, gradient: Tensor, state: dict[str, Any], *, rate: float, eps: float) -> None:
        """Moves the rows that the gradient names; sums of equal rows are taken in the order of the batch."""
        if "squares" not in state:
            state["squares"] = torch.zeros_like(values)
            state["moved"] = torch.zeros(len(values), dtype=torch.int64)  # the step of a row's last move
            state["slots"] = torch.zeros(len(values), dtype=torch.int32)  # the kernel's own
        numbers, pulls, native = gradient._indices()[0].contiguous(), gradient._values().contiguous(), load_kernel()
        if native is None or not has_plain_memory(values, pulls):
            _move_in_torch(values, state, numbers, pulls, rate, eps)
            return
        held = [state[name].data_ptr() for name in ("squares", "moved", "slots")]
        told = torch.tensor([rate, SECOND_BETA, eps], dtype=torch.float64)
        found = (values.shape[1], numbers.data_ptr(), pulls.data_ptr(), len(numbers))
        native.move_rows(values.data_ptr(), *held, *found, state["step"], told.data_ptr())


def _move_in_torch(
    rows: Tensor, state: dict[str, Any], numbers: Tensor, pulls: Tensor, rate: float, eps: float
) -> None:
    """What the kernel does."""
    numbers, place = torch.unique(numbers, return_inverse=True)
    own = rows.new_zeros(len(numbers), rows.shape[1]).index_add_(0, place, pulls)
    decay = SECOND_BETA ** (state["step"] - state["moved"][numbers]).to(rows.dtype).unsqueeze(1)
    squares = state["squares"][numbers].mul_(decay).addcmul_(own, own, value=1 - SECOND_BETA)
    state["squares"][numbers] = squares
    state["moved"][numbers] = state["step"]
    own /= (squares / (1 - SECOND_BETA ** state["step"])).sqrt_().add_(eps)
    rows.index_add_(0, numbers, own, alpha=-rate)
