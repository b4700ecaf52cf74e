"""Runs an artifact's page in headless Chromium: its logits on many samples beside load()'s, and its latency.

npm ci --prefix examples/browser
python benchmarks/browser_page.py small.safetensors --samples 10000
"""

from __future__ import annotations

import argparse
import functools
import http.server
import json
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np

from memrec_convert.exports.export import export, read_subject
from memrec_convert.exports.golden import make_golden

ROOT = Path(__file__).resolve().parents[1]
RUNTIME = ROOT / "examples" / "browser" / "node_modules" / "onnxruntime-web" / "dist"
sys.path.insert(0, str(ROOT / "tests" / "report"))

from browser import Browser, find_browser  # noqa: E402

MEASURE = """
const done = arguments[arguments.length - 1];
(async () => {
  const ort = await import("./runtime/ort.wasm.bundle.min.mjs");
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmPaths = { wasm: new URL("runtime/ort-wasm-simd-threaded.wasm", location.href).href };
  const session = await ort.InferenceSession.create("model.onnx", { executionProviders: ["wasm"] });
  const { dense, ids } = await (await fetch("samples.json")).json();
  const feed = (count) => ({
    dense: new ort.Tensor("float32", Float32Array.from(dense.slice(0, count).flat()), [count, dense[0].length]),
    ids: new ort.Tensor("int64", BigInt64Array.from(ids.slice(0, count).flat(), BigInt), [count, ids[0].length]),
  });
  const logits = Array.from((await session.run(feed(ids.length))).logit.data);
  const milliseconds = {};
  for (const count of [1, 64]) {
    const feeds = feed(count);
    const turns = [];
    for (let turn = 0; turn < 15; turn += 1) {
      const began = performance.now();
      for (let run = 0; run < 100; run += 1) await session.run(feeds);
      turns.push((performance.now() - began) / 100);
    }
    milliseconds[count] = Math.min(...turns);
  }
  return { logits, milliseconds };
})().then(done, (fault) => done({ fault: String(fault) }));
"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A file server that keeps still."""

    def log_message(self, *_: object) -> None:
        """Says nothing."""


class Address(str):
    """What `Browser.show` opens."""

    def as_uri(self) -> str:
        """Itself."""
        return str(self)


def main() -> None:
    """Prints the largest difference and the latency."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--web-runtime", type=Path, default=RUNTIME)
    given = parser.parse_args()
    subject = read_subject(given.artifact, "ids")
    golden = make_golden(subject.model, subject.architecture, "ids", samples=given.samples)
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page"
        export(given.artifact, to="web", out=page, web_runtime=given.web_runtime)
        (page / "samples.json").write_text(json.dumps(golden.to_json()["feeds"]))
        found = run_page(page)
    assert golden.logits is not None
    logits = np.array(found["logits"], dtype=np.float32)
    apart = np.abs(logits - golden.logits) / np.maximum(1, np.abs(golden.logits))
    print(f"largest difference of {len(logits)} samples, in units of max(1, |logit|): {apart.max():.2e}")
    for count, milliseconds in found["milliseconds"].items():
        print(f"batch {count}: {milliseconds * 1000:.0f} us")


def run_page(page: Path) -> dict[str, Any]:
    """What MEASURE finds in the page's own window."""
    binaries, missing = find_browser()
    if binaries is None:
        sys.exit(missing)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=page))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with Browser(*binaries) as browser:
        browser.driver.set_script_timeout(120)
        browser.show(Address(f"http://127.0.0.1:{server.server_port}/"))
        found = browser.driver.execute_async_script(MEASURE)
    server.shutdown()
    if "fault" in found:
        sys.exit(found["fault"])
    return found


if __name__ == "__main__":
    main()
