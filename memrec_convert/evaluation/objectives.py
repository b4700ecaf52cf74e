"""What a model's outputs are for: how its loss feels them, how far two models' outputs are apart, what training minds.

An objective sees the outputs of one batch or of all: float [n], or [n, k] where a sample has several. `groups`
(int64 [n], or None) says which samples belong together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from memrec_convert.errors import LogError, ModelError, OptionError
from memrec_convert.evaluation.metrics import Float64, log_loss
from memrec_convert.evaluation.scoring import mean_divergence
from memrec_convert.kernels.ordered import take_root

Loss = Callable[[nn.Module, Any], Tensor]
"""The losses float [B] of a model on a batch's samples, or their mean."""


class Objective:
    """Clicks ("binary"): one logit per sample, learnt by cross-entropy with the clicks' probabilities."""

    name = "binary"
    loss_name = "log loss"
    wide = False
    """Whether a sample may have several outputs."""

    def check_labels(self, labels: Tensor, source: str) -> Tensor:
        """Labels as float32 on the CPU; LogError for such as this objective has not."""
        labels = labels.detach().reshape(-1).to("cpu", torch.float32)
        if not bool(((labels >= 0) & (labels <= 1)).all()):
            raise LogError(f"the labels of {source} are not all between 0 and 1; pass labels= to select the clicks.")
        return labels

    def check_fit(self, labels: Tensor, outputs: Tensor, source: str) -> None:
        """LogError where a batch's labels do not fit its outputs."""
        if len(labels) != outputs.numel():
            raise LogError(
                f"labels= returned {len(labels)} labels for a batch of {source}, and the model {outputs.numel()} "
                "logits; expected one label per logit."
            )

    def pull(self, outputs: Tensor, groups: Tensor | None, number: int) -> Tensor:
        """Factors c of a batch's outputs: the squared gradients of (c * outputs).sum() are what a row's error costs.

        Their expectation is the Fisher information of what the outputs predict, the metric in which a small change of
        them raises the loss. `number` is the batch's.
        """
        chance = torch.sigmoid(outputs.detach().to(torch.float64))
        fisher = take_root(4 * chance * (1 - chance))  # of gradients, so that their squares carry the weight itself
        return fisher.to(outputs.dtype)

    def divergence(self, original: np.ndarray, candidate: np.ndarray, groups: np.ndarray | None) -> float:
        """How far the candidate's outputs are from the original's: Kullback-Leibler, in nats per sample."""
        return mean_divergence(original, candidate)

    def divergences(self, original: Float64, candidate: Float64, groups: np.ndarray | None) -> Float64:
        """Of each sample, what the candidate adds to the loss if the original is right, but for a constant."""
        chance = np.exp(-np.logaddexp(0, -original))
        added: Float64 = np.logaddexp(0, candidate) - chance * candidate
        return added

    def mean_loss(self, labels: np.ndarray, outputs: Float64, groups: np.ndarray | None) -> float | None:
        """The loss that training minds, over labelled samples; None where outputs and labels do not tell it."""
        return log_loss(labels.astype(np.bool_), outputs)

    def are_clusters(self, outputs: np.ndarray) -> bool:
        """Whether `divergences` has one value for each group, not for each sample."""
        return False

    def targets(self, outputs: Tensor, labels: Tensor | None, share: float, groups: Tensor | None) -> Tensor:
        """What to learn: the original's own predictions from its outputs, and `share` of the labels."""
        soft = torch.sigmoid(outputs)
        return soft if labels is None else (1 - share) * soft + share * labels

    def loss(self, outputs: Tensor, targets: Tensor, groups: Tensor | None, unit: float) -> Tensor:
        """The summed loss of a batch's outputs; `unit` is the spread of the original's outputs."""
        return functional.binary_cross_entropy_with_logits(outputs.reshape(-1), targets, reduction="sum")


class WideObjective(Objective):
    """Samples may have several outputs; two models are apart by the mean of `divergences`."""

    wide = True

    @override
    def divergence(self, original: np.ndarray, candidate: np.ndarray, groups: np.ndarray | None) -> float:
        if original.shape != candidate.shape:
            raise ModelError(
                f"the original gave outputs of shape {list(original.shape)} and the candidate of "
                f"{list(candidate.shape)} on the same batches; expected the same from both."
            )
        return float(self.divergences(original.astype(np.float64), candidate.astype(np.float64), groups).mean())


class Regression(WideObjective):
    """Numbers: learnt by squared error. Outputs diverge by their mean squared change."""

    name = "regression"
    loss_name = "squared error"

    @override
    def check_labels(self, labels: Tensor, source: str) -> Tensor:
        labels = _to_plain(labels)
        if not bool(labels.isfinite().all()):
            raise LogError(f"the labels of {source} are not all finite; pass labels= to select them.")
        return labels

    @override
    def check_fit(self, labels: Tensor, outputs: Tensor, source: str) -> None:
        if tidy(labels).shape != tidy(outputs).shape:
            raise LogError(
                f"labels= returned a tensor of shape {list(labels.shape)} for a batch of {source}, and the model one "
                f"of shape {list(outputs.shape)}; expected one label per output."
            )

    @override
    def pull(self, outputs: Tensor, groups: Tensor | None, number: int) -> Tensor:
        return _draw_signs(outputs, number)

    @override
    def divergences(self, original: Float64, candidate: Float64, groups: np.ndarray | None) -> Float64:
        squares: Float64 = np.square(candidate - original).reshape(len(original), -1).mean(axis=1)
        return squares

    @override
    def mean_loss(self, labels: np.ndarray, outputs: Float64, groups: np.ndarray | None) -> float | None:
        return float(np.square(outputs - labels).mean())

    @override
    def targets(self, outputs: Tensor, labels: Tensor | None, share: float, groups: Tensor | None) -> Tensor:
        return outputs if labels is None else (1 - share) * outputs + share * labels

    @override
    def loss(self, outputs: Tensor, targets: Tensor, groups: Tensor | None, unit: float) -> Tensor:
        # In units of the outputs' spread, as optimizers expect: a model of prices learns like one of stars.
        error = (outputs - targets) / unit
        return error.square().reshape(len(outputs), -1).mean(dim=1).sum() / 2


class Ranking(WideObjective):
    """Scores of candidates, learnt by cross-entropy of the softmax over a request's candidates.

    A sample is a request with k candidates (outputs [n, k]), or one candidate of a request that `groups` name ([n]).
    Outputs diverge by the Kullback-Leibler divergence of that softmax, in nats per request.
    """

    name = "ranking"
    loss_name = "softmax loss"

    @override
    def check_labels(self, labels: Tensor, source: str) -> Tensor:
        labels = _to_plain(labels)
        if not bool((labels.isfinite() & (labels >= 0)).all()):
            raise LogError(
                f"the labels of {source} are not all finite and 0 or above; expected relevances, or the number of the "
                "relevant candidate."
            )
        return labels

    @override
    def check_fit(self, labels: Tensor, outputs: Tensor, source: str) -> None:
        outputs = tidy(outputs)
        if outputs.dim() == 2 and labels.dim() == 1 and len(labels) == len(outputs):
            refuse_targets(labels.numpy(), outputs.shape[1])
        elif labels.shape != outputs.shape:
            raise LogError(
                f"labels= returned a tensor of shape {list(labels.shape)} for a batch of {source}, and the model one "
                f"of shape {list(outputs.shape)}; expected a relevance for every score, or the number of each "
                "request's relevant candidate."
            )

    @override
    def pull(self, outputs: Tensor, groups: Tensor | None, number: int) -> Tensor:
        chance = _log_softmax(outputs.detach().to(torch.float64), groups).exp()
        drawn = take_root(chance) * _draw_signs(chance, number)
        return (drawn - chance * _spread(_sum_requests(drawn, groups), drawn, groups)).to(outputs.dtype)

    @override
    def divergences(self, original: Float64, candidate: Float64, groups: np.ndarray | None) -> Float64:
        members = None if groups is None else torch.from_numpy(groups)
        old, new = (_log_softmax(torch.from_numpy(one), members) for one in (original, candidate))
        added: Float64 = _sum_requests(old.exp() * (old - new), members).numpy()
        return np.maximum(added, 0.0)  # equal outputs may differ by the last bit

    @override
    def mean_loss(self, labels: np.ndarray, outputs: Float64, groups: np.ndarray | None) -> float | None:
        members = None if groups is None else torch.from_numpy(groups)
        found = torch.from_numpy(outputs)
        share = _share(torch.from_numpy(labels), found, members)
        losses = -_sum_requests(share * _log_softmax(found, members), members)
        usable = _sum_requests(share, members) > 0
        return float(losses[usable].mean()) if bool(usable.any()) else None

    @override
    def are_clusters(self, outputs: np.ndarray) -> bool:
        return outputs.ndim == 1

    @override
    def targets(self, outputs: Tensor, labels: Tensor | None, share: float, groups: Tensor | None) -> Tensor:
        soft = _log_softmax(outputs, groups).exp()
        if labels is None:
            return soft
        hard = _share(labels, outputs, groups)
        told = _spread(_sum_requests(hard, groups), hard, groups)  # 0 for a request in which nothing is relevant
        return soft * (1 - share * told) + share * hard

    @override
    def loss(self, outputs: Tensor, targets: Tensor, groups: Tensor | None, unit: float) -> Tensor:
        return -(targets * _log_softmax(outputs, groups)).sum()


@dataclass(frozen=True)
class OwnLoss(Regression):
    """A loss of the caller's own: `function(model, batch)` gives a batch's losses [B], or their mean.

    Outputs diverge by their mean squared change.
    """

    function: Loss
    name = "function"
    loss_name = "loss"

    @override
    def check_fit(self, labels: Tensor, outputs: Tensor, source: str) -> None:
        rows = len(tidy(outputs))
        if len(labels) != rows:
            raise LogError(
                f"labels= returned {len(labels)} labels for a batch of {source}, and the model {rows} "
                "outputs; expected as many."
            )

    @override
    def mean_loss(self, labels: np.ndarray, outputs: Float64, groups: np.ndarray | None) -> float | None:
        return None

    def run(self, model: nn.Module, batch: Any) -> Tensor:  # noqa: ANN401 - what the loader yields
        """A batch's losses [B], or their mean; ModelError for anything else."""
        found = self.function(model, batch)
        odd = name_odd_kind(found) if isinstance(found, Tensor) else ""
        if not isinstance(found, Tensor) or odd or found.dim() > 1 or not found.is_floating_point():
            shown = f"a {type(found).__name__}"
            if isinstance(found, Tensor):
                shown = f"a {odd} tensor" if odd else f"a tensor {list(found.shape)}"
            raise ModelError(
                f"objective= returned {shown}; expected the losses of a batch's samples, float [B], or their mean."
            )
        if not bool(found.isfinite().all()):
            raise ModelError("objective= returned a loss that is not finite; expected a trained model without NaN.")
        return found

    def check_length(self, losses: Tensor, *rows: int) -> None:
        """ModelError for losses [n] where n is none of the numbers of samples."""
        if losses.dim() and len(losses) not in rows:
            raise ModelError(
                f"objective= returned a tensor {list(losses.shape)} for a batch of {rows[0]} samples; expected a loss "
                "per sample, or their mean, a tensor without dimensions."
            )


BINARY, REGRESSION, RANKING = Objective(), Regression(), Ranking()


def choose_objective(wanted: object) -> Objective:
    """The objective of that name, or of that loss; OptionError for anything else."""
    for one in (BINARY, REGRESSION, RANKING):
        if wanted is None or (isinstance(wanted, str) and wanted == one.name):
            return one
    if not callable(wanted):
        raise OptionError(
            f"objective is {wanted!r}; expected binary, regression, ranking, or a function (model, batch) -> loss."
        )
    return OwnLoss(wanted)


def refuse_targets(targets: np.ndarray, candidates: int) -> None:
    """LogError unless all are numbers of candidates."""
    odd = (targets < 0) | (targets >= candidates) | (targets != np.floor(targets))
    if odd.any():
        raise LogError(
            f"found the label {targets[odd][0]:g}, expected whole numbers below {candidates}: the number of each "
            "request's relevant candidate."
        )


def tidy(outputs: Tensor) -> Tensor:
    """Outputs [n] or [n, k]: a dimension of one output per sample is left out."""
    return outputs.reshape(-1) if outputs.shape[1:].numel() == 1 else outputs


def name_odd_kind(found: Tensor) -> str:
    """What keeps a tensor from being one of plain real numbers, such as "sparse_coo" or "meta"; "" where nothing."""
    odd = {"nested": found.is_nested, "meta": found.is_meta, "quantized": found.is_quantized}
    odd |= {str(found.layout).removeprefix("torch."): found.layout is not torch.strided, "complex": found.is_complex()}
    return next((name for name, holds in odd.items() if holds), "")


def _to_plain(labels: Tensor) -> Tensor:
    return tidy(labels.detach().to("cpu", torch.float32))


def _draw_signs(outputs: Tensor, number: int) -> Tensor:
    """1 or -1 for each output: in the square of a sum with such signs, the products of two have expectation zero."""
    drawn = np.random.default_rng([number, 1]).integers(0, 2, outputs.shape, dtype=np.int8)
    return torch.from_numpy(2 * drawn - 1).to(outputs.device, outputs.dtype)


def _members(groups: Tensor | None) -> tuple[Tensor, int]:
    if groups is None:
        raise LogError(
            "one score per sample ranks nothing without groups; pass groups=, or return the scores of all of a "
            "request's candidates from forward=."
        )
    members = torch.unique(groups, return_inverse=True)[1].reshape(-1)
    return members, int(members.max()) + 1


def _log_softmax(outputs: Tensor, groups: Tensor | None) -> Tensor:
    """The logarithm of the softmax over each request's candidates."""
    if outputs.dim() == 2:
        return outputs.log_softmax(dim=1)
    members, count = _members(groups)
    top = outputs.detach().new_full((count,), -torch.inf).scatter_reduce(0, members, outputs.detach(), "amax")
    shifted = outputs - top[members]
    return shifted - outputs.new_zeros(count).index_add(0, members, shifted.exp()).log()[members]


def _sum_requests(values: Tensor, groups: Tensor | None) -> Tensor:
    """The sum over each request's candidates."""
    if values.dim() == 2:
        return values.sum(dim=1)
    members, count = _members(groups)
    return values.new_zeros(count).index_add(0, members, values)


def _spread(sums: Tensor, like: Tensor, groups: Tensor | None) -> Tensor:
    """Of each candidate, what its request has."""
    return sums.unsqueeze(1) if like.dim() == 2 else sums[_members(groups)[0]]


def _share(labels: Tensor, outputs: Tensor, groups: Tensor | None) -> Tensor:
    """The labels as a distribution over each request's candidates; zeros where nothing is relevant."""
    if labels.dim() < outputs.dim():
        refuse_targets(labels.numpy(), outputs.shape[1])
        return functional.one_hot(labels.long(), outputs.shape[1]).to(outputs.dtype)
    labels = labels.to(outputs.dtype)
    total = _spread(_sum_requests(labels, groups), labels, groups)
    return torch.where(total > 0, labels / total.clamp(min=torch.finfo(labels.dtype).tiny), 0.0)
