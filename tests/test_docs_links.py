"""Links of the documents, strictly and offline: files, anchors, paths in the text, the form of what leads outside."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from docs_pages import PAGES, ROOT, list_anchors, list_links, read_prose

SOURCES = [*sorted((ROOT / "examples").glob("*.py")), *sorted((ROOT / "recipes").rglob("*.yaml"))]
FOLDERS = "benchmarks|docs|examples|memrec_convert|recipes|tests"
ABSOLUTE = re.compile(r"(?<![\w.:/<])(?:/(?:home|root|tmp|work|usr|opt|mnt|Users)/|~/|file://|[A-Z]:\\)")


def find_broken(page: Path, *, root: Path = ROOT) -> list[str]:
    """The links of a page that lead nowhere within the repository, or outside in a form that no address has."""
    return [link for link in list_links(page) if not resolves(page, link, root=root)]


def resolves(page: Path, link: str, *, root: Path) -> bool:
    """Whether a link leads to a file below `root`, and its anchor to a heading; an address is looked at, not called."""
    address = urlsplit(link)
    if address.scheme or link.startswith("//"):
        return address.scheme == "https" and bool(re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", address.netloc))
    name, _, anchor = link.partition("#")
    target = (page.parent / name).resolve() if name else page
    if name.startswith("/") or not target.is_relative_to(root) or not target.exists():
        return False
    return "#" not in link or (target.suffix == ".md" and anchor in list_anchors(target))


def find_dead_paths(text: str, roots: Sequence[Path] = (ROOT,)) -> list[str]:
    """Paths into the repository that a text names and that are not there."""
    named = re.findall(rf"(?<![\w/.-])((?:{FOLDERS})/[\w./-]*\w/?)", text)
    return [path for path in named if not any((root / path).exists() for root in roots)]


@pytest.mark.parametrize("page", [*PAGES, *SOURCES], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page):
    """Every link of a page, example or recipe leads to a file and heading that are there."""
    assert find_broken(page) == []


@pytest.mark.parametrize("page", [*PAGES, *SOURCES], ids=lambda page: str(page.relative_to(ROOT)))
def test_named_paths_exist(page):
    """A path into the repository that stands in text, code or a command is there."""
    package = ROOT / "memrec_convert"
    text = re.sub(r"https://\S+", "", page.read_text(encoding="utf-8"))
    assert find_dead_paths(text, (ROOT, package)) == []


@pytest.mark.parametrize("page", [*PAGES, *SOURCES], ids=lambda page: str(page.relative_to(ROOT)))
def test_no_absolute_paths(page):
    """No page names a place on one machine."""
    assert ABSOLUTE.findall(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("page", [*PAGES, *SOURCES], ids=lambda page: str(page.relative_to(ROOT)))
def test_bare_addresses_have_the_form_of_addresses(page):
    """What looks like an address in the text is one."""
    found = re.findall(r"\bhttps?:[^\s<>)\]\"'`,;]*", read_prose(page))
    assert [url for url in found if not resolves(page, url.rstrip("."), root=ROOT)] == []


def test_index_leads_to_every_page():
    """The index of the documents links every page in the folder, and the README links the index."""
    index = ROOT / "docs" / "README.md"
    linked = {link.partition("#")[0] for link in list_links(index)}
    assert {page.name for page in PAGES if page.parent == index.parent} - {index.name} <= linked
    assert "docs/README.md" in list_links(ROOT / "README.md")


@pytest.mark.parametrize(
    "link",
    [
        "gone.md",
        "page.md#nowhere",
        "#gone",
        "other.md#",
        "../outside.md",
        "/etc/hosts",
        "http://example.org/",
        "https://nowhere",
        "https//example.org",
        "file:///x",
        "//example.org/x",
        "other.md#not-a-heading",
    ],
)
def test_a_broken_link_is_found(link, tmp_path):
    """The check sees a missing file or heading, a way out of the repository, and an address of a wrong form."""
    (tmp_path / "outside.md").write_text("# There\n", encoding="utf-8")
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "other.md").write_text("# Heading\n\n```sh\n# not a heading\n```\n", encoding="utf-8")
    page = folder / "page.md"
    sound = '[a](other.md#heading) [b](#twice-1) [c](https://example.org/x_(y)) ![d](other.md "title") `[e](code)`\n'
    page.write_text(f"# Twice\n\n# Twice\n\n{sound}\nand a [link\nover lines]({link})\n", encoding="utf-8")
    assert find_broken(page, root=folder) == [link]


def test_a_dead_path_is_found():
    """The check of paths sees one that is not there, and leaves addresses within other paths alone."""
    assert find_dead_paths("`docs/cli.md`, `docs/gone.md`, ../docs/no, x/tests/no and `tests/`") == ["docs/gone.md"]


@pytest.mark.parametrize("text", ["in /home/me/x", "`/tmp/x`", "~/x", "(file:///x)", "C:\\x"])
def test_an_absolute_path_is_found(text):
    """The check of absolute paths sees the usual ones."""
    assert ABSOLUTE.search(text)
