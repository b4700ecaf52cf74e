"""What each reader makes of the frameworks' own files: `torch.load(weights_only=True)` beside `memrec-convert inspect`.

python benchmarks/zoo_table.py --shared ../shared

Prints the Markdown table of docs/security.md, one line per file or directory of checkpoints/zoo under --shared.
"""

from __future__ import annotations

import argparse
import re
import warnings
from pathlib import Path

import torch

from memrec_convert import inspect
from memrec_convert.checkpoint import read_source
from memrec_convert.errors import MemrecError

_ZOO = Path("checkpoints") / "zoo"
_LEFT_OUT = ("golden",)
_DIRECTORIES = ("dcp", "snapshot", "joint")
_SUFFIXES = (".pt", ".pth", ".h5")


def find_checkpoints(zoo: Path) -> list[Path]:
    """The files, and the directories that are one checkpoint, in the order of their names."""
    found: list[Path] = []
    pending = [path for path in zoo.iterdir() if path.name not in _LEFT_OUT]
    while pending:
        path = pending.pop()
        ranks = path.is_dir() and len(list(path.glob("*rank*.pt"))) > 1
        if path.is_dir():
            if path.name in _DIRECTORIES or ranks:
                found.append(path)
            if path.name not in _DIRECTORIES:
                pending += [inner for inner in path.iterdir() if not (ranks and inner.suffix == ".pt")]
        elif path.suffix in _SUFFIXES:
            found.append(path)
    return sorted(found)


def ask_torch(path: Path) -> str:
    """What `torch.load(weights_only=True)` says."""
    if path.is_dir():
        return "no: a directory"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # noqa: BLE001 - whatever a reader says is its answer
        named = re.search(r"(?:GLOBAL|global) [`']?([A-Za-z_][\w.]*)", str(error))
        return f"no: `{named[1]}`" if named is not None else f"no: {type(error).__name__}"
    return "yes"


def ask_ours(path: Path) -> tuple[str, str]:
    """What `inspect` shows, and whether the file is converted."""
    try:
        report = inspect(path)
    except MemrecError as error:
        return f"no: {type(error).__name__}", "no"
    tables = report.tables
    assert isinstance(tables, list)
    shown = f"yes: {len(tables)} tables, {report.layout}"
    try:
        read_source(path)
    except MemrecError as error:
        return shown, f"no: {type(error).__name__.removesuffix('Error')}"
    return shown, "yes"


def main() -> None:
    """Prints the table, and under it how many files each reads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    zoo = parser.parse_args().shared / _ZOO
    lines = [(path, ask_torch(path), *ask_ours(path)) for path in find_checkpoints(zoo)]
    print("| file | torch.load(weights_only=True) | inspect | converts |")
    print("| --- | --- | --- | --- |")
    for path, loaded, shown, converts in lines:
        print(f"| {path.relative_to(zoo)}{'/' if path.is_dir() else ''} | {loaded} | {shown} | {converts} |")
    theirs, inspected, converted = (sum(line[place].startswith("yes") for line in lines) for place in (1, 2, 3))
    print(f"\nOf {len(lines)}, torch.load reads {theirs}, inspect {inspected}, and {converted} convert by themselves.")


if __name__ == "__main__":
    main()
