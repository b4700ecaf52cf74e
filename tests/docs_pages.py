"""What the tests of the documents share: the pages, their fenced blocks, links and anchors."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^(```+)(\w*)\n(.*?)^\1$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^)>\s]*)>?(?:\s+\"[^\"]*\")?\s*\)")
DEFINITION = re.compile(r"^ {0,3}\[[^\]]+\]:\s*(\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language and its text."""

    language: str
    text: str


def find_blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    return [Block(match[2], match[3]) for match in FENCE.finditer(page.read_text(encoding="utf-8"))]


def read_blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page in one language."""
    return [block.text for block in find_blocks(page) if block.language == language]


def split_commands(block: Block) -> Iterator[tuple[str, list[str]]]:
    """The commands of a `sh` or `console` block, each with the lines of output that follow it (`console` alone)."""
    lines = re.sub(r"\\\n\s*", " ", block.text).splitlines()
    if block.language == "sh":
        yield from ((line, []) for line in lines if line.strip() and not line.startswith("#"))
        return
    command, output = "", list[str]()
    for line in lines:
        if line.startswith("$ "):
            if command:
                yield command, output
            command, output = line.removeprefix("$ "), []
        else:
            output.append(line)
    yield command, output


def read_commands() -> list[tuple[str, str]]:
    """(page, line) of every memrec-convert command line in the pages."""
    return [
        (page.name, line)
        for page in PAGES
        for block in find_blocks(page)
        if block.language in ("sh", "console")
        for line, _ in split_commands(block)
        if line.startswith("memrec-convert ")
    ]


def read_prose(page: Path) -> str:
    """The text of a page without fenced blocks and inline code; of another file its whole text."""
    text = page.read_text(encoding="utf-8")
    if page.suffix != ".md":
        return text
    return re.sub(r"(`+)(?!`).+?(?<!`)\1(?!`)", "", FENCE.sub("", text), flags=re.DOTALL)


def list_links(page: Path) -> list[str]:
    """The targets of a page's links, images and link definitions."""
    prose = read_prose(page)
    return LINK.findall(prose) + DEFINITION.findall(prose)


def list_anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them: a repeated heading has its number behind it."""
    seen: Counter[str] = Counter()
    anchors = set()
    for heading in re.findall(r"^#{1,6} (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()).replace(" ", "-")
        anchors.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return anchors
