"""The place web: a static page with the model and onnxruntime-web; it asks for nothing but its own files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from memrec_convert.errors import ExportError, OutputError
from memrec_convert.exports.golden import ROUNDING, TOLERANCE
from memrec_convert.exports.onnx_file import build_model, prove_bytes, read_metadata, recognise_start, require
from memrec_convert.exports.place import Place, Proved, Subject, Target
from memrec_convert.safe_files import check_target, write_file

RUNTIME_VERSION = "1.30.0"
"""Of onnxruntime-web: what the page was tried with, and examples/browser pins."""
RUNTIME_FILES = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
PAGE_FILES = ("index.html", "page.css", "page.js")
_PAGE = Path(__file__).with_name("page")
_FACTS = "model.json"
_MODEL = "model.onnx"


def check(target: Target) -> None:
    """OutputError where the folder cannot be made or holds other files; ExportError without library or runtime."""
    folder = target.path
    if folder.is_dir():
        if any(folder.iterdir()) and not (target.force and recognise(folder)):
            raise OutputError(f"{folder} is not empty; choose another directory, or replace an export with --force.")
    else:
        check_target(folder, force=False)
    require("onnx")
    if target.web_runtime is not None:
        lacking = [name for name in RUNTIME_FILES if not (target.web_runtime / name).is_file()]
        if lacking:
            raise ExportError(
                f"{target.web_runtime} lacks {lacking[0]}; give the folder dist of onnxruntime-web {RUNTIME_VERSION} "
                f"(npm install onnxruntime-web@{RUNTIME_VERSION})."
            )


def write(subject: Subject, target: Target) -> Sequence[Path]:
    """Writes page, model and runtime; what the page opens first is written last, each file whole or not at all."""
    if subject.architecture["name"] == "tables":
        raise ExportError(
            f"{subject.path} holds tables without a network, which give no click probability; convert a whole model, "
            "or export to onnx."
        )
    content = build_model(subject)
    folder = target.path
    parts: dict[str, bytes] = {}
    if target.web_runtime is not None:
        parts |= {f"runtime/{name}": (target.web_runtime / name).read_bytes() for name in RUNTIME_FILES}
    parts |= {_MODEL: content}
    parts |= {name: (_PAGE / name).read_bytes() for name in reversed(PAGE_FILES)}
    facts = describe_page(content, folder, dense=int(subject.architecture["bottom"][0]), files=parts)
    parts[_FACTS] = json.dumps(facts, separators=(",", ":")).encode()
    (folder / "runtime").mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        write_file(folder / name, [part])
    return [folder / "index.html", *(folder / name for name in parts if name != "index.html")]


def describe_page(content: bytes, folder: Path, *, dense: int, files: Mapping[str, bytes]) -> dict[str, Any]:
    """What the page knows of its model: all that the model says of itself, its inputs, and digests of the files."""
    said = read_metadata(content, folder / _MODEL)
    digests = {name: _digest(part) for name, part in files.items()}
    return said | {
        "dense": dense,
        "bytes": len(content),
        "tolerance": TOLERANCE,
        "rounding": ROUNDING,
        "files": digests,
    }


def recognise(path: Path) -> bool:
    """Whether a folder holds a page that `write` made."""
    try:
        return path.is_dir() and (path / _FACTS).is_file() and recognise_start(path / _MODEL)
    except (OSError, ValueError):
        return False


def prove(path: Path) -> Proved:
    """Checks every file against its digest, then runs the golden samples of the model in ONNX Runtime."""
    total = (path / _FACTS).stat().st_size
    try:
        digests: dict[str, str] = json.loads((path / _FACTS).read_bytes())["files"]
        runtime = {f"runtime/{name}" for name in RUNTIME_FILES}
        if set(digests) - runtime != {_MODEL, *PAGE_FILES} or set(digests) & runtime not in (set(), runtime):
            raise ExportError(f"{path / _FACTS} lists other files than a page has; export the artifact again.")
        for name, digest in digests.items():
            part = (path / name).read_bytes()
            total += len(part)
            if _digest(part) != digest:
                raise ExportError(f"{path / name} does not match its digest: the file was changed; export it again.")
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ExportError(f"{path}: a file of the export is missing or damaged; export the artifact again.") from error
    return replace(prove_bytes((path / _MODEL).read_bytes(), path, "web"), bytes=total)


def _digest(part: bytes) -> str:
    return hashlib.blake2b(part, digest_size=16).hexdigest()


WEB = Place(check, write, recognise, prove)
