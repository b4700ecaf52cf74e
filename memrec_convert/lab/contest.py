"""What all contenders share: the opened model and logs, the weights, the original's logits, and the measuring."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import nn

from memrec_convert.artifact.dense import round_tensor
from memrec_convert.conversion.inputs.from_checkpoint import run_on_batch
from memrec_convert.conversion.inputs.kept_fits import FitStore
from memrec_convert.conversion.inputs.preparing import Job, stay_silent
from memrec_convert.conversion.measuring.judging import ONE_CLASS_WARNING, read_labels
from memrec_convert.conversion.steps.weighting import choose_source, weigh_tables
from memrec_convert.distill.survey import survey_table
from memrec_convert.errors import LogError
from memrec_convert.evaluation.delong import AucDifference, compare_auc
from memrec_convert.evaluation.metrics import log_loss
from memrec_convert.evaluation.scoring import score_batches
from memrec_convert.lab.view import TableView


@dataclass(frozen=True)
class Made:
    """A contender's answer to a budget: its model and the exact bytes of its file, and a remark.

    `model` is None where the budget is out of reach; nbytes is then the smallest that it can do, None if it cannot be.
    """

    model: nn.Module | None
    nbytes: int | None
    note: str = ""


class Contender(Protocol):
    """Something that can answer budgets; what serves several of them it makes once."""

    @property
    def name(self) -> str:
        """As the table shows it."""
        ...

    def prepare(self) -> None:
        """Makes what serves all budgets."""
        ...

    def make(self, budget: str | int) -> Made:
        """The model within a budget."""
        ...


@dataclass(frozen=True)
class Contest:
    """The job of a conversion, opened once for all contenders."""

    job: Job
    fits: FitStore = field(default_factory=lambda: FitStore(None, {}))

    @cached_property
    def labels(self) -> np.ndarray:
        """Of the evaluation log, float32 [samples]."""
        assert self.job.judged is not None
        labels = read_labels(self.job.judged)
        if len(np.unique(labels)) < 2:
            raise LogError(f"{ONE_CLASS_WARNING}, so nothing can be compared; give a log with both.")
        return labels

    @cached_property
    def original_logits(self) -> np.ndarray:
        """The uncompressed model's, float32 [samples]."""
        return self.score(self.job.subject.model)

    @cached_property
    def views(self) -> tuple[TableView, ...]:
        """Every table with the same weights and metric that the conversion works with."""
        subject, options = self.job.subject, self.job.options
        weights = weigh_tables(subject, choose_source(subject, options.weights)[0], options, stay_silent)
        return tuple(
            TableView(
                site.name,
                site.module.get_parameter("weight").detach(),
                survey_table(site.reader, weight.rows, weight.metric),
                options.may_replace(site.rows, site.nbytes),
                options.seed,
                fits=self.fits,
            )
            for site, weight in zip(subject.sites, weights, strict=True)
        )

    def score(self, model: nn.Module) -> np.ndarray:
        """Logits on the evaluation log, float32 [samples]."""
        assert self.job.judged is not None
        return score_batches(model, self.job.judged.stream(), run_on_batch, workers=self.job.options.workers)

    def measure(self, model: nn.Module) -> tuple[AucDifference, float]:
        """The AUC against the original's, paired, and the log loss."""
        logits = self.score(model)
        difference = compare_auc(self.labels, self.original_logits, logits)
        assert difference is not None
        return difference, log_loss(self.labels, logits)

    def put_in(self, tables: Sequence[nn.Module]) -> nn.Module:
        """A copy of the model with other tables; its dense part rounded as all contenders store it."""
        subject = self.job.subject
        memo = {id(site.module): table for site, table in zip(subject.sites, tables, strict=True)}
        model: nn.Module = copy.deepcopy(subject.model, memo)
        self.round_dense(model)
        return model.eval().requires_grad_(False)

    def round_dense(self, model: nn.Module) -> None:
        """Rounds the dense part of such a copy to the precision in which it is stored."""
        dense = self.job.options.dense
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                if name in self.job.subject.dense_shapes and tensor.dtype == torch.float32:
                    tensor.copy_(round_tensor(tensor, dense))
