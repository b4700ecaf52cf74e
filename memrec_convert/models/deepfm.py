"""DeepFM in torch: first order, factorisation machine over the tables, and an MLP on tables and dense features.

"DeepFM: A Factorization-Machine based Neural Network for CTR Prediction", https://arxiv.org/abs/1703.04247
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn

from memrec_convert.errors import ModelError
from memrec_convert.models.narrow import list_layers
from memrec_convert.models.network import ClickNetwork, build_mlp, check_top, read_widths
from memrec_convert.models.pipeline import FACTORS, PipelineForm

LINEAR_INPUTS = ("rows", "dense", "none")


class DeepFM(ClickNetwork):
    """A DeepFM after an architecture; the output is the logit.

    The first `fields` tables are the factors; those after them are one column wide and add their rows to the logit.
    `linear`: what `first_order` [1, n] weighs: all factors side by side ("rows"), the dense features, or nothing.
    All constants of the logit are in the last bias of `top`.
    """

    def __init__(self, architecture: Mapping[str, object], tables: Iterable[nn.Module]) -> None:
        (dense,), top = read_widths(architecture, "bottom", least=1, narrowest=0)[:1], read_widths(architecture, "top")
        super().__init__(architecture, tables)
        fields, linear = architecture.get("fields"), architecture.get("linear")
        dims = [dim for _, dim in self.shapes]
        if not isinstance(fields, int) or not 0 < fields <= len(dims) or linear not in LINEAR_INPUTS:
            raise ModelError(f"architecture: {fields!r} fields with a linear part over {linear!r} make no DeepFM.")
        if len(set(dims[:fields])) != 1 or set(dims[fields:]) - {1}:
            raise ModelError(f"architecture > tables: {fields} of one width and others of 1 are needed, found {dims}.")
        check_top(top, sum(dims[:fields]) + dense)
        self.fields, self.linear, self.dense_inputs = fields, linear, dense
        self.top = build_mlp(top, last_relu=False)
        inputs = {"rows": sum(dims[:fields]), "dense": dense, "none": 0}[str(linear)]
        self.first_order = nn.Parameter(torch.zeros(1, inputs)) if inputs else None

    def _interact(self, dense: Tensor, vectors: Sequence[Tensor] | Tensor) -> Tensor:
        """Logits [B] of dense features [B, n] and one [B, dim] per table."""
        parts = list(vectors.unbind(1)) if isinstance(vectors, Tensor) else list(vectors)
        factors = torch.stack(parts[: self.fields], dim=1)
        rows = factors.flatten(1)
        logits: Tensor = self.run_part(self.top, torch.cat([rows, dense], dim=1)) + self._pairs(factors)
        if self.first_order is not None:
            logits = logits + self.multiply(rows if self.linear == "rows" else dense, self.first_order)
        for part in parts[self.fields :]:
            logits = logits + part
        return logits.flatten()

    def pipeline_form(self) -> PipelineForm:
        """The dense part as the kernel runs it."""
        return PipelineForm(
            FACTORS,
            self.dense_inputs,
            top=list_layers(self.top, self.compute),
            fields=self.fields,
            linear={"none": 0, "rows": 1, "dense": 2}[str(self.linear)],
            first_order=[] if self.first_order is None else self.first_order.detach().flatten().tolist(),
        )

    def _pairs(self, factors: Tensor) -> Tensor:
        """Sum of the products of all pairs of factors [B, T, dim]: [B, 1]."""
        square_of_sum, sum_of_squares = factors.sum(dim=1).square(), factors.square().sum(dim=1)
        products = square_of_sum - sum_of_squares
        if self.ordered is not None:
            return self.multiply(products, _make_halves(products.shape[1]))
        return 0.5 * products.sum(dim=1, keepdim=True)


@lru_cache(maxsize=64)
def _make_halves(width: int) -> Tensor:
    return torch.full((1, width), 0.5, dtype=torch.float32, device="cpu")
