"""The house rules that a machine can check: direction of imports, light start, help texts, who may print."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import click
import pytest

import memrec_convert
from memrec_convert.cli.commands import cli

ROOT = Path(memrec_convert.__file__).resolve().parent
FILES = sorted(ROOT.rglob("*.py"))
LAYERS = (
    {"__main__"},
    {"cli"},
    {"lab"},
    {"bench", "exports", "patches", "torchrec"},
    {"conversion", "recipe"},
    {"report", "artifact"},
    {"finetune", "distill"},
    {"planning"},
    {"models"},
    {"lookup"},
    {"encoding", "clicklog", "checkpoint", "evaluation"},
    {
        "kernels",
        "remote",
        "choices",
        "results",
        "safe_files",
        "units",
        "errors",
        "file_digest",
        "parallel",
        "streams",
        "version",
    },
)
"""Unit (subpackage or module of the top level) by layer, the highest first; imports point down, or sideways."""
FLOORS = (
    {"convert", "plan", "compress", "evaluate", "verify", "report"},
    {"gating"},
    {"shrink"},
    {"measuring"},
    {"steps"},
    {"inputs", "ranks"},
    {"options"},
)
"""The same inside `conversion`."""
LEVEL = {unit: level for level, units in enumerate(LAYERS) for unit in units}
FLOOR = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
COMMAND_LINE = ROOT / "cli"
VERBS = {name for name in memrec_convert.__all__ if not name.startswith("_")}
MOST_FILES, MOST_LINES, MOST_FUNCTION_LINES = 14, 399, 59


def module_of(file: Path) -> str:
    """A file's dotted name; a package's own file has the package's."""
    parts = ("memrec_convert", *file.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(file): file for file in FILES}
FACE = "memrec_convert"
"""The package's own file only names where the verbs are, for type checkers; nothing in the package imports it."""


def unit_of(file: Path) -> str:
    """The subpackage or top-level module that a file belongs to; the package's own __init__ is ''."""
    first = file.relative_to(ROOT).parts[0]
    return "" if first == "__init__.py" else first.removesuffix(".py")


def imported_modules(file: Path) -> set[str]:
    """Every module of this package that a file imports, at any depth of the code, for type checkers too."""
    package = ["memrec_convert", *file.relative_to(ROOT).parent.parts]
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) + 1 - node.level]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            for alias in node.names:
                name = f"{module}.{alias.name}"
                found.update({name if name in MODULES else module} & MODULES.keys())
    return found


def imported_units(file: Path) -> set[str]:
    """The units of this package that a file imports from, its own left out."""
    return {name.split(".")[1] for name in imported_modules(file) if name != FACE} - {unit_of(file)}


def room_of(module: str) -> str | None:
    """The room inside `conversion` that a module is, or lies in."""
    parts = module.split(".")
    return parts[2] if len(parts) > 2 and parts[1] == "conversion" else None


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


@pytest.mark.parametrize("file", sorted((ROOT / "conversion").rglob("*.py")), ids=lambda file: module_of(file))
def test_inside_conversion_imports_point_down_too(file):
    """Verbs import steps and measuring, those import inputs, never the other way round."""
    own = room_of(module_of(file))
    if own is not None:
        rooms = {room for name in imported_modules(file) if (room := room_of(name)) is not None}
        assert not {room for room in rooms if FLOOR[room] < FLOOR[own]}


def test_no_modules_import_each_other_in_a_circle():
    """The graph of all files has an order: imports inside functions and for type checkers are counted."""
    graph = {name: imported_modules(file) - {name, FACE} for name, file in MODULES.items() if name != FACE}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_nothing_imports_the_face():
    """The package's own file hands on verbs: who imports it inside the package would go round in a circle."""
    assert not [name for name, file in MODULES.items() if FACE in imported_modules(file)]


def test_nothing_but_the_command_line_imports_the_lab():
    """The study of the method stands apart: a conversion never needs it."""
    users = {unit_of(file) for file in FILES if "lab" in imported_units(file)}
    assert users - {""} == {"cli"}


def test_no_folder_holds_more_files_than_the_eye_takes_in():
    """At most 14 Python files in a folder."""
    counts = Counter(file.parent for file in FILES)
    assert not {str(folder): count for folder, count in counts.items() if count > MOST_FILES}


def test_files_and_functions_are_short():
    """Files stay under 400 lines, functions under 60, signature and docstring included."""
    long = []
    for name, file in MODULES.items():
        text = file.read_text(encoding="utf-8")
        if text.count("\n") > MOST_LINES:
            long.append(name)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= MOST_FUNCTION_LINES:
                long.append(f"{name}.{node.name}")
    assert not long


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
    """print, click.echo, sys.exit and the streams belong to the package `cli`."""
    loud = {"print", "click.echo", "echo", "sys.exit", "exit", "sys.stdout.write", "sys.stderr.write"}
    assert not {str(f.relative_to(ROOT)) for f in FILES if COMMAND_LINE not in f.parents and loud & set(calls_of(f))}


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
    wide = []
    for name, file in MODULES.items():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ExceptHandler):
                caught = "" if node.type is None else ast.unparse(node.type)
                if node.type is None or re.search(r"\b(Base)?Exception\b(?!Group)", caught):
                    wide.append(name)
    assert not wide


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
