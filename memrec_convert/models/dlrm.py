"""DLRM in torch, with whatever stands for its tables: bottom MLP, embedding stage, interaction, top MLP.

"Deep Learning Recommendation Model for Personalization and Recommendation Systems", https://arxiv.org/abs/1906.00091
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from memrec_convert.errors import ModelError
from memrec_convert.models.narrow import list_layers
from memrec_convert.models.network import ClickNetwork, build_mlp, check_top, read_widths
from memrec_convert.models.pairs import multiply_pairs, pair_index, pair_places
from memrec_convert.models.pipeline import JOINED, PAIRS, PipelineForm


class DLRM(ClickNetwork):
    """A DLRM after an `architecture` as `checkpoint.SourceModel` gives it; the output is always the logit.

    `bottom` and `top` are Sequentials of Linear and ReLU, the last top layer without. ModelError for an architecture
    that makes no network.
    """

    pair_index: Tensor

    def __init__(self, architecture: Mapping[str, object], tables: Iterable[nn.Module]) -> None:
        bottom, top = read_widths(architecture, "bottom"), read_widths(architecture, "top")
        super().__init__(architecture, tables)
        self.interaction = architecture.get("interaction")
        self.padding = _read_padding(architecture)
        check_top(top, self._joined_width(architecture, bottom[-1]))
        self.dense_inputs = bottom[0]
        self.bottom = build_mlp(bottom, last_relu=True)
        self.top = build_mlp(top, last_relu=False)
        self.lower = architecture.get("pairs", "lower") == "lower"
        self.itself = bool(architecture.get("self_interaction", False))
        index = pair_index(len(self.tables) + 1, lower=self.lower, itself=self.itself)
        self.register_buffer("pair_index", index, persistent=False)

    def _joined_width(self, architecture: Mapping[str, object], dense_dim: int) -> int:
        """Width of the interaction; ModelError where widths, interaction and order of pairs make no network."""
        interaction, pairs = architecture.get("interaction"), architecture.get("pairs")
        if interaction not in ("dot", "cat") or pairs not in ("lower", "upper"):
            raise ModelError(f"architecture: interaction {interaction!r} with pairs {pairs!r} is not known.")
        dims = [dim for _, dim in self.shapes]
        if interaction == "cat":
            return dense_dim + sum(dims) + self.padding
        if set(dims) - {dense_dim}:
            found = sorted(set(dims))
            raise ModelError(f"architecture: a dot interaction needs tables {dense_dim} wide, found {found}.")
        vectors = len(dims) + 1
        itself = bool(architecture.get("self_interaction"))
        return dense_dim + vectors * (vectors + (1 if itself else -1)) // 2 + self.padding

    def _interact(self, dense: Tensor, vectors: Sequence[Tensor] | Tensor) -> Tensor:
        """Everything after the embedding stage: logits [B] of dense features [B, n] and the tables' vectors.

        `vectors` is one [B, dim] per table, or [B, T, dim] in one.
        """
        hidden = self.run_part(self.bottom, dense)
        if self.interaction == "cat":
            parts = [vectors.flatten(1)] if isinstance(vectors, Tensor) else vectors
            joined = torch.cat([hidden, *parts], dim=1)
        else:
            parts = [vectors] if isinstance(vectors, Tensor) else [part.unsqueeze(1) for part in vectors]
            stacked = torch.cat([hidden.unsqueeze(1), *parts], dim=1)
            products = multiply_pairs(
                stacked, self.pair_index, lower=self.lower, itself=self.itself, ordered=self.ordered is not None
            )
            joined = torch.cat([hidden, products], dim=1)
        if self.padding:
            joined = functional.pad(joined, (0, self.padding))
        logits: Tensor = self.run_part(self.top, joined)
        return logits.flatten()

    def pipeline_form(self) -> PipelineForm:
        """The dense part as the kernel runs it."""
        vectors = len(self.tables) + 1
        places = pair_places(vectors, lower=self.lower, itself=self.itself)
        return PipelineForm(
            PAIRS if self.interaction == "dot" else JOINED,
            self.dense_inputs,
            bottom=list_layers(self.bottom, self.compute),
            top=list_layers(self.top, self.compute),
            places=places.tolist() if self.interaction == "dot" else [],
        )


def _read_padding(architecture: Mapping[str, object]) -> int:
    """Columns of zeros after the interaction, as NVIDIA's kernels want them."""
    padding = architecture.get("padding", 0)
    if not isinstance(padding, int) or not 0 <= padding < 8:
        raise ModelError(f"architecture > padding: expected a whole number from 0 to 7, found {padding!r}.")
    return padding
