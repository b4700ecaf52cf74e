"""Every name that the code writes into a file stands in docs/artifact.md, where somebody who reads a file looks for it.

The names come from the code: one that is added there and not on the page fails here, and one that the page invents.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import artifact_reader_check as second
import pytest
from golden.make import GOLDEN
from random_tables import random_kept, random_table
from tiny_networks import NETWORKS

import memrec_convert
from memrec_convert.artifact.features import FEATURES, NEWEST_FORMAT
from memrec_convert.artifact.layout import _DTYPE_NAMES
from memrec_convert.artifact.metadata import DENSE_NAMES, MEASURED_NAMES, Metadata
from memrec_convert.artifact.reader import read_artifact
from memrec_convert.checkpoint.facts import FACTS
from memrec_convert.encoding import HashSpec, TableSpec, describe_table
from memrec_convert.encoding.codecs import CODECS
from memrec_convert.lookup.kernel_tables import _OUTSIDE
from memrec_convert.models import MODELS

PACKAGE = Path(memrec_convert.__file__).resolve().parent
PAGE = (PACKAGE.parent / "docs" / "artifact.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^##+ ([\d.]+) ?[^\n]*\n(.*?)(?=^##+ |\Z)", PAGE, re.DOTALL | re.MULTILINE))
NETWORK_SECTIONS = {"dlrm": "10.1", "dlrm-dcn": "10.2", "deepfm": "10.3", "sample-pooled": "10.4", "tables": "10.5"}


def section(number: str) -> str:
    """The text of a section, without its subsections."""
    return SECTIONS.get(f"{number}.") or SECTIONS[number]


def column(number: str, place: int = 0) -> set[str]:
    """The names in backticks in a column of a section's tables."""
    rows = [line.strip("|").split("|") for line in section(number).splitlines() if line.startswith("| `")]
    return {name for row in rows if place < len(row) for name in re.findall(r"`([^`]+)`", row[place])}


def table_descriptions() -> Iterator[dict[str, Any]]:
    """What the code writes of tables of every kind."""
    bag = {"mode": "mean", "include_last_offset": True, "padding_idx": 0}
    specs = [random_kept(1, codec)[0] for codec in CODECS]
    for base in ("codes", "weighted"):
        for seed in range(20):
            specs.append(random_table(seed, base, ("codes", "int8")).spec)
    for spec in specs:
        yield describe_table(spec, name="x", oov="clip", **bag)


def keys_of(values: Iterable[dict[str, Any]]) -> set[str]:
    """The keys of all of them."""
    return {key for value in values for key in value}


def is_architecture(node: ast.AST) -> bool:
    """Whether an expression is called `architecture` or, where a function makes one of another, `original`."""
    return ast.unparse(node).split(".")[-1] in ("architecture", "original")


def architecture_fields(tree: ast.AST) -> Iterator[str]:
    """Keys that code reads from or writes into architectures: subscripts, `get`, helpers, and dicts that name one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and is_architecture(node.value):
            yield from names_in([node.slice])
        elif isinstance(node, ast.Call):
            of = isinstance(node.func, ast.Attribute) and node.func.attr == "get" and is_architecture(node.func.value)
            if of or any(is_architecture(argument) for argument in node.args):
                yield from names_in(node.args if not of else node.args[:1])
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(is_architecture(target) for target in targets) and isinstance(node.value, ast.Dict):
                yield from names_in(node.value.keys)
        elif isinstance(node, ast.Dict) and set(names_in(node.values)) & set(MODELS) and "name" in names_in(node.keys):
            yield from names_in(node.keys)


def names_in(nodes: Iterable[ast.AST | None]) -> list[str]:
    """The texts among some expressions."""
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def all_architecture_fields() -> set[str]:
    """What the whole package reads from architectures and writes into them."""
    files = [*(PACKAGE / "checkpoint").rglob("*.py"), *(PACKAGE / "models").rglob("*.py")]
    files += [*(PACKAGE / "conversion").rglob("*.py"), *(PACKAGE / "lab").rglob("*.py")]
    return {name for file in files for name in architecture_fields(ast.parse(file.read_text(encoding="utf-8")))}


def test_fields_of_the_metadata() -> None:
    """Section 2 has each field that is written, and no other."""
    written = {field.name for field in fields(Metadata)} | {"format", "self", "requires"}
    informative = {"profile", "plan", "measured"}
    assert column("2") == written
    assert {name for path in GOLDEN.glob("*.safetensors") for name in second.ArtifactFile(path).metadata} <= written
    for name in informative:
        documented = {
            entry
            for line in section("2").splitlines()
            if line.startswith(f"| `{name}` | `")
            for entry in re.findall(r"`([^`]+)`", line.split("|")[2])
        }
        kept = [getattr(read_artifact(path).metadata, name) for path in GOLDEN.glob("format-1-converted.*s")]
        assert kept
        assert keys_of(kept) == documented
    assert set(MEASURED_NAMES) <= column("2", 1)
    assert [name for name in DENSE_NAMES if f"`{name}`" not in section("2")] == []


def test_fields_of_tables() -> None:
    """Section 3 has each field of a table and of a level, section 8 those of a group; none is missing or invented."""
    plain = list(table_descriptions())
    levels = [level for one in plain for level in one.get("levels", ())]
    own = {name for name in column("3") if not name.startswith(("level0", "level1"))}
    tensors = {"rows", "scale", "frame", "codebook", "base", "group.tokens", "group.scale", "group.weights"}
    assert own - tensors == (keys_of(plain) | keys_of(levels) | {"same_as", "place"}) - tensors
    groups = keys_of(one["hashing"] for one in plain if "hashing" in one)
    assert groups == {field.name for field in fields(HashSpec)}
    assert column("8") - {"group.tokens", "group.scale", "group.weights"} == groups
    assert [word for word in (*_OUTSIDE, "sum", "mean") if f"`{word}`" not in section("9")] == []
    assert {level["index"] for level in levels} == {"bitmap", "keys"} <= column("3", 1)


def test_tensors_of_tables() -> None:
    """Section 3 lists every tensor of every form."""
    listed = column("3")
    specs = [TableSpec(3, 2, "kept", codec=codec) for codec in CODECS]
    specs += [random_table(seed, base, ("codes", "int8")).spec for seed in range(9) for base in ("codes", "weighted")]
    for spec in specs:
        names = {re.sub(r"^level\d", "level0", name) for name in spec.tensors()}
        assert names - {"level0_index"} <= listed
        assert {f"group.{name}" for name in (spec.hashing.tensors() if spec.hashing else ())} <= listed
    assert "level0_index" in section("3")


def test_types_and_codecs() -> None:
    """Section 1 has every element type, section 4 every codec, and the second reader reads them."""
    types = re.search(r"Types in use: ([^.]*)\.", section("1"))
    assert types is not None
    assert set(types[1].split(", ")) == set(_DTYPE_NAMES.values()) == set(second.DTYPES)
    assert column("4") - {"rows[i]"} == set(CODECS)


def test_networks_have_sections() -> None:
    """Section 10 names each network of `MODELS`, and each has a subsection of its own."""
    assert set(NETWORK_SECTIONS) == set(MODELS)
    row = next(line for line in section("10").splitlines() if line.startswith("| `name` "))
    assert set(re.findall(r"`([^`]+)`", row)) - {"name"} == set(MODELS)
    titles = dict(re.findall(r"^### (10\.\d) (\S+)$", PAGE, re.MULTILINE))
    assert {number: titles[number] for number in NETWORK_SECTIONS.values()} == {
        number: name for name, number in NETWORK_SECTIONS.items()
    }


def test_fields_of_architectures() -> None:
    """Each key that any code reads from an architecture or writes into one is in section 10, and none is invented."""
    documented = column("10").union(*(column(number) for number in NETWORK_SECTIONS.values()))
    assert all_architecture_fields() == documented
    assert set(FACTS) <= column("10", 1)


@pytest.mark.parametrize("name", NETWORKS)
def test_each_network_has_its_fields_in_its_section(name: str) -> None:
    """What an architecture holds is explained in section 10 or in that network's own, not in another's."""
    architecture = NETWORKS[name][1]
    own = column("10") | column(NETWORK_SECTIONS[architecture["name"]])
    assert set(architecture) <= own


def test_the_scan_of_the_code_finds_a_new_field() -> None:
    """A field that a network would read, a layout would write, or a helper would be asked for does not go unnoticed."""
    code = """
depth = architecture.get("depth")
reading.architecture["gates"] = 3
reading.architecture |= {"towers": 2}
experts = read_widths(architecture, "experts")
made = {"name": "dlrm", "heads": 4}
other.get("nothing")
"""
    found = set(architecture_fields(ast.parse(code)))
    assert found == {"depth", "gates", "towers", "experts", "name", "heads"}


def test_formats_and_features() -> None:
    """Section 12 has a row for every feature that is known, and the page is about the formats that are read."""
    assert set(FEATURES) <= column("12")
    assert tuple(range(1, NEWEST_FORMAT + 1)) == second.FORMATS
    assert frozenset(FEATURES) == second.FEATURES
    assert "1 or 2" in next(line for line in section("2").splitlines() if line.startswith("| `format` "))


def test_a_converted_checkpoint_has_no_other_field(tiny: Any, tmp_path: Path) -> None:
    """A real conversion with everything stated writes nothing that the page does not have."""
    target = tmp_path / "x.safetensors"
    stated = {"pairs": "lower", "dense_transform": "log1p", "pooling": "mean"}
    memrec_convert.convert(tiny.bare, "12x", out=target, assume=stated, threads=1)
    plain = json.loads(read_artifact(target).metadata.to_text())
    documented = column("10") | column("10.1")
    assert set(plain) == column("2") - {"requires", "compute"}
    assert set(plain["architecture"]) <= documented
    assert set(plain["architecture"]["stated"]) == {"pooling"}
    assert keys_of(plain["modules"].values()) <= column("3")
    assert set(plain["plan"]) | set(plain["profile"]) | set(plain["measured"]) <= column("2", 1)
