"""The house rules that a machine can check: direction of imports, light start, help texts, who may print."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import click
import pytest

import memrec_convert
from memrec_convert.cli import cli

ROOT = Path(memrec_convert.__file__).resolve().parent
FILES = sorted(ROOT.rglob("*.py"))
LAYERS = (
    {"__main__"},
    {"cli"},
    {"cli_bench", "cli_experiments", "cli_report"},
    {"cli_options", "console"},
    {"benchmarking"},
    {"conversion"},
    {"planning", "distill", "finetune", "evaluation", "artifact", "report"},
    {"encoding", "checkpoint", "clicklog", "models"},
    {"kernels", "recipe", "safe_files", "units", "errors", "parallel"},
)
"""Unit (subpackage or module of the top level) by layer, the highest first; imports point down, or sideways."""
LEVEL = {unit: level for level, units in enumerate(LAYERS) for unit in units}
COMMAND_LINE = {"cli.py", "cli_bench.py", "cli_experiments.py", "cli_report.py", "console.py"}
VERBS = {name for name in memrec_convert.__all__ if not name.startswith("_")}


def unit_of(file: Path) -> str:
    """The subpackage or top-level module that a file belongs to; the package's own __init__ is ''."""
    first = file.relative_to(ROOT).parts[0]
    return "" if first == "__init__.py" else first.removesuffix(".py")


def imported_names(file: Path) -> Iterator[str]:
    """Every module that a file imports from, at any depth of the code; relative ones made absolute."""
    package = ["memrec_convert", *file.relative_to(ROOT).parent.parts]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) + 1 - node.level]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            yield from (f"{module}.{alias.name}" for alias in node.names)


def imported_units(file: Path) -> set[str]:
    """The units of this package that a file imports from, its own left out."""
    units = set()
    for name in imported_names(file):
        parts = name.split(".")
        if parts[0] == "memrec_convert" and len(parts) > 1 and parts[1] in LEVEL:
            units.add(parts[1])
    return units - {unit_of(file)}


def all_commands() -> list[tuple[str, click.Command]]:
    """The group itself and each command."""
    return [("", cli), *cli.commands.items()]


def run_python(code: str) -> str:
    """The output of a few lines in a fresh interpreter."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_unit_has_a_layer():
    """Every subpackage and top-level module stands in the table of layers, so that none escapes the rules."""
    assert {unit_of(file) for file in FILES} - {""} <= set(LEVEL)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_never_point_up(file):
    """No file imports from a higher layer than its own; the package's __init__ only names the verbs' homes."""
    if unit_of(file):
        higher = {unit for unit in imported_units(file) if LEVEL[unit] < LEVEL[unit_of(file)]}
        assert not higher


def test_units_do_not_import_each_other_in_a_circle():
    """The graph of units has an order."""
    graph: dict[str, set[str]] = {}
    for file in FILES:
        if unit_of(file):
            graph.setdefault(unit_of(file), set()).update(imported_units(file))
    assert len(list(TopologicalSorter(graph).static_order())) >= len(graph)


def test_no_top_level_module_bears_the_name_of_a_verb():
    """Importing such a module would overwrite the public function of that name."""
    assert not {unit_of(file) for file in FILES} & VERBS


def test_every_public_verb_can_be_imported():
    """Each name of __all__ is there, and is no module."""
    values = [getattr(memrec_convert, name) for name in memrec_convert.__all__]
    assert all(callable(value) or isinstance(value, str) for value in values)


def test_importing_the_package_does_not_import_torch():
    """`import memrec_convert` costs nothing: neither torch nor numpy nor pyarrow come with it."""
    code = "import sys, memrec_convert; print(sorted({'torch', 'numpy', 'pyarrow'} & set(sys.modules)))"
    assert run_python(code).strip() == "[]"


@pytest.mark.parametrize("arguments", [["--help"], ["convert", "--help"], ["--version"], ["plan", "-h"]])
def test_help_does_not_import_torch(arguments):
    """Help and version are there at once."""
    code = f"""
import sys
sys.argv = ["memrec-convert", *{arguments!r}]
from memrec_convert.cli import main
try:
    main()
except SystemExit as end:
    print(end.code, "torch" in sys.modules)
"""
    assert run_python(code).splitlines()[-1] == "0 False"


def test_inspecting_a_checkpoint_does_not_import_torch(tiny):
    """`inspect` reads headers alone, and needs no torch for it."""
    code = f"""
import sys
sys.argv = ["memrec-convert", "inspect", {str(tiny.checkpoint)!r}]
from memrec_convert.cli import main
try:
    main()
except SystemExit as end:
    print(end.code, "torch" in sys.modules)
"""
    assert run_python(code).splitlines()[-1] == "0 False"


def test_the_package_runs_as_a_module():
    """`python -m memrec_convert` is the command line."""
    command = [sys.executable, "-m", "memrec_convert", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.split()[-1]) == (0, memrec_convert.__version__)


@pytest.mark.parametrize(("name", "command"), all_commands())
def test_every_command_and_option_has_help(name, command):
    """Nobody has to guess what a command or an option does."""
    assert command.help
    assert not [p.name for p in command.params if isinstance(p, click.Option) and not p.help]


def test_the_verbs_of_files_are_commands():
    """Each command is the library's function of the same name; compress, save and load need a live model.

    What is measured on this machine alone is no verb: bench, doctor, experiment; nor is report, which shows a file.
    """
    assert set(cli.commands) - {"bench", "doctor", "experiment", "report"} == VERBS - {"compress", "save", "load"}


def calls_of(file: Path) -> Iterator[str]:
    """Names of functions that a file calls."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)


def test_only_the_command_line_prints_or_exits():
    """print, click.echo, sys.exit and the streams belong to cli.py and its helpers."""
    loud = {"print", "click.echo", "echo", "sys.exit", "exit", "sys.stdout.write", "sys.stderr.write"}
    assert not {str(f.relative_to(ROOT)) for f in FILES if f.name not in COMMAND_LINE and loud & set(calls_of(f))}


def test_nothing_from_a_checkpoint_is_ever_executed():
    """No pickle.load, no eval or exec, and torch.load never without weights_only=True."""
    for file in FILES:
        forbidden = {"pickle.load", "pickle.loads", "pickle.Unpickler", "eval", "exec", "torch.jit.load"}
        assert not forbidden & set(calls_of(file)), file
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                given = {word.arg: ast.unparse(word.value) for word in node.keywords}
                assert given.get("weights_only") == "True", file
        assert not re.search(r"weights_only\s*=\s*False", file.read_text(encoding="utf-8")), file


def test_no_file_catches_everything():
    """`except:`, `except Exception` and `except BaseException` would hide faults."""
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ExceptHandler):
                caught = "" if node.type is None else ast.unparse(node.type)
                assert node.type is not None, file
                assert not re.search(r"\b(Base)?Exception\b(?!Group)", caught), file


def test_every_module_says_what_it_is_for():
    """The first statement of each file is its docstring."""
    assert not [f for f in FILES if not ast.get_docstring(ast.parse(f.read_text(encoding="utf-8")))]


def test_the_readme_mentions_every_command():
    """Whoever reads the README learns of every command."""
    readme = ROOT.parent / "README.md"
    if not readme.is_file():
        pytest.skip("there is no README here")
    text = readme.read_text(encoding="utf-8")
    assert not [name for name in cli.commands if not re.search(rf"\b{name}\b", text)]
