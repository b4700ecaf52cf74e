"""Lookups in ONNX Runtime give the rows of the table modules to the bit, whatever form, level and id."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from random_tables import BASES, random_kept, random_table

from memrec_convert.encoding import TableSpec
from memrec_convert.encoding.build import build_replaced
from memrec_convert.encoding.codecs import CODECS
from memrec_convert.lookup import CompressedEmbedding, CompressedEmbeddingBag

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.onnx

LEVELS = ((), ("codes",), ("int8",), ("codes", "int8"), ("int8", "codes"), ("codes", "codes"), ("fp16", "codes"))
LEVELS += (("int8", "int8"), ("bf16", "fp32"), ("codes", "fp16"), ("fp32",), ("trellis4", "trellis3"))
DIM = 5


def fill(spec, tensors, group=None, **facts):
    """A filled module that stands for an nn.Embedding, or a bag where `mode` is given."""
    module = (CompressedEmbeddingBag if "mode" in facts else CompressedEmbedding)(spec, group=group, **facts)
    module.fill(tensors)
    return module


def make_tables(seed: int) -> list[CompressedEmbedding]:
    """A table of every base with every list of levels, and one kept in each codec, with every `oov` in turn."""
    oov = itertools.cycle(("clip", "hash", "zero", "error"))
    tables = []
    for number, (base, kinds) in enumerate(itertools.product(BASES, LEVELS)):
        made = random_table(seed + number, base, kinds, DIM)
        tables.append(fill(made.spec, made.tensors, made.group, oov=next(oov)))
    for codec in CODECS:
        spec, tensors, _ = random_kept(seed, codec, rows=37, dim=DIM)
        tables.append(fill(spec, tensors, oov=next(oov), padding_idx=3))
    return tables


def run_lookups(tables, ids: np.ndarray, *, padding: bool = True) -> tuple[np.ndarray, np.ndarray | None]:
    """Rows [n, tables, dim], and which ids are refused, of a graph that holds these tables alone."""
    import onnx

    from memrec_convert.exports.onnx_file import run
    from memrec_convert.exports.onnx_graph.graph import Graph
    from memrec_convert.exports.onnx_graph.levels import widest_keys
    from memrec_convert.exports.onnx_graph.rows import look_up

    graph = Graph(key_bits=widest_keys(tables))
    found = look_up(graph, tables, "ids", padding=padding)
    graph.name("rows", found.name)
    outputs = {"rows": ("float32", ["n", len(tables), tables[0].spec.dim])}
    if found.refused:
        graph.name("refused", found.refused)
        outputs["refused"] = ("bool", ["n", len(tables)])
    model = graph.finish({"ids": ("int64", ["n", len(tables)])}, outputs)
    onnx.checker.check_model(model, full_check=True)
    results = run(model.SerializeToString(), {"ids": ids}, "test.onnx")
    return results["rows"], results.get("refused")


def check(tables, ids: np.ndarray) -> None:
    """The graph's rows are those of each module, to the bit; ids that a module refuses are told."""
    rows, refused = run_lookups(tables, ids)
    for number, table in enumerate(tables):
        column = torch.from_numpy(ids[:, number].copy())
        outside = (column < 0) | (column >= table.spec.rows)
        if table.oov == "error":
            assert refused[:, number].tolist() == outside.tolist()
            column = column[~outside]
        expected, found = table(column).numpy(), rows[:, number]
        found = found[~outside.numpy()] if table.oov == "error" else found
        assert np.array_equal(expected.view(np.uint32), found.view(np.uint32)), (number, table)
        if refused is not None and table.oov != "error":
            assert not refused[:, number].any()


@pytest.mark.parametrize("seed", [0, 1000, 2000])
def test_all_forms_side_by_side(seed):
    """Every id of every table, and ids on both sides of it, in one graph."""
    tables = make_tables(seed)
    most = max(table.spec.rows for table in tables)
    ids = np.arange(-60, most + 60)
    far = np.array([-(2**63), 2**63 - 1, -(2**40), 2**40 + 7])
    ids = np.concatenate([ids, far])
    check(tables, np.stack([np.roll(ids, number) for number in range(len(tables))], axis=1))


@pytest.mark.parametrize("kinds", LEVELS)
@pytest.mark.parametrize("base", BASES)
def test_each_form_alone(base, kinds):
    """A graph of one table: nothing in it relies on what others have."""
    made = random_table(7, base, kinds, DIM)
    check([fill(made.spec, made.tensors, made.group, oov="clip")], np.arange(-5, made.spec.rows + 5)[:, None])


@pytest.mark.parametrize("codec", CODECS)
def test_each_codec_alone(codec):
    """Kept rows."""
    spec, tensors, _ = random_kept(3, codec, dim=DIM)
    check([fill(spec, tensors, oov="zero", padding_idx=0)], np.arange(-5, 40)[:, None])


def test_one_table_in_two_places_is_stored_once():
    """A module at two paths brings its tensors along once."""
    from memrec_convert.exports.onnx_graph.graph import Graph
    from memrec_convert.exports.onnx_graph.rows import look_up

    spec, tensors, _ = random_kept(3, "fp16", rows=500, dim=DIM)
    table = fill(spec, tensors, oov="clip")
    sizes = []
    for tables in ([table], [table, table]):
        graph = Graph()
        graph.name("rows", look_up(graph, tables, "ids", padding=True).name)
        outputs = {"rows": ("float32", ["n", len(tables), DIM])}
        sizes.append(len(graph.finish({"ids": ("int64", ["n", len(tables)])}, outputs).SerializeToString()))
        check(tables, np.stack([np.arange(500)] * len(tables), axis=1))
    assert sizes[1] < sizes[0] + 500


def test_codes_longer_than_a_word():
    """Entries of 12 and of 20 bytes beside one of 3 bits, at every offset within a word."""
    tables = []
    for number, sizes in enumerate([(256,) * 12, (8,), (256, 2) * 12, (128,) * 9, (256,) * 8]):
        draw = np.random.default_rng(number)
        shifts = tuple(int(one) for one in np.minimum(np.arange(len(sizes)) // 5, 3))
        spec = TableSpec(70 + number, DIM, "replaced", stages=sizes, shifts=shifts, base_depth=len(sizes))
        codes = np.stack([draw.integers(0, size, spec.rows) for size in sizes], axis=1).astype(np.uint8)
        tensors = build_replaced(
            spec,
            centre=torch.from_numpy(draw.normal(size=DIM).astype(np.float32)),
            scale=0.013,
            codebook=torch.from_numpy(draw.integers(-127, 128, (sum(sizes), DIM)).astype(np.int8)),
            codes=codes,
            levels=np.full(spec.rows, -1, dtype=np.int8),
            read_rows=lambda ids: torch.zeros(len(ids), DIM),
        )
        tables.append(fill(spec, tensors, oov="clip"))
    check(tables, np.stack([np.arange(80)] * len(tables), axis=1))
