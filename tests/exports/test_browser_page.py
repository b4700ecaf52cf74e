"""The exported page in a real browser: its answers are those of load(), and it asks for nothing but its own files."""

from __future__ import annotations

import functools
import http.server
import importlib.util
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from test_golden_samples import takes
from tiny_networks import NETWORKS, save_network

from memrec_convert import export, load

pytest.importorskip("onnx")
ROOT = Path(__file__).resolve().parents[2]
RUNTIME = Path(os.environ.get("MEMREC_ORT_WEB", ROOT / "examples/browser/node_modules/onnxruntime-web/dist"))


def load_browser():
    """The helpers of the report's browser tests, which lie in another folder."""
    path = ROOT / "tests" / "report" / "browser.py"
    description = importlib.util.spec_from_file_location("report_browser", path)
    module = importlib.util.module_from_spec(description)
    description.loader.exec_module(module)
    return module


BROWSER = load_browser()
FOUND, MISSING = BROWSER.find_browser()
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(FOUND is None, reason=MISSING),
    pytest.mark.skipif(not RUNTIME.is_dir(), reason=f"no {RUNTIME} (npm ci --prefix examples/browser)"),
]
SET_FIELD = """
const field = document.getElementById(arguments[0]);
field.value = arguments[1];
field.dispatchEvent(new Event("input", { bubbles: true }));
"""
READY = "return !document.getElementById('random').disabled || document.getElementById('message').textContent !== '';"
READ = "return [document.getElementById('logit').dataset.value, document.getElementById('message').textContent];"


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A file server that keeps still."""

    def log_message(self, *_):
        pass


class Address:
    """What `Browser.show` opens."""

    def __init__(self, url):
        self.url = url

    def as_uri(self):
        return self.url


@pytest.fixture(scope="module")
def browser():
    """One browser for all of these tests."""
    with BROWSER.Browser(*FOUND) as opened:
        yield opened


@pytest.fixture
def serve():
    """A function that serves a folder on this machine and gives its address."""
    servers = []

    def start(folder):
        handler = functools.partial(Quiet, directory=folder)
        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def wait(browser, script):
    """What a script returns once that is true; pages load a runtime of megabytes first."""
    for _ in range(300):
        found = browser.run(script)
        if found:
            return found
        time.sleep(0.1)
    return pytest.fail(f"{script!r} never came true: {browser.read_console()}")


def answer(browser, values):
    """The logit that the page shows for these values of its fields."""
    browser.run("delete document.getElementById('logit').dataset.value;")
    for name, value in values.items():
        browser.run(SET_FIELD, name, str(value))
    time.sleep(0.1)
    logit, message = browser.run(READ)
    assert message == "", values
    return float(logit)


@pytest.mark.parametrize("name", ["dlrm, lower", "deepfm, rows", "sample-pooled, 3 weights"])
def test_ten_answers_are_those_of_load(name, browser, serve, tmp_path):
    """Ids of every kind and raw dense values, typed into the fields; the page transforms the latter."""
    path = save_network(name, tmp_path)
    export(path, to="web", out=tmp_path / "page", web_runtime=RUNTIME)
    browser.show(Address(serve(tmp_path / "page")))
    wait(browser, READY)
    model, draw = load(path), np.random.default_rng(3)
    identity = NETWORKS[name][1].get("dense_transform") == "identity"
    count = browser.run("return document.querySelectorAll('#ids input').length;")
    for _ in range(10):
        ids, dense = draw.integers(-20, 400, count), draw.integers(0, 30, 2)
        fields = {f"ids_{n}": one for n, one in enumerate(ids)} | {f"dense_{n}": one for n, one in enumerate(dense)}
        values = torch.from_numpy(dense.astype(np.float32))
        expected = float(model(values[None] if identity else torch.log1p(values)[None], torch.from_numpy(ids)[None]))
        assert answer(browser, fields) == pytest.approx(expected, abs=1e-5 * max(1, abs(expected)) + 2e-6)


@pytest.mark.parametrize("inputs", ["bags", "weighted-bags"])
def test_bags_are_typed_with_commas(inputs, browser, serve, tmp_path):
    """Several ids, or none, in a field; a weight stands behind an asterisk."""
    name = "dlrm, lower"
    assert takes(name, inputs)
    path = save_network(name, tmp_path)
    export(path, to="web", out=tmp_path / "page", web_runtime=RUNTIME, inputs=inputs)
    browser.show(Address(serve(tmp_path / "page")))
    wait(browser, READY)
    texts = ["4, 7,7", "", "1", "2"] if inputs == "bags" else ["4*0.5, 7,7 * 2", "", "1", "2*-1"]
    ids = [[4, 7, 7], [], [1], [2]]
    weights = [None] * 4 if inputs == "bags" else [[0.5, 1, 2], [], [1], [-1]]
    bags = [
        (
            torch.tensor(own, dtype=torch.int64),
            torch.tensor([0]),
            None if by is None else torch.tensor(by, dtype=torch.float32),
        )
        for own, by in zip(ids, weights, strict=True)
    ]
    expected = float(load(path)(torch.log1p(torch.tensor([[3.0, 5.0]])), bags))
    fields = {f"ids_{n}": text for n, text in enumerate(texts)} | {"dense_0": 3, "dense_1": 5}
    assert answer(browser, fields) == pytest.approx(expected, abs=1e-5)


def test_nothing_leaves_the_page_and_the_console_is_silent(browser, serve, tmp_path):
    """All requests are for the export's own files; no error, no breach of the policy."""
    written = export(save_network("dlrm, lower", tmp_path), to="web", out=tmp_path / "page", web_runtime=RUNTIME)
    url = serve(tmp_path / "page")
    browser.read_console()
    browser.read_requests()
    browser.show(Address(url))
    wait(browser, READY)
    browser.click("#random")
    browser.click("#measure")
    wait(browser, "return document.getElementById('latency').textContent.includes('median');")
    assert "64 samples agree" in browser.run("return document.getElementById('proof').textContent;")
    assert browser.read_console() == []
    own = {url + str(Path(path).relative_to(tmp_path / "page")) for path in written.files} | {url}
    assert set(browser.read_requests()) <= own


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_fits_its_window(width, dark, browser, serve, tmp_path):
    """Nothing sticks out sideways, on a telephone and on a desk."""
    export(save_network("dlrm-dcn", tmp_path), to="web", out=tmp_path / "page", web_runtime=RUNTIME)
    browser.show(Address(serve(tmp_path / "page")), width=width, dark=dark)
    wait(browser, READY)
    across, window = browser.run("return [document.documentElement.scrollWidth, innerWidth];")
    assert across <= window == width


def test_what_is_no_id_is_told(browser, serve, tmp_path):
    """A field that holds something else gets a sentence, and no answer is shown."""
    export(save_network("dlrm, lower", tmp_path), to="web", out=tmp_path / "page", web_runtime=RUNTIME)
    browser.show(Address(serve(tmp_path / "page")))
    wait(browser, READY)
    for name, text in (("ids_1", "many"), ("ids_1", ""), ("ids_1", "1, 2"), ("dense_0", "x")):
        browser.run(SET_FIELD, name, text)
        logit, message = browser.run(READ)
        assert logit is None
        assert "expected" in message
        browser.run(SET_FIELD, name, "1")


def test_a_page_without_its_runtime_says_so(browser, serve, tmp_path):
    """The page shows its fields and what it lacks."""
    export(save_network("dlrm, lower", tmp_path), to="web", out=tmp_path / "page")
    browser.show(Address(serve(tmp_path / "page")))
    assert "--web-runtime" in wait(browser, "return document.getElementById('message').textContent;")


def test_the_example_builds_its_page(tmp_path):
    """The example converts its demo model, writes the page, and says how large it is."""
    command = [sys.executable, str(ROOT / "examples/browser/build.py"), "--out", str(tmp_path / "page")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "page" / "index.html").is_file()
    assert "bytes of model" in done.stdout
