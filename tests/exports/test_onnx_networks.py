"""Known networks as ONNX files: their logits, bags to the bit, ids outside, bytes, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_golden_samples import KINDS, takes
from tiny_networks import NETWORKS, make_batch, make_table, save_network

from memrec_convert import convert, export, load
from memrec_convert.encoding.index import IndexSpec, build_index, order_ids, unmix_ids
from memrec_convert.errors import ExportError
from memrec_convert.exports.export import find_place, prove, read_subject
from memrec_convert.exports.golden import make_golden

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.onnx


def run_file(path, feeds):
    """The outputs of an exported file."""
    from memrec_convert.exports.onnx_file import run

    return run(path.read_bytes(), feeds, path)


@pytest.mark.parametrize("inputs", KINDS)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_proves_itself(name, inputs, tmp_path):
    """The command's export passes its own golden samples, and others; ids are foreign too, bags empty or of three."""
    if not takes(name, inputs):
        pytest.skip("the network takes no such inputs")
    path = save_network(name, tmp_path)
    out = tmp_path / "network.onnx"
    written = export(path, to="onnx", out=out, inputs=inputs)
    assert written.files == {str(out): out.stat().st_size}
    proved = prove(out)
    assert (proved.place, proved.samples, proved.artifact) == ("onnx", 64, written.artifact)
    if name != "tables":
        subject = read_subject(path, inputs)
        more = make_golden(subject.model, subject.architecture, inputs, samples=500)
        more.compare(run_file(out, more.feeds), name)


def test_only_standard_operators(tmp_path):
    """One opset, no other domain, and nothing that depends on another file."""
    for name in NETWORKS:
        out = tmp_path / "network.onnx"
        export(
            save_network(name, tmp_path),
            to="onnx",
            out=out,
            inputs="bags" if takes(name, "bags") else "ids",
            force=True,
        )
        model = onnx.load(out)
        assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
        assert {node.domain for node in model.graph.node} == {""}
        assert not [node for node in model.graph.node if node.op_type in ("Loop", "If", "Scan")]
        assert not [tensor for tensor in model.graph.initializer if tensor.data_location]
        used = {name for node in model.graph.node for name in node.input}
        assert not [tensor.name for tensor in model.graph.initializer if tensor.name not in used]
        (tmp_path / "network.safetensors").unlink()


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("weighted", [False, True])
def test_bags_are_pooled_to_the_bit(mode, weighted):
    """Sums and means of bags with padding, zeros, weights and no ids at all are those of the modules."""
    from memrec_convert.exports.onnx_file import run
    from memrec_convert.exports.onnx_graph.graph import Graph
    from memrec_convert.exports.onnx_graph.levels import widest_keys
    from memrec_convert.exports.onnx_graph.stage import Bags

    if weighted and mode == "mean":
        pytest.skip("means take no weights")
    tables = [make_table(number, 4, bag=True, mode=mode) for number in range(7)]
    draw = np.random.default_rng(5)
    sizes = np.array([0, 3, 1, 0, 0, 40, 2, 7, 0])
    feeds = {"ids_0": draw.integers(-9, 250, sizes.sum()), "offsets_0": np.cumsum([0, *sizes[:-1]])}
    feeds["ids_0"][:3] = 3  # the padding of one of the tables
    if weighted:
        feeds["weights_0"] = draw.normal(size=sizes.sum()).astype(np.float32)
    graph = Graph(key_bits=widest_keys(tables))
    graph.name("rows", Bags(graph, 0, single=False, weighted=weighted).look_up(tables).name)
    shapes = {
        name: ("int64" if value.dtype == np.int64 else "float32", ["b" if name == "offsets_0" else "n"])
        for name, value in feeds.items()
    }
    model = graph.finish(shapes, {"rows": ("float32", ["b", 7, 4])})
    found = run(model.SerializeToString(), feeds, "test.onnx")["rows"]
    for number, table in enumerate(tables):
        weights = torch.from_numpy(feeds["weights_0"]) if weighted else None
        expected = table(torch.from_numpy(feeds["ids_0"]), torch.from_numpy(feeds["offsets_0"]), weights)
        assert np.array_equal(expected.numpy(), found[:, number]), number


def test_a_refused_id_makes_its_sample_no_number(tiny, tmp_path):
    """Where `oov` is error, such a sample has the logit NaN; a negative id never counts from the end."""
    path, rows = tmp_path / "a.safetensors", (2000, 300, 40)
    convert(tiny.bare, "12kB", out=path)
    ids = np.zeros((7, 3), dtype=np.int64)
    ids[1, 0], ids[2, 1], ids[3, 2], ids[4, 0], ids[5, 2] = -1, rows[1], -40, 2**62, -(2**63)
    dense = np.ones((7, 2), dtype=np.float32)
    export(path, to="onnx", out=tmp_path / "ids.onnx")
    logits = run_file(tmp_path / "ids.onnx", {"dense": dense, "ids": ids})["logit"]
    assert np.isnan(logits).tolist() == [False, True, True, True, True, True, False]
    expected = load(path)(torch.from_numpy(dense[[0, 6]]), torch.from_numpy(ids[[0, 6]])).detach().numpy()
    assert np.allclose(logits[[0, 6]], expected, atol=1e-5)
    export(path, to="onnx", out=tmp_path / "bags.onnx", inputs="bags")
    feeds = {"dense": dense[:3], **{f"offsets_{n}": np.array([0, 1, 1]) for n in range(3)}}
    feeds |= {"ids_0": np.array([1, 2, -1]), "ids_1": np.array([4, 5, 6]), "ids_2": np.array([40, 7, 8])}
    assert np.isnan(run_file(tmp_path / "bags.onnx", feeds)["logit"]).tolist() == [True, False, True]


def test_a_refused_id_of_tables_alone_is_a_row_of_no_numbers(tmp_path):
    """Tables without a network answer with rows; those of refused ids are NaN, their neighbours are not."""
    path = save_network("tables", tmp_path)
    subject = read_subject(path, "ids")
    for table in subject.model.tables:
        table.oov = "error"
    from memrec_convert.exports.onnx_file import run
    from memrec_convert.exports.onnx_graph.model import build_graph

    feeds = {f"ids_{n}": np.array([0, -1, 10**9, 1]) for n in range(len(subject.model.tables))}
    for rows in run(build_graph(subject).SerializeToString(), feeds, path).values():
        assert np.isnan(rows).all(axis=1).tolist() == [False, True, True, False]


def test_batches_of_every_size(tmp_path):
    """The first dimension is free; logits do not depend on their neighbours."""
    path = save_network("dlrm, lower", tmp_path)
    export(path, to="onnx", out=tmp_path / "a.onnx")
    dense, inputs = make_batch(load(path).memrec_metadata.architecture, bags=False)
    ids = np.stack([bag[0] for bag in inputs], axis=1)
    whole = run_file(tmp_path / "a.onnx", {"dense": dense, "ids": ids})["logit"]
    for count in (1, 4):
        part = run_file(tmp_path / "a.onnx", {"dense": dense[:count], "ids": ids[:count]})["logit"]
        assert part.shape == (count,)
        assert np.allclose(part, whole[:count], atol=1e-6)


def test_the_file_is_about_as_large_as_the_artifact(tiny, tmp_path):
    """At most 15 % and 50 kB more: nothing is stored decoded. Equal artifacts make equal files."""
    path = tmp_path / "a.safetensors"
    for budget in ("12kB", "40kB"):
        convert(tiny.bare, budget, out=path, force=True)
        written = export(path, to="onnx", out=tmp_path / "a.onnx", force=True)
        assert written.bytes <= 1.15 * path.stat().st_size + 50_000
        export(path, to="onnx", out=tmp_path / "b.onnx", force=True)
        assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_damage_is_found(tmp_path):
    """A byte of the graph that changed, samples that are missing, a file that was cut."""
    export(save_network("dlrm, lower", tmp_path), to="onnx", out=tmp_path / "a.onnx")
    content = (tmp_path / "a.onnx").read_bytes()
    model = onnx.load_from_string(content)
    pool = next(tensor for tensor in model.graph.initializer if tensor.name.startswith("tokens"))
    pool.raw_data = pool.raw_data[:-1] + bytes([pool.raw_data[-1] ^ 1])
    said = json.loads(content[content.index(b'{"artifact":') :].decode("utf-8", "ignore"))
    assert said["network"]["name"] == "dlrm"
    lacking = onnx.load_from_string(content)
    lacking.metadata_props[0].value = json.dumps({**said, "golden": {}})
    for changed in (model.SerializeToString(), content[:-40], lacking.SerializeToString()):
        (tmp_path / "b.onnx").write_bytes(changed)
        assert find_place(tmp_path / "b.onnx") is not None
        with pytest.raises(ExportError, match="export"):
            prove(tmp_path / "b.onnx")


def test_a_form_that_graphs_do_not_hold_is_refused(tmp_path):
    """The sentence names table and form, and what to do; so does that about a bucket with too many ids."""
    from memrec_convert.exports.onnx_graph.graph import Graph
    from memrec_convert.exports.onnx_graph.levels import Level, _add_keys
    from memrec_convert.exports.onnx_graph.model import build_graph

    subject = read_subject(save_network("dlrm, side by side", tmp_path), "ids")
    table = next(table for table in subject.model.tables if table.spec.form == "kept")
    table.spec = replace(table.spec, codec="int4")
    with pytest.raises(ExportError, match=f"table {table.name} has rows in int4.*--method codes"):
        build_graph(subject)
    spec = IndexSpec("keys", 1 << 20, 300, 12)
    ids = unmix_ids(torch.arange(300), spec.mixed_bits)  # which share the first bucket
    index = torch.from_numpy(build_index(spec, order_ids(spec, ids.numpy())))
    with pytest.raises(ExportError, match=r"table words: .* 300 ids in one bucket"):
        _add_keys(Graph(key_bits=12), Level("words", spec, index))


@pytest.mark.parametrize("name", ["outside", "custom", "subgraph"])
def test_what_refers_to_other_files_or_operators_is_not_run(name, tmp_path):
    """A forger's file with fitting digests: numbers in another file, an operator of somebody's own, a branch."""
    from memrec_convert.exports.onnx_file import _digest_graph

    export(save_network("dlrm, lower", tmp_path), to="onnx", out=tmp_path / "a.onnx")
    model = onnx.load(tmp_path / "a.onnx")
    if name == "outside":
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="network.safetensors")
    elif name == "custom":
        model.graph.node[0].domain = "somebody"
    else:
        model.graph.node[0].attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH).g.name = "branch"
    said = json.loads(model.metadata_props[0].value)
    model.metadata_props[0].value = json.dumps(said | {"graph": _digest_graph(model)})
    (tmp_path / "b.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ExportError, match="other files or operators"):
        prove(tmp_path / "b.onnx")


@pytest.mark.parametrize("name", ["format-1-converted", "format-1-forms", "format-2-narrow", "format-2-trellis"])
def test_golden_artifacts_are_exported(name, tmp_path):
    """Files of the first release, and one with an int8 dense part, become exports that prove themselves."""
    path = Path(__file__).parents[1] / "artifact" / "golden" / f"{name}.safetensors"
    export(path, to="onnx", out=tmp_path / "a.onnx")
    assert prove(tmp_path / "a.onnx").samples == 64
