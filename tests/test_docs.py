"""The documents keep their word: commands parse, options are listed, examples run, the format page suffices."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import artifact_reader_check as second
import click
import numpy as np
import pytest
import torch
from docs_pages import PAGES, ROOT, read_blocks, read_commands
from torch import Tensor, nn

import memrec_convert
from memrec_convert.artifact.reader import build_modules, read_artifact
from memrec_convert.cli.commands import cli
from memrec_convert.conversion.options import OutputChoices, names_of
from memrec_convert.encoding import HashSpec, LevelSpec, TableSpec
from memrec_convert.encoding.build import build_replaced
from memrec_convert.encoding.index import IndexSpec, choose_index
from memrec_convert.lookup import CompressedEmbedding, CompressedEmbeddingBag, HashGroup

MODELS = ("rating_model.py", "retrieval_model.py", "next_item_model.py")
EXAMPLES = ("convert_checkpoint.py", "compress_custom_model.py", "serve_artifact.py", *MODELS)
ROWS, DIM = 1500, 8


@pytest.mark.parametrize(("page", "line"), read_commands())
def test_commands_in_the_pages_are_valid(page, line):
    """Every command line in a page parses: its command, options and choices exist."""
    arguments = shlex.split(line.partition(" > ")[0], comments=True)[1:]
    if arguments[0] not in cli.commands:
        arguments = ["convert", *arguments]
    command = cli.commands[arguments[0]]
    with command.make_context(arguments[0], arguments[1:]) as context:
        works_on_something = any(isinstance(parameter, click.Argument) for parameter in command.params)
        assert not works_on_something or any(context.params.get(name) for name in ("file", "old", "shape", "name"))


def test_readme_shows_every_command():
    """The README has at least one line for each command."""
    text = "\n".join(read_blocks(ROOT / "README.md", "sh"))
    shown = set(re.findall(r"^memrec-convert ([a-z]+)\b", text, re.MULTILINE))
    assert set(cli.commands) - {"convert"} <= shown


def test_make_targets_in_the_pages_exist():
    """Every `make x` that a page names is a target of the Makefile."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (tiers,) = re.findall(r"^TIERS := (.*)$", makefile, re.MULTILINE)
    targets = {f"tier-{name}" for name in tiers.split()}
    targets.update(re.findall(r"^([a-z]+(?:-[a-z]+)*):", makefile, re.MULTILINE))
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    named = set(re.findall(r"(?:^|`)make ([a-z]+(?:-[a-z]+)*)", text, re.MULTILINE))
    assert {"demo", "test"} <= named <= targets


@pytest.mark.parametrize("block", [b for page in PAGES for b in read_blocks(page, "python")])
def test_python_in_the_pages_names_what_exists(block):
    """Every Python block compiles, imports what is there, and calls the verbs with arguments that they take."""
    known = names_of(OutputChoices)
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("memrec_convert"):
            if node.module == "memrec_convert.torchrec" and importlib.util.find_spec("torchrec") is None:
                continue  # the page runs in the tier that has it
            module = __import__(str(node.module), fromlist=["x"])
            assert all(hasattr(module, alias.name) for alias in node.names)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in memrec_convert.__all__:
            signature = inspect.signature(getattr(memrec_convert, node.func.id))
            names = [str(keyword.arg) for keyword in node.keywords]
            signature.bind(*node.args, **dict.fromkeys(names))
            assert set(names) <= {*signature.parameters, *known}


@pytest.mark.parametrize("name", list(cli.commands))
def test_cli_page_lists_every_option(name):
    """Its section of docs/cli.md has each option of the command with its choices, and none that does not exist."""
    sections = re.split(r"^## ", (ROOT / "docs" / "cli.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    section = next(part for part in sections if part.split("\n", 1)[0] == name)
    rows = dict(re.findall(r"^\| `(--[a-z-]+)[^|]*\| (.*)\|$", section.replace("\\|", "/"), re.MULTILINE))
    options = {o.opts[0]: o for o in cli.commands[name].params if isinstance(o, click.Option)}
    assert set(rows) == {*options, "--help"}
    for flag, option in options.items():
        if isinstance(option.type, click.Choice):
            assert all(f"`{choice}`" in rows[flag] for choice in option.type.choices), flag


@pytest.mark.parametrize("name", list(cli.commands))
def test_cli_page_says_how_an_option_is_given(name):
    """A row has the option's value as --help names it, its short form, its default, whether it repeats or must be."""
    sections = re.split(r"^## ", (ROOT / "docs" / "cli.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    section = next(part for part in sections if part.split("\n", 1)[0] == name)
    for option in cli.commands[name].params:
        if not isinstance(option, click.Option):
            continue
        flag, value = option.opts[0], "" if option.is_flag else f" {option.metavar or 'NAME'}"
        row = next(line for line in section.splitlines() if line.startswith(f"| `{flag}{value}` |"))
        assert all(short in row for short in option.opts[1:]), flag
        assert not option.multiple or "repeatable" in row, flag
        assert not option.required or "Required." in row, flag
        if isinstance(option.default, str | int | float) and not option.is_flag:
            assert str(option.default) in row.replace("`", ""), flag


def test_cli_page_has_no_command_that_does_not_exist():
    """The page's sections are the commands, and what all of them share."""
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^## ([a-z]+)$", text, re.MULTILINE)) == set(cli.commands)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.pages) if name in MODELS else name for name in EXAMPLES]
)
def test_example_runs(name, tmp_path):
    """An example runs without arguments and warnings, says something, and leaves its folder as it found it."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "examples" / name)],
        cwd=tmp_path,
        env=environment,
        timeout=900,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_is_short(name):
    """An example fits on a page."""
    assert len((ROOT / "examples" / name).read_text(encoding="utf-8").splitlines()) <= 66


class Tables(nn.Module):
    """Modules by name, and something dense."""

    def __init__(self, modules: dict[str, nn.Module]) -> None:
        super().__init__()
        self.tables = nn.ModuleDict(modules)
        self.dense = nn.Linear(3, 2)


def make_table(spec: TableSpec, *, bag: bool = False, group: HashGroup | None = None, **facts) -> nn.Module:
    """A replaced table of random content under a spec: codes, codebooks, levels, frame."""
    draw = np.random.default_rng(spec.rows + len(spec.levels))
    levels = np.full(spec.rows, -1, dtype=np.int8)
    order, taken = draw.permutation(spec.rows), 0
    for number, level in enumerate(spec.levels):
        levels[order[taken : taken + level.index.count]] = number
        taken += level.index.count
    codes = np.stack([draw.integers(0, size, spec.rows) for size in spec.stages], axis=1) if spec.stages else None
    source = torch.from_numpy(draw.standard_normal((spec.rows, spec.dim)).astype(np.float32))
    tensors = build_replaced(
        spec,
        centre=torch.from_numpy(draw.standard_normal(spec.dim).astype(np.float32)),
        scale=0.0123,
        codebook=torch.from_numpy(draw.integers(-127, 128, (sum(spec.stages), spec.dim)).astype(np.int8)),
        codes=np.zeros((spec.rows, 0), np.uint8) if codes is None else codes.astype(np.uint8),
        levels=levels,
        read_rows=lambda ids: source[torch.from_numpy(ids)],
    )
    kind = CompressedEmbeddingBag if bag else CompressedEmbedding
    module = kind(spec, name="t", group=group, **facts)
    module.fill(tensors)
    return module


def make_group(name: str, **sizes) -> HashGroup:
    """A hashed group of random content."""
    group = HashGroup(HashSpec(name, DIM, 97, 3, **sizes))
    generator = torch.Generator().manual_seed(5)
    for name, buffer in group.named_buffers():
        noise = torch.randn(buffer.shape, generator=generator)
        setattr(
            group,
            name,
            (noise * 40).clamp(-127, 127).to(torch.int8) if buffer.dtype == torch.int8 else noise.to(buffer.dtype),
        )
    return group


def two_levels(rows: int = ROWS) -> tuple[LevelSpec, LevelSpec]:
    """A level of codes under a keys index and one of stored rows under a bitmap."""
    return (
        LevelSpec("codes", IndexSpec("keys", rows, 100, 7), depth=4),
        LevelSpec("rows", IndexSpec("bitmap", rows, 300), codec="int8"),
    )


STAGES = {"stages": (4, 16, 256, 2), "shifts": (0, 1, 3, 3)}


def make_model(form: str) -> nn.Module:
    """A model whose tables show one form each."""
    if form == "coded":
        return Tables({"a": make_table(TableSpec(ROWS, DIM, "replaced", base_depth=3, **STAGES))})
    if form == "levels":
        odd = (LevelSpec("codes", choose_index(700, 40), depth=1), LevelSpec("codes", choose_index(700, 7), depth=4))
        bare = LevelSpec("rows", IndexSpec("keys", 5, 3, 4), codec="bf16")
        return Tables(
            {
                "a": make_table(TableSpec(ROWS, DIM, "replaced", base_depth=2, levels=two_levels(), **STAGES)),
                "b": make_table(TableSpec(700, DIM, "replaced", levels=odd, **STAGES)),
                "c": make_table(TableSpec(5, 3, "replaced", levels=(bare,))),
            }
        )
    if form == "hashed":
        group, plain = make_group("dim8", blocks=5, k_weights=4), make_group("other", token_codec="fp32")
        return Tables(
            {
                "a": make_table(TableSpec(ROWS, DIM, "replaced", hashing=group.spec, hash_seed=3), group=group),
                "b": make_table(
                    TableSpec(ROWS, DIM, "replaced", hashing=group.spec, levels=two_levels(), **STAGES), group=group
                ),
                "c": make_table(TableSpec(60, DIM, "replaced", hashing=plain.spec, hash_seed=9), group=plain),
            }
        )
    tables = {}
    for codec in ("fp32", "bf16", "int8"):
        rows = torch.randn(50, DIM, generator=torch.Generator().manual_seed(1))
        tables[codec] = CompressedEmbedding(TableSpec(50, DIM, "kept", codec=codec), name=codec)
        tables[codec].fill(memrec_convert.encoding.codecs.CODECS[codec].encode(rows))
    return Tables(tables)


def read_tables(path: Path, model: nn.Module) -> nn.Module:
    """The model with its tables as the package reads them from the file."""
    for name, module in build_modules(read_artifact(path), filled=True).items():
        model.set_submodule(name, module)
    return model


@pytest.fixture(params=["coded", "levels", "hashed", "rows"])
def artifact(request, tmp_path) -> tuple[second.ArtifactFile, nn.Module]:
    """An artifact of every form, as the second reader sees it, and as the package reads it."""
    path, model = tmp_path / "model.safetensors", make_model(request.param)
    memrec_convert.save(model, path)
    return second.ArtifactFile(path), read_tables(path, model)


def test_second_reader_decodes_every_row_to_the_bit(artifact):
    """A reader that does what docs/artifact.md says gives the rows of load(), bit for bit, whatever their form."""
    file, model = artifact
    assert set(file.metadata["modules"]) == {f"tables.{name}" for name in model.tables}
    for name, module in model.tables.items():
        every = np.arange(module.spec.rows)
        expected = module.lookup(torch.from_numpy(every)).numpy()
        found = file.lookup(f"tables.{name}", every)
        assert found.dtype == np.float32
        assert np.array_equal(found.view(np.uint32), expected.view(np.uint32)), name


def test_second_reader_finds_the_digests_right(artifact):
    """The digest of every tensor, and that of the metadata in itself, are what the page says."""
    file, _ = artifact
    assert file.metadata["digests"] == {name: file.digest(name) for name in file.header}
    assert file.metadata["self"] == file.digest_self()


def test_second_reader_finds_the_dense_part(artifact):
    """Tensors outside the tables are in the file under their names."""
    file, model = artifact
    assert np.array_equal(file.tensor("dense.weight"), model.dense.weight.detach().numpy())


def test_header_is_as_specified(artifact):
    """One metadata key, canonical JSON, wide tensors first, no gap between them, and nothing behind the last."""
    file, _ = artifact
    entries = list(file.header.items())
    sizes = [np.dtype(second.DTYPES[entry["dtype"]]).itemsize for _, entry in entries]
    assert [name for name, _ in entries] == sorted(file.header, key=lambda n: (-sizes[list(file.header).index(n)], n))
    bounds = [edge for _, entry in entries for edge in entry["data_offsets"]]
    assert bounds[0] == 0
    assert bounds[1:-1:2] == bounds[2::2]
    assert bounds[-1] == len(file.body)
    canonical = json.dumps(file.metadata, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    assert file.metadata_text == canonical


def test_second_reader_reads_a_converted_checkpoint(tiny, tmp_path):
    """The whole of a real conversion, and of one by the published form, reads the same by both readers."""
    for method in ("auto", "memrec"):
        target = tmp_path / f"{method}.safetensors"
        memrec_convert.convert(tiny.bare, "12x", out=target, method=method, dense="bf16", threads=1)
        file, model = second.ArtifactFile(target), memrec_convert.load(target)
        for number, module in enumerate(model.tables):
            every = np.arange(module.spec.rows)
            expected = module.lookup(torch.from_numpy(every)).numpy()
            assert np.array_equal(file.lookup(f"tables.{number}", every), expected)
        assert np.array_equal(file.tensor("top.0.weight"), model.top[0].weight.detach().numpy())


@pytest.mark.parametrize("oov", ["clip", "hash", "zero"])
@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_second_reader_pools_as_the_module_does(oov, mode, tmp_path):
    """Bags with padding, foreign ids, and an empty one give the module's sums and means."""

    def build() -> Tables:
        spec = TableSpec(ROWS, DIM, "replaced", base_depth=2, levels=two_levels(), **STAGES)
        return Tables({"a": make_table(spec, bag=True, mode=mode, oov=oov, padding_idx=7)})

    path = tmp_path / "model.safetensors"
    memrec_convert.save(build(), path)
    file, model = second.ArtifactFile(path), read_tables(path, build())
    ids, offsets = np.array([7, 3, 7, 1499, 1500, -4, 2**40, 12]), np.array([0, 3, 3, 4])
    expected = model.tables["a"](torch.from_numpy(ids), torch.from_numpy(offsets)).numpy()
    np.testing.assert_allclose(file.pool("tables.a", ids, offsets), expected, rtol=1e-6, atol=1e-6)
    if mode == "sum":
        weights = np.linspace(0.5, 2, len(ids), dtype=np.float32)
        weighted: Tensor = model.tables["a"](*map(torch.from_numpy, (ids, offsets, weights)))
        np.testing.assert_allclose(file.pool("tables.a", ids, offsets, weights), weighted.numpy(), rtol=1e-5, atol=1e-6)


def test_second_reader_reads_padding_as_zero(tmp_path):
    """In an nn.Embedding's place the padding row is zero, and the file says which one it is."""

    def build() -> Tables:
        spec = TableSpec(ROWS, DIM, "replaced", base_depth=3, **STAGES)
        return Tables({"a": make_table(spec, padding_idx=3)})

    path = tmp_path / "model.safetensors"
    memrec_convert.save(build(), path)
    model, ids = read_tables(path, build()), np.array([2, 3, 4])
    expected = model.tables["a"](torch.from_numpy(ids)).numpy()
    assert not expected[1].any()
    assert np.array_equal(second.ArtifactFile(path).embed("tables.a", ids), expected)


def test_worked_examples_of_the_page_are_right():
    """The numbers in docs/artifact.md for mix, index, packing and hashing come out of the second reader."""
    text = (ROOT / "docs" / "artifact.md").read_text(encoding="utf-8")
    for width, one, mixed in ((10, 3, 75), (10, 999, 187), (19, 1, 257182), (19, 123456, 74928)):
        assert second.mix(one, width) == mixed
        assert f"| {width} | {one} | {mixed} |" in text
    shown = re.search(r"^    (00 00 00 00 00 00 00 00 01 00 .*)$", text, re.MULTILINE)[1]
    index = np.frombuffer(bytes.fromhex(shown), np.uint8)
    level = {"key_bits": 6}
    assert [second.find_in_keys(index, 1000, level, one) for one in (3, 999, 17, 500, 4)] == [0, 1, 2, 3, -1]
    packed = np.frombuffer(bytes.fromhex(re.search(r"`(d5 2f [0 ]+)`", text)[1]), np.uint8)
    assert [f.tolist() for f in second.read_fields(packed, np.arange(3), [2, 4])] == [[1, 3, 2], [5, 15, 0]]
    for one, seed, line in re.findall(r"^\| (-?\d+) \| (\d+) \| ([0-9a-f]{16} [0-9a-f]{16} .*) \|$", text, re.M):
        h1, h2 = second.murmur(np.array([int(one)]), int(seed))
        tokens = [int(second.reduce((h1 + np.uint64(j) * h2) >> np.uint64(32), 75000)[0]) for j in range(2)]
        block = int(second.reduce(h1 & np.uint64(0xFFFFFFFF), 4688)[0])
        lanes = [int(h2[0]) >> 4 * j & 15 for j in range(4)]
        drawn = f"{tokens[0]}, {tokens[1]} | {block} | {', '.join(map(str, lanes))}"
        assert line == f"{int(h1[0]):016x} {int(h2[0]):016x} | {drawn}"
    assert text.count("28df63b7cc57c3cb") == 1
