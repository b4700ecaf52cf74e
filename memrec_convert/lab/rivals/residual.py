"""Residual quantisation of whole tables, every row and every direction alike: what a general-purpose library does.

Chen, Guan and Wang, "Approximate Nearest Neighbor Search by Residual Vector Quantization" (2010), with beam search.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from memrec_convert.distill.stages import seeded_generator
from memrec_convert.encoding.bits import pack_codes, packed_bytes, read_codes
from memrec_convert.kernels.encoder import search_codes
from memrec_convert.lab.held import FP32, BlockInt8, HeldTable, Numbers, number_shapes
from memrec_convert.lab.rivals.clusters import fit_codebook
from memrec_convert.lab.rivals.rival import Option
from memrec_convert.lab.view import SAMPLE_ROWS, TableView

BITS = (1, 2, 4, 6, 8)
MOST_STAGES = 8
BEAM = 5


@dataclass(frozen=True)
class ResidualQuantisation:
    """All rows of a table at the same number of stages of equal size; no row weights, no metric."""

    name: str = "residual quantisation (unweighted)"

    def options(self, view: TableView) -> list[Option]:
        """One per size of a stage and number of stages."""
        options, rows = [], view.sample.rows.residual + view.survey.centre - _mean(view)
        for bits in BITS:
            if 2 << bits > view.count:
                continue
            books: list[Tensor] = view.recall(f"residual {bits}", partial(_fit_stages, view, bits))
            rests = rows.unsqueeze(1)
            for stages, book in enumerate(books, start=1):
                rests = _extend(rests, book)
                expected = view.estimate(view.distances(rests[:, 0]))
                make = partial(_make, view, bits, books[:stages])
                options.append(Option(f"{stages} x {bits} bits", _shapes(view, bits, stages), expected, make))
        return options


def _mean(view: TableView) -> Tensor:
    return view.rows.mean(dim=0)


def _fit_stages(view: TableView, bits: int) -> list[Tensor]:
    """The codebooks of all stages, each fitted to what a beam search leaves over; rounded to int8 as when stored."""
    drawn = torch.randperm(view.count, generator=seeded_generator(view.seed, bits))[:SAMPLE_ROWS]
    rests = (view.rows[drawn] - _mean(view)).unsqueeze(1)
    ones, identity, storage = torch.ones(len(rests)), torch.eye(view.dim), BlockInt8()
    books: list[Tensor] = []
    for stage in range(MOST_STAGES):
        book = fit_codebook(rests[:, 0], ones, identity, 1 << bits, seed=(view.seed, bits, stage)).entries
        books.append(storage.decode(storage.encode(book)))
        rests = _extend(rests, books[-1])
    return books


def _extend(rests: Tensor, book: Tensor) -> Tensor:
    """What is left of points after one stage more, float32 [n, beam, dim], the best of the beam first.

    The same search as `search_codes`, a stage at a time and without the codes.
    """
    points, dim = len(rests), rests.shape[2]
    scores = torch.addmm(book.square().sum(dim=1) / 2, rests.reshape(-1, dim), book.T, alpha=-1)
    entries = scores.topk(min(2, len(book)), dim=1, largest=False).indices
    tried = (rests.reshape(-1, 1, dim) - book[entries]).reshape(points, -1, dim)
    kept = tried.square().sum(dim=2).topk(min(BEAM, tried.shape[1]), dim=1, largest=False).indices
    return tried.gather(1, kept.unsqueeze(2).expand(-1, -1, dim))


def _sum_entries(entries: Tensor, codes: Tensor, bits: int) -> Tensor:
    return entries[codes + torch.arange(codes.shape[1]) * (1 << bits)].sum(dim=1)


def _shapes(view: TableView, bits: int, stages: int) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    shapes = number_shapes(centre=(FP32, 1, view.dim), book=(BlockInt8(stages), stages << bits, view.dim))
    shapes["codes"] = (torch.uint8, (packed_bytes(view.count, stages * bits),))
    return shapes


def _make(view: TableView, bits: int, books: list[Tensor]) -> HeldTable:
    centre = _mean(view)
    codes = [search_codes(view.rows[piece] - centre, books, beam=BEAM)[0].numpy() for piece in view.chunks()]
    packed = pack_codes(np.concatenate(codes), [bits] * len(books))
    numbers: Numbers = {"centre": (FP32, centre.unsqueeze(0)), "book": (BlockInt8(len(books)), torch.cat(books))}
    return HeldTable(numbers, {"codes": torch.from_numpy(packed)}, _DecodeResidual(bits, len(books)))


@dataclass(frozen=True)
class _DecodeResidual:
    bits: int
    stages: int

    def __call__(self, numbers: Mapping[str, Tensor], fixed: Mapping[str, Tensor], ids: Tensor) -> Tensor:
        width = self.bits * self.stages
        codes = [
            read_codes(fixed["codes"], ids, entry_bits=width, first_bit=stage * self.bits, bits=self.bits)
            for stage in range(self.stages)
        ]
        return numbers["centre"] + _sum_entries(numbers["book"], torch.stack(codes, dim=1), self.bits)
