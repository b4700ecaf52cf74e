"""The folder of a page: what is in it, what is refused, and that damage is found."""

from __future__ import annotations

import json

import pytest
from tiny_networks import save_network

from memrec_convert import export
from memrec_convert.errors import ExportError, OutputError
from memrec_convert.exports.export import find_place, prove
from memrec_convert.exports.web import RUNTIME_FILES, WEB

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.onnx


@pytest.fixture
def page(tmp_path):
    """A page with a runtime that is none."""
    for name in RUNTIME_FILES:
        (tmp_path / name).write_bytes(b"runtime")
    export(save_network("deepfm, rows", tmp_path), to="web", out=tmp_path / "page", web_runtime=tmp_path)
    return tmp_path / "page"


def test_a_page_proves_itself(page):
    """Its model gives the golden samples; its bytes are those of all files."""
    assert find_place(page) is WEB
    proved = prove(page)
    assert (proved.place, proved.samples) == ("web", 64)
    assert proved.bytes == sum(file.stat().st_size for file in page.rglob("*") if file.is_file())


@pytest.mark.parametrize("name", ["page.js", "index.html", "model.onnx", f"runtime/{RUNTIME_FILES[1]}"])
def test_a_file_that_changed_is_named(name, page):
    """Every file has its digest; one that is gone is damage too."""
    (page / name).write_bytes((page / name).read_bytes() + b" ")
    with pytest.raises(ExportError, match=name):
        prove(page)
    if name != "model.onnx":
        (page / name).unlink()
        with pytest.raises(ExportError, match="missing or damaged"):
            prove(page)


def test_facts_that_are_none_are_damage(page):
    """JSON of another kind, or none."""
    for text in ("", "[]"):
        (page / "model.json").write_text(text)
        with pytest.raises(ExportError, match="damaged"):
            prove(page)


@pytest.mark.parametrize("change", [{"../../x": "0"}, {"/dev/zero": "0"}, {"runtime/other.wasm": "0"}, None])
def test_no_other_file_is_opened_and_none_is_passed_over(change, page):
    """The list of files is a page's own: nothing outside is read, and no part goes unchecked."""
    facts = json.loads((page / "model.json").read_text())
    facts["files"] = facts["files"] | change if change else {}
    (page / "model.json").write_text(json.dumps(facts))
    with pytest.raises(ExportError, match="lists other files than a page has"):
        prove(page)


def test_only_an_export_is_replaced(page, tmp_path):
    """A folder with other files stays as it is, even with force."""
    path = tmp_path / "network.safetensors"
    with pytest.raises(OutputError, match="not empty"):
        export(path, to="web", out=page)
    export(path, to="web", out=page, force=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("dear")
    with pytest.raises(OutputError, match="not empty"):
        export(path, to="web", out=tmp_path / "other", force=True)
    assert [file.name for file in (tmp_path / "other").iterdir()] == ["letter.txt"]


def test_what_a_page_cannot_hold_is_refused(page, tmp_path):
    """Tables without a network, and a runtime that is not there: nothing is written."""
    (tmp_path / "network.safetensors").unlink()
    path = save_network("tables", tmp_path)
    with pytest.raises(ExportError, match="no click probability"):
        export(path, to="web", out=tmp_path / "new")
    with pytest.raises(ExportError, match="npm install onnxruntime-web"):
        export(path, to="web", out=tmp_path / "new", web_runtime=page)
    assert not (tmp_path / "new").exists()
