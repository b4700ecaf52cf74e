"""The HTML page in a real browser: silent, loading nothing, sorting, at home on a telephone and in the dark."""

import json
import os
from pathlib import Path

import pytest
from browser import Browser, find_browser
from test_html import HOSTILE, render_full

FOUND, MISSING = find_browser()
pytestmark = [pytest.mark.browser, pytest.mark.skipif(FOUND is None, reason=MISSING)]
READ_COLUMN = """
return [...document.querySelectorAll("#tables tbody tr")].map((row) => row.cells[arguments[0]].textContent);
"""
READ_WIDTHS = "return [document.documentElement.scrollWidth, innerWidth];"


@pytest.fixture(scope="module")
def browser():
    """One browser for all of these tests."""
    with Browser(*FOUND) as opened:
        yield opened


@pytest.fixture
def page(make_report, tmp_path):
    """The page of a full report as a file, with a dozen tables."""
    path = tmp_path / "page.html"
    path.write_text(render_full(make_report(tables=12)), encoding="utf-8")
    return path


@pytest.fixture
def hostile(make_report, tmp_path):
    """The same with names that try to run, to break out and to hide."""
    path = tmp_path / "hostile.html"
    name = HOSTILE + "w" * 300
    path.write_text(render_full(make_report(name, HOSTILE, tables=3), name, HOSTILE), encoding="utf-8")
    return path


def test_the_console_is_silent_and_nothing_leaves_the_page(browser, page):
    """No error, no warning, no breach of the policy; the file itself is all that is asked for."""
    browser.read_console()
    browser.read_requests()
    browser.show(page)
    assert browser.run("return document.querySelectorAll('#tables th button').length;") == 10
    assert browser.read_console() == []
    assert set(browser.read_requests()) == {page.as_uri()}


def test_tables_sort_by_their_figures_both_ways(browser, page):
    """A click sorts by the number behind the text, another one the other way; names sort as people count."""
    browser.show(page)
    before = browser.run(READ_COLUMN, 1)
    browser.click("#tables th:nth-child(2) button")
    rising = browser.run(READ_COLUMN, 1)
    assert [int(cell.replace(",", "")) for cell in rising] == sorted(int(cell.replace(",", "")) for cell in before)
    browser.click("#tables th:nth-child(2) button")
    assert browser.run(READ_COLUMN, 1) == rising[::-1]
    assert browser.run("return document.querySelector('#tables th:nth-child(2)').ariaSort;") == "descending"
    browser.click("#tables th:nth-child(1) button")
    assert browser.run(READ_COLUMN, 0) == [f"user{number}" for number in range(12)]
    sorted_by = "return [...document.querySelectorAll('#tables th[aria-sort]')].map((one) => one.textContent);"
    assert browser.run(sorted_by) == ["table"]


def test_names_are_shown_and_do_nothing(browser, hostile):
    """A script, an image and an end tag in a name are text: nothing runs, loads or reaches the console."""
    browser.read_console()
    browser.read_requests()
    browser.show(hostile)
    assert browser.run("return [typeof window.hacked, document.images.length, document.scripts.length];") == [
        "undefined",
        0,
        1,
    ]
    assert browser.run("return document.querySelector('#tables tbody th').textContent;").startswith("\"'><script>")
    shown = browser.run("return document.querySelector('#warnings li').textContent;")
    assert shown.startswith("\"'><script>window.hacked=1</script><img src=x")
    assert "\\u202eevil\\u2066\\x1b[31m" in shown
    assert browser.read_console() == []
    assert set(browser.read_requests()) == {hostile.as_uri()}


def test_a_script_that_got_in_all_the_same_would_not_run(browser, page):
    """The page's own policy forbids every script and request that it does not bring."""
    text = page.read_text(encoding="utf-8")
    forced = "<script>window.hacked=1</script><img src=https://example.invalid/x.png onerror=window.hacked=1>"
    page.write_text(text.replace("</footer>", forced + "</footer>"), encoding="utf-8")
    browser.show(page)
    assert browser.run("return typeof window.hacked;") == "undefined"
    assert any("Content Security Policy" in message for message in browser.read_console())


@pytest.mark.parametrize("name", ["page", "hostile"])
@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_is_never_wider_than_its_window(browser, request, name, width):
    """On a telephone and on a desk, only tables scroll, each within itself; no chart is wider than its figure."""
    browser.show(request.getfixturevalue(name), width=width)
    whole, window = browser.run(READ_WIDTHS)
    assert whole <= window == width
    plots = "[...document.querySelectorAll('svg.plot')]"
    assert browser.run(f"return {plots}.filter((one) => one.clientWidth > innerWidth - 32).length;") == 0


def test_the_page_follows_the_readers_scheme(browser, page):
    """Light ink on dark paper in the dark, and the other way round in the light."""
    grounds = {}
    for dark in (False, True):
        browser.show(page, dark=dark)
        grounds[dark] = browser.run("return getComputedStyle(document.body).backgroundColor;")
    assert grounds == {False: "rgb(252, 252, 251)", True: "rgb(22, 22, 24)"}


def test_what_is_folded_is_printed(browser, page):
    """Before printing, every folded table opens; afterwards it is as the reader had it."""
    browser.show(page)
    folded = "return document.querySelectorAll('details:not([open])').length;"
    before = browser.run(folded)
    assert before >= 3
    browser.run("dispatchEvent(new Event('beforeprint'));")
    assert browser.run(folded) == 0
    browser.run("dispatchEvent(new Event('afterprint'));")
    assert browser.run(folded) == before


@pytest.mark.skipif(not os.environ.get("MEMREC_AXE"), reason="MEMREC_AXE names no axe.min.js")
@pytest.mark.parametrize("name", ["page", "hostile"])
@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_no_fault(browser, request, name, width, dark):
    """axe-core, where somebody has it, finds nothing to fault, folded tables opened too."""
    browser.show(request.getfixturevalue(name), width=width, dark=dark)
    browser.run("document.querySelectorAll('details').forEach((one) => { one.open = true; });")
    browser.run(Path(os.environ["MEMREC_AXE"]).read_text(encoding="utf-8") + "; window.axe = axe;")
    found = browser.wait_for("axe.run(document, { resultTypes: ['violations'] })")
    faults = [(one["id"], one["impact"], [node["html"] for node in one["nodes"]]) for one in found["violations"]]
    assert faults == [], json.dumps(faults, indent=1)
