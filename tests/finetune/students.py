"""Small models over compressed tables of every form, and the original that they stand for."""

from __future__ import annotations

import copy
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from memrec_convert.encoding import HashSpec, LevelSpec, TableSpec
from memrec_convert.encoding.build import build_kept, build_replaced
from memrec_convert.encoding.index import choose_index
from memrec_convert.finetune.loop import Lesson
from memrec_convert.lookup import CompressedEmbeddingBag, HashGroup

ROWS, DIM, SCALE = 120, 4, 0.01
FORMS = ("codes", "levels", "rows", "mean", "hashed", "hashed rows", "fp32 hashed")


def make_spec(form: str) -> tuple[TableSpec, np.ndarray]:
    """A spec of this form, and the level of each row."""
    draw = np.random.default_rng(len(form))
    levels = np.full(ROWS, -1, dtype=np.int8)
    order = draw.permutation(ROWS)
    stages, base, specs, hashing = (4, 16, 8), 1, [], None
    if form in ("levels", "rows", "hashed rows"):
        levels[order[:30]] = 0
        depth = 2 if form == "levels" else 3
        specs.append(LevelSpec("codes", choose_index(ROWS, 30), depth=depth))
        levels[order[30:50]] = 1
        deep = LevelSpec("codes", choose_index(ROWS, 20), depth=3)
        specs.append(deep if form == "levels" else LevelSpec("rows", choose_index(ROWS, 20), codec="int8"))
    if form == "codes":
        base = 3
    if form == "mean":
        stages, base = (), 0
    if "hashed" in form:
        weighted = form != "fp32 hashed"
        codec = "int8" if weighted else "fp32"
        hashing = HashSpec("g", DIM, 40, 2, blocks=3 * weighted, k_weights=4 * weighted, token_codec=codec)
        stages, base = (stages if specs else ()), 0
    shifts = (0, 1, 3)[: len(stages)]
    seed = 7 if hashing else 0
    return TableSpec(
        ROWS,
        DIM,
        "replaced",
        stages=stages,
        shifts=shifts,
        base_depth=base,
        levels=tuple(specs),
        hashing=hashing,
        hash_seed=seed,
    ), levels


def make_table(form: str, *, seed: int = 0, group: HashGroup | None = None) -> CompressedEmbeddingBag:
    """A bag of random contents in this form; "kept" is one of int8 rows."""
    draw = np.random.default_rng(seed)
    rows = torch.from_numpy(draw.normal(size=(ROWS, DIM)).astype(np.float32))
    if form == "kept":
        spec = TableSpec(ROWS, DIM, "kept", codec="int8")
        bag = CompressedEmbeddingBag(spec)
        bag.fill(build_kept(spec, rows))
        return bag
    spec, levels = make_spec(form)
    if spec.hashing is not None and group is None:
        group = make_group(spec.hashing, draw)
    codes = [draw.integers(0, size, ROWS) for size in spec.stages] or [np.zeros(ROWS)]
    bag = CompressedEmbeddingBag(spec, group=group)
    bag.fill(
        build_replaced(
            spec,
            centre=torch.from_numpy(draw.normal(size=DIM).astype(np.float32)),
            scale=SCALE,
            codebook=torch.from_numpy(draw.integers(-100, 101, (sum(spec.stages), DIM)).astype(np.int8)),
            codes=np.stack(codes, axis=1).astype(np.uint8),
            levels=levels,
            read_rows=lambda ids: rows[torch.from_numpy(ids)],
        )
    )
    return bag


def make_group(spec: HashSpec, draw: np.random.Generator) -> HashGroup:
    """Random tokens and weights."""
    group = HashGroup(spec)
    shape = (spec.rows, spec.dim)
    tokens = draw.integers(-100, 101, shape) if spec.token_codec == "int8" else draw.normal(size=shape)
    group.get_buffer("tokens").copy_(torch.from_numpy(tokens))
    group.get_buffer("scale").fill_(SCALE if spec.token_codec == "int8" else 1.0)
    if spec.k_weights:
        group.get_buffer("weights").copy_(torch.from_numpy(draw.normal(1, 0.3, spec.blocks * 16)))
    return group


class Student(nn.Module):
    """logit = a linear layer over two bags."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.last = first, second, nn.Linear(2 * DIM, 1)
        self.requires_grad_(False)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits [n] of ids int64 [n, 2]."""
        return self.last(torch.cat([self.first(ids[:, :1]), self.second(ids[:, 1:])], dim=1)).squeeze(1)


def make_student(first: str = "levels", second: str = "hashed") -> Student:
    """A student with tables of these forms."""
    return Student(make_table(first), make_table(second, seed=1))


def make_original(student: Student) -> Student:
    """The student's dense part over plain tables whose rows lie near the student's."""
    torch.manual_seed(1)
    ids = torch.arange(ROWS).unsqueeze(1)
    bags = []
    for table in (student.first, student.second):
        bag = nn.EmbeddingBag(ROWS, DIM, mode="sum")
        bag.weight.data = table(ids) + 0.5 * torch.randn(DIM) + 0.1 * torch.randn(ROWS, DIM)
        bags.append(bag)
    original = Student(*bags)
    original.last = copy.deepcopy(student.last)
    return original.requires_grad_(False)


def make_batches(count: int, *, size: int = 64, seed: int = 0) -> list[Tensor]:
    """Batches of ids int64 [size, 2]."""
    draw = torch.Generator().manual_seed(seed)
    return [torch.randint(0, ROWS, (size, 2), generator=draw) for _ in range(count)]


def make_lessons(original: nn.Module, batches: list[Tensor]) -> list[Lesson]:
    """The original's probabilities as targets."""
    return [Lesson(partial(_answer, batch), torch.sigmoid(original(batch))) for batch in batches]


def _answer(batch: Tensor, model: nn.Module) -> Tensor:
    return model(batch)
