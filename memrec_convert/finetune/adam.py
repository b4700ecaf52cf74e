"""Adam without torch.optim's classes, the first of which imports torch's compiler, for more than a second."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim.adam import adam

from memrec_convert.parallel import Hands

FIRST_BETA, SECOND_BETA = 0.9, 0.999


class Optimizer(Protocol):
    """What the training loop asks of an optimizer; those of torch.optim have it too.

    param_groups: {"params": tensors, "lr": their learning rate, ...} each
    """

    param_groups: list[dict[str, Any]]

    def step(self) -> Any:  # noqa: ANN401 - torch's gives a loss
        """Moves the parameters by their gradients."""


class Stepper(ABC):
    """An optimizer that moves each parameter by itself, several side by side.

    groups have "params" and "lr" and may have "eps"; `workers` threads take parameters and change no bit.
    """

    def __init__(self, groups: Sequence[Mapping[str, Any]], *, eps: float = 1e-8, workers: int = 1) -> None:
        self.param_groups = [{"eps": eps, **group} for group in groups]
        self.state: dict[int, dict[str, Any]] = {}
        self.hands = Hands(workers)

    def step(self) -> None:
        """Moves all parameters that have a gradient."""
        moves = [(one, group) for group in self.param_groups for one in group["params"] if one.grad is not None]
        for one, _ in moves:
            state = self.state.setdefault(id(one), {"step": 0})
            state["step"] += 1
        self.hands.map(lambda move: self._move(*move), moves)

    @torch.no_grad()  # of the thread that it runs in
    def _move(self, values: Tensor, group: Mapping[str, Any]) -> None:
        assert values.grad is not None
        self.move(values, values.grad, self.state[id(values)], rate=float(group["lr"]), eps=float(group["eps"]))

    @abstractmethod
    def move(self, values: Tensor, gradient: Tensor, state: dict[str, Any], *, rate: float, eps: float) -> None:
        """Moves one parameter; state["step"] counts its steps from 1, and the rest of `state` is the optimizer's."""


class Adam(Stepper):
    """Adam (Kingma and Ba, arXiv 1412.6980) on float32 parameters with dense gradients."""

    def move(self, values: Tensor, gradient: Tensor, state: dict[str, Any], *, rate: float, eps: float) -> None:
        """As torch's fused Adam, which takes memory as it lies: parameters that lie otherwise go without it."""
        fused = values.is_contiguous() and values.device.type == "cpu"
        if "means" not in state:
            state["means"], state["squares"] = torch.zeros_like(values), torch.zeros_like(values)
        adam(
            [values],
            [gradient.contiguous() if fused else gradient],
            [state["means"]],
            [state["squares"]],
            [],
            [torch.tensor(float(state["step"] - 1))],
            foreach=False,
            fused=fused,
            lr=rate,
            eps=eps,
            beta1=FIRST_BETA,
            beta2=SECOND_BETA,
            weight_decay=0.0,
            amsgrad=False,
            maximize=False,
        )


def has_plain_memory(values: Tensor, gradient: Tensor) -> bool:
    """Whether the kernel can move these values in place."""
    return values.is_contiguous() and values.device.type == "cpu" and values.dtype == gradient.dtype == torch.float32
