"""CONTRIBUTING leads where it says: its paths are there, and every room of the package has its line."""

from __future__ import annotations

import re
from pathlib import Path

import memrec_convert

PACKAGE = Path(memrec_convert.__file__).resolve().parent
ROOT = PACKAGE.parent
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
WALKS = dict(re.findall(r"^### (.+?)\n(.*?)(?=^##)", PAGE, re.DOTALL | re.MULTILINE))
PATH = re.compile(r"`([\w./-]+(?:\.(?:py|h|cpp|md)|/))`")


def find_missing(text: str) -> list[str]:
    """The files and folders that a text names in backticks and that are not there."""
    return [path for path in PATH.findall(text) if not (PACKAGE / path).exists() and not (ROOT / path).exists()]


def test_every_walk_names_files_that_exist() -> None:
    """Each thing that one may want to add has files to change, and all of them are there."""
    assert len(WALKS) >= 11
    assert find_missing(PAGE) == []
    assert [name for name, text in WALKS.items() if len(PATH.findall(text)) < 2] == []
    assert find_missing("`lookup/no_such.py` and `no_such/`") == ["lookup/no_such.py", "no_such/"]


def test_names_in_the_walks_are_in_their_files() -> None:
    """A name in backticks, such as `LAYOUTS`, occurs in one of the files that its walk names: no stale directions."""
    stale = []
    for title, text in WALKS.items():
        paths = [PACKAGE / path if (PACKAGE / path).exists() else ROOT / path for path in PATH.findall(text)]
        files = [file for path in paths for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()]
        known = "".join(
            file.read_text(encoding="utf-8") for file in files if file.suffix in (".py", ".h", ".cpp", ".md")
        )
        names = [name for name in re.findall(r"`(\w+)`", text) if not re.search(rf"\b{name}\b", known)]
        stale += [f"{title}: {name}" for name in names]
    assert stale == []


def test_every_room_has_its_line() -> None:
    """The list of what is where has each subpackage and each module of the package's top level."""
    listed = re.search(r"^    memrec_convert/\n(.*?)^    tests/", PAGE, re.DOTALL | re.MULTILINE)
    assert listed is not None
    rooms = {path.parent.name + "/" for path in PACKAGE.glob("*/__init__.py")} | {"runtime/"}  # C++ alone
    rooms |= {path.name for path in PACKAGE.glob("*.py") if not path.name.startswith("__")}
    rooms |= {path.parent.name + "/" for path in PACKAGE.glob("conversion/*/__init__.py")}
    assert set(re.findall(r"(?:^|\s)([a-z_]+(?:/|\.py))(?=\s|$)", listed[1])) == rooms
