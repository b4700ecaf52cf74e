"""The place pt2: a package for AOTInductor, which runs in Python and in C++.

A package contains compiled code, unlike an artifact. Whoever loads one runs it.
"""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from memrec_convert.errors import ExportError, OutputError
from memrec_convert.exports.golden import UNREADABLE, Golden, golden_from_json
from memrec_convert.exports.packed import load_operators
from memrec_convert.exports.packed_network import build_network
from memrec_convert.exports.place import Place, Proved, Subject, Target
from memrec_convert.safe_files import check_target, write_file

SUFFIX = ".pt2"
SAMPLES = "memrec.json"
"""The file in a package with the artifact's digest and the golden samples."""
LARGEST_SAMPLES = 1 << 26


def _check(target: Target) -> None:
    if target.path.suffix != SUFFIX:
        raise OutputError(f"{target.path}: AOTInductor takes packages whose names end in {SUFFIX}; name it so.")
    check_target(target.path, force=target.force)


def _write(subject: Subject, target: Target) -> Sequence[Path]:
    from torch.export.pt2_archive._package import package_pt2

    network = build_network(subject)
    inputs = tuple(torch.from_numpy(feed) for feed in subject.golden.feeds.values())
    with torch.no_grad(), warnings.catch_warnings(), TemporaryDirectory(prefix="memrec-pt2-") as folder:
        warnings.simplefilter("ignore")  # torch's own, about its own code
        files = _compile(network, inputs, subject, folder)
        package = io.BytesIO()
        package_pt2(package, aoti_files=files, extra_files={SAMPLES: _to_text(subject)})
    write_file(target.path, [package.getvalue()])
    return [target.path]


def export_program(network: nn.Module, inputs: tuple[Tensor, ...], names: Sequence[str]) -> Any:  # noqa: ANN401 - torch's own
    """The network as an exported program, for any batch and bags of any size; names are those of a sample's feeds."""
    dims: dict[str, Any] = {}
    bagged = {name.removeprefix("offsets_") for name in names if name.startswith("offsets_")}
    for name in names:
        kind, _, number = name.partition("_")
        own = kind != "offsets" and (number in bagged or "dense" not in names) and number
        dims[name] = {0: torch.export.Dim(f"n{number}" if own else "batch", min=0 if own else 1)}
    return torch.export.export(network, inputs, dynamic_shapes=(tuple(dims.values()),))


def _compile(network: nn.Module, inputs: tuple[Tensor, ...], subject: Subject, folder: str) -> Any:  # noqa: ANN401
    """The files of a compiled program, in `folder`; ExportError where there is no C++ compiler that torch can use."""
    from torch._inductor import aot_compile, config
    from torch._inductor.exc import CppCompileError, InvalidCxxCompiler

    facts = {
        "memrec.artifact": subject.digest,
        "memrec.inputs": " ".join(subject.golden.feeds),
        "memrec.widths": " ".join(str(feed[0].size) for feed in subject.golden.feeds.values()),
    }
    program = export_program(network, inputs, list(subject.golden.feeds))
    options: dict[str, Any] = {
        "aot_inductor.package": True,
        "aot_inductor.metadata": facts,
        "aot_inductor.output_path": folder,  # in torch's cache sources grow with each compilation
    }
    if hasattr(config.aot_inductor, "enable_line_tables"):  # torch 2.11 and later; it is most of a small package
        options["aot_inductor.enable_line_tables"] = False
    try:
        return aot_compile(program.module(), inputs, options=options)
    except (InvalidCxxCompiler, CppCompileError) as error:
        said = str(error).strip().splitlines()[0][:200]
        raise ExportError(
            f"{subject.path}: torch could not compile the package ({said}); install a C++ compiler (g++), or set CXX "
            "to one."
        ) from error


def _to_text(subject: Subject) -> str:
    plain = {"artifact": subject.digest, "golden": subject.golden.to_json()}
    return json.dumps(plain, separators=(",", ":"), allow_nan=False)


def _recognise(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as package:
            return _find_samples(package) is not None
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        return False


def _find_samples(package: zipfile.ZipFile) -> zipfile.ZipInfo | None:
    return next((entry for entry in package.infolist() if entry.filename.endswith(f"/extra/{SAMPLES}")), None)


def _read_samples(path: Path) -> tuple[str, Golden]:
    """The artifact's digest and the samples of a package, which is not loaded."""
    try:
        with zipfile.ZipFile(path) as package:
            entry = _find_samples(package)
            if entry is None or entry.file_size > LARGEST_SAMPLES:
                raise ExportError(f"{path} has no samples; export the artifact again.")
            if (damaged := package.testzip()) is not None:  # before any of it runs
                raise ExportError(f"{path} > {damaged} does not match its checksum; export the artifact again.")
            plain = json.loads(package.read(entry))
        return str(plain["artifact"]), golden_from_json(plain["golden"])
    except (OSError, zipfile.BadZipFile, *UNREADABLE) as error:
        raise ExportError(f"{path} is damaged ({error}); export the artifact again.") from error


def _prove(path: Path) -> Proved:
    digest, golden = _read_samples(path)
    outputs = run_package(path, golden.feeds)
    names = ["logit"] if golden.logits is not None else list(golden.digests)
    apart = golden.compare(dict(zip(names, outputs, strict=False)), str(path))
    samples = len(next(iter(golden.feeds.values())))
    runtime = f"AOTInductor of torch {torch.__version__}"
    return Proved(str(path), "pt2", path.stat().st_size, digest, samples, apart, runtime)


def run_package(path: Path, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The outputs of a package, which is loaded and so runs its code; ExportError where torch cannot."""
    from torch._inductor import aoti_load_package

    load_operators()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found: Any = aoti_load_package(str(path))(*map(torch.from_numpy, feeds.values()))
    except RuntimeError as error:
        said = str(error).strip().splitlines()[0][:200]
        raise ExportError(
            f"{path} does not run on this machine with torch {torch.__version__} ({said}); export the artifact here."
        ) from error
    return [one.numpy() for one in (found if isinstance(found, list | tuple) else [found])]


PT2 = Place(_check, _write, _recognise, _prove)
