"""torch as the conversion needs it, and as the caller has set it while the caller's own code runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from memrec_convert.evaluation.scoring import Forward
from memrec_convert.parallel import plain_tensors


@contextmanager
def plain_torch() -> Iterator[Callable[[Forward], Forward]]:
    """Gradients on, no inference mode, no autocast, float32 on the CPU by default, nothing compiled.

    Gives what lets a forward run under the caller's default dtype and autocast all the same.
    """
    dtype, autocast = torch.get_default_dtype(), torch.is_autocast_enabled("cpu")
    narrow = torch.get_autocast_dtype("cpu")

    def as_called(forward: Forward) -> Forward:
        def run(model: nn.Module, batch: Any) -> Tensor:  # noqa: ANN401 - what the loader yields
            inside = torch.get_default_dtype()
            torch.set_default_dtype(dtype)
            try:
                with torch.autocast("cpu", dtype=narrow, enabled=autocast):
                    return forward(model, batch)
            finally:
                torch.set_default_dtype(inside)

        return run

    with ExitStack() as stack:
        for one in (torch.inference_mode(False), torch.enable_grad(), torch.autocast("cpu", enabled=False)):
            stack.enter_context(one)
        if hasattr(torch.compiler, "set_stance"):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(plain_tensors())
        yield as_called
