"""Packages for AOTInductor: they prove themselves in Python, and a C++ program without Python serves them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from native_build import TESTS, find_compiler
from tiny_networks import save_network

from memrec_convert import export
from memrec_convert.errors import ExportError, OutputError
from memrec_convert.exports.export import find_place, prove, read_subject
from memrec_convert.exports.pt2 import PT2, run_package
from memrec_convert.kernels.library import find_operator

EXAMPLE = TESTS.parent / "examples" / "cpp_server"
pytestmark = [pytest.mark.engines, pytest.mark.usefixtures("operators")]


@pytest.fixture(autouse=True)
def compiler() -> None:
    """Skips where nothing compiles."""
    find_compiler()


def test_a_narrow_dense_part_is_exported_in_fp32(tmp_path):
    """A file that computes in int8 becomes a package of its stored weights that proves itself."""
    path = TESTS / "artifact" / "golden" / "format-2-narrow.safetensors"
    export(path, to="pt2", out=tmp_path / "a.pt2")
    assert prove(tmp_path / "a.pt2").largest_difference < 1e-6


def test_a_damaged_package_is_not_run(tmp_path):
    """Its checksums are compared before any of its code is loaded."""
    export(save_network("dlrm, lower", tmp_path), to="pt2", out=tmp_path / "a.pt2")
    with zipfile.ZipFile(tmp_path / "a.pt2") as package:
        (library,) = [entry for entry in package.infolist() if entry.filename.endswith(".so")]
        place = library.header_offset + 30 + len(library.filename) + library.file_size // 2
    content = bytearray((tmp_path / "a.pt2").read_bytes())
    content[place] ^= 1
    (tmp_path / "a.pt2").write_bytes(content)
    with pytest.raises(ExportError, match=r"\.so does not match its checksum"):
        prove(tmp_path / "a.pt2")


@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("dlrm, lower", "ids"),
        ("dlrm, side by side", "weighted-bags"),
        ("dlrm, upper", "bags"),
        ("tables", "ids"),
        ("sample-pooled, 1 weights", "bags"),
    ],
)
def test_a_package_proves_itself(name, inputs, tmp_path):
    """It carries the artifact's digest and samples, and `prove` runs them."""
    path = save_network(name, tmp_path)
    exported = export(path, to="pt2", out=tmp_path / "a.pt2", inputs=inputs)
    assert exported.bytes == (tmp_path / "a.pt2").stat().st_size
    assert find_place(tmp_path / "a.pt2") is PT2
    proved = prove(tmp_path / "a.pt2")
    assert proved.artifact == exported.artifact
    assert proved.samples == 64
    assert proved.largest_difference < 1e-6


def test_a_package_refuses_foreign_ids_and_other_answers(tiny, tmp_path):
    """An id outside is an exception; a package whose samples were changed is found, and one that is damaged."""
    from memrec_convert import convert

    convert(tiny.bare, "12kB", out=tmp_path / "a.safetensors", method="int8")
    package = tmp_path / "a.pt2"
    export(tmp_path / "a.safetensors", to="pt2", out=package)
    feeds = dict(read_subject(tmp_path / "a.safetensors", "ids").golden.feeds)
    feeds["ids"] = feeds["ids"].copy()
    feeds["ids"][5, 1] = 10**6
    with pytest.raises(ExportError, match=r"tables\.1: id number 5 is outside"):
        run_package(package, feeds)
    change_samples(package, tmp_path / "b.pt2", logits=lambda logits: [one + 1 for one in logits])
    with pytest.raises(ExportError, match=r"sample \d+ gives the logit"):
        prove(tmp_path / "b.pt2")
    change_samples(package, tmp_path / "c.pt2", logits=lambda _: "none")
    with pytest.raises(ExportError, match="is damaged"):
        prove(tmp_path / "c.pt2")
    (tmp_path / "d.pt2").write_bytes(package.read_bytes()[:-100])
    assert find_place(tmp_path / "d.pt2") is None


def test_a_package_refuses_malformed_requests(tmp_path):
    """Compiled code takes shapes and dtypes for granted: what does not fit ends in an exception, not in an answer."""
    path = save_network("dlrm, side by side", tmp_path)
    package = tmp_path / "a.pt2"
    export(path, to="pt2", out=package, inputs="weighted-bags")
    feeds = dict(read_subject(path, "weighted-bags").golden.feeds)
    assert len(run_package(package, feeds)[0]) == len(feeds["dense"])
    bags = next(name for name in feeds if name.startswith("weights_")).removeprefix("weights_")
    ids, offsets, weights = (feeds[f"{kind}_{bags}"] for kind in ("ids", "offsets", "weights"))
    for changed in (
        {"dense": feeds["dense"][:-1]},
        {"dense": feeds["dense"].astype(np.float64)},
        {"dense": feeds["dense"][:, 1:]},
        {f"ids_{bags}": ids[:-1]},
        {f"ids_{bags}": ids.astype(np.float32)},
        {f"offsets_{bags}": offsets[:-1]},
        {f"offsets_{bags}": offsets + len(ids)},
        {f"weights_{bags}": weights[:-1]},
        {f"weights_{bags}": weights.astype(np.float64)},
    ):
        (name,) = changed
        with pytest.raises(ExportError, match=rf"memrec: (\w+_{bags}|{name}) (is|has|must)"):
            run_package(package, feeds | changed)
    fewer = {name: one for name, one in feeds.items() if name != f"weights_{bags}"}
    with pytest.raises(ExportError, match="does not run"):
        run_package(package, fewer)


def change_samples(package, out, *, logits):
    """A copy of a package with other logits."""
    with zipfile.ZipFile(package) as old, zipfile.ZipFile(out, "w") as new:
        for entry in old.infolist():
            content = old.read(entry)
            if entry.filename.endswith("/extra/memrec.json"):
                plain = json.loads(content)
                plain["golden"]["logits"] = logits(plain["golden"]["logits"])
                content = json.dumps(plain).encode()
            new.writestr(entry.filename, content)


def test_a_package_is_named_pt2(tmp_path):
    """AOTInductor's loader takes no other name."""
    with pytest.raises(OutputError, match=r"end in \.pt2"):
        export(save_network("dlrm, lower", tmp_path), to="pt2", out=tmp_path / "a.zip")


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Path:
    """The example, built as its first lines say."""
    find_compiler()
    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("no cmake is here")
    build = tmp_path_factory.mktemp("server")
    prefix = f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}"
    for command in ([cmake, "-S", EXAMPLE, "-B", build, prefix], [cmake, "--build", build]):
        ran = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, check=False)
        assert ran.returncode == 0, ran.stderr
    return build / "serve"


def test_a_server_in_cpp(server, tmp_path):
    """Without Python in the process: the same logits, an error for a foreign id, and a missing library by name."""
    path = save_network("dlrm-dcn", tmp_path)
    export(path, to="pt2", out=tmp_path / "a.pt2")
    golden = read_subject(path, "ids").golden
    lines = [
        " ".join([*(f"{value:.9g}" for value in dense), *map(str, ids)])
        for dense, ids in zip(golden.feeds["dense"], golden.feeds["ids"], strict=True)
    ]

    def serve(text: str, library: object = find_operator()) -> subprocess.CompletedProcess[str]:
        command = [str(server), str(tmp_path / "a.pt2"), str(library)]
        return subprocess.run(
            command,
            input=text,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=os.environ | {"PYTHONHOME": "none"},
        )

    served = serve("\n".join(lines) + "\n")
    assert served.returncode == 0, served.stderr
    assert golden.compare({"logit": np.array(served.stdout.split(), dtype=np.float32)}, "serve") < 1e-6
    missing = serve(lines[0], tmp_path / "libmemrec_torch.so")
    assert missing.returncode == 1
    assert "libmemrec_torch, which cannot be loaded" in missing.stderr
    assert "line 1 has too few numbers" in serve("1 2 3\n").stderr
