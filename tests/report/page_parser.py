"""Reads a page as strictly as an XML parser would, and says what stands in it."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"br", "link", "meta"}


@dataclass
class Element:
    """A tag with its attributes, the elements in it, and all text below it."""

    name: str
    attributes: dict
    children: list = field(default_factory=list)
    text: str = ""

    def find(self, name):
        """Every element of that name below this one, in the page's order."""
        return [one for one in self.walk() if one.name == name]

    def walk(self):
        """The element itself and all below it."""
        yield self
        for child in self.children:
            yield from child.walk()


class PageParser(HTMLParser):
    """Builds the tree; AssertionError where a tag is not closed in its turn, or an attribute comes twice."""

    def __init__(self):
        super().__init__()
        self.root = Element("", {})
        self.open = [self.root]

    def handle_starttag(self, tag, attrs):
        """A tag opens."""
        assert len(attrs) == len({name for name, _ in attrs}), (tag, attrs)
        element = Element(tag, dict(attrs))
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag):
        """A tag closes: the one that was opened last."""
        assert self.open[-1].name == tag, f"</{tag}> where <{self.open[-1].name}> is open"
        self.open.pop()

    def handle_data(self, data):
        """Text belongs to all open elements."""
        for element in self.open:
            element.text += data


def parse_page(page):
    """The <html> element of a page."""
    assert page.startswith("<!DOCTYPE html>\n")
    parser = PageParser()
    parser.feed(page)
    parser.close()
    assert parser.open == [parser.root]
    (html,) = parser.root.children
    return html
