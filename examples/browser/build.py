"""Build a page that runs a compressed model in the browser, and serve it on this machine.

    npm ci --prefix examples/browser
    python examples/browser/build.py --out page --serve

The demo model is made and converted on the fly.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from convert_checkpoint import make_checkpoint  # noqa: E402

from memrec_convert import convert, export, verify  # noqa: E402

RUNTIME = HERE / "node_modules" / "onnxruntime-web" / "dist"


def main() -> None:
    """Convert, export, prove, and serve on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("page"), help="directory to write (default: page)")
    parser.add_argument("--serve", action="store_true", help="serve it on http://127.0.0.1:8000 until Ctrl-C")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        artifact = Path(folder) / "dlrm.safetensors"
        convert(make_checkpoint(Path(folder)), "10x", out=artifact, oov="zero")
        print(f"artifact: {verify(artifact).bytes} bytes")
        page = export(artifact, to="web", out=given.out, web_runtime=RUNTIME, force=True)
    print(f"page: {page.path}, {page.files[str(given.out / 'model.onnx')]} bytes of model, {page.bytes} in all")
    if given.serve:
        handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=given.out)
        print("http://127.0.0.1:8000")
        http.server.ThreadingHTTPServer(("127.0.0.1", 8000), handler).serve_forever()


if __name__ == "__main__":
    main()
