"""The reference of the Python interface is what the code gives now."""

from __future__ import annotations

import importlib.util

import pytest
from docs_pages import ROOT

import memrec_convert


@pytest.fixture(scope="module")
def build_api():
    """The script as a module."""
    description = importlib.util.spec_from_file_location("build_api", ROOT / "docs" / "build_api.py")
    module = importlib.util.module_from_spec(description)
    description.loader.exec_module(module)
    return module


def test_page_is_up_to_date(build_api):
    """docs/api.md is what `python docs/build_api.py` writes."""
    assert build_api.PAGE.read_text(encoding="utf-8") == build_api.build_page()


def test_page_has_every_verb(build_api):
    """Every public name of the package has its heading."""
    page = build_api.build_page()
    assert [name for name in memrec_convert.__all__ if name != "__version__" and f"\n### {name}\n" not in page] == []


def test_page_shows_what_a_docstring_says(build_api, monkeypatch):
    """A docstring or default that changes changes the page."""

    def verify(path: str, *, deep: bool = True) -> None:
        """Says something else."""

    assert "verify(path: str, *, deep: bool = True) -> None\n" in build_api.describe(verify).replace(
        verify.__qualname__, "verify"
    )
    assert "Says something else." in build_api.describe(verify)
