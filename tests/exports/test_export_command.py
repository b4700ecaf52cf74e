"""`memrec-convert export` and `verify` of what it wrote: exit codes, one sentence, JSON alone on stdout."""

from __future__ import annotations

import importlib.util
import json
import sys

import pytest
from tiny_networks import save_network

from memrec_convert.cli.commands import main

HAS_ONNX = all(map(importlib.util.find_spec, ("onnx", "onnxruntime")))


@pytest.fixture
def run(monkeypatch, capsys):
    """A function that runs the command line and gives (exit code, stdout, stderr)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["memrec-convert", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        streams = capsys.readouterr()
        return end.value.code, streams.out, streams.err

    return call


@pytest.mark.onnx
@pytest.mark.skipif(not HAS_ONNX, reason="onnx and onnxruntime are not installed")
def test_export_and_verify(run, tmp_path):
    """A line each, or one JSON object; --against belongs to artifacts."""
    path, out = save_network("dlrm, lower", tmp_path), tmp_path / "a.onnx"
    code, said, _ = run("export", path, "--to", "onnx", "--out", out)
    assert (code, f"{out}: {out.stat().st_size} bytes for onnx" in said) == (0, True)
    code, said, _ = run("verify", out)
    assert code == 0
    assert "64 samples in ONNX Runtime" in said
    code, said, _ = run("verify", out, "--json")
    assert (code, json.loads(said)["samples"], json.loads(said)["place"]) == (0, 64, "onnx")
    code, said, _ = run("export", path, "--to", "onnx", "--out", out, "--force", "--json", "--inputs", "bags")
    assert json.loads(said)["files"] == {str(out): out.stat().st_size}
    assert run("verify", out, "--against", path)[0] == 2
    assert run("export", path, "--to", "onnx", "--out", tmp_path / "b.onnx", "--quiet")[1:] == ("", "")
    out.write_bytes(out.read_bytes()[:-50])
    code, said, refused = run("verify", out)
    assert (code, said) == (2, "")
    assert refused.startswith("Export: ")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--to", "onnx", "--inputs", "bags"), "take ids and no bags"),
        (("--to", "onnx", "--web-runtime", "."), "leave it out"),
        (("--to", "tflite"), "'tflite'"),
        ((), "--to"),
    ],
)
def test_what_cannot_be_exported_is_one_sentence(arguments, says, run, tmp_path):
    """Exit code 2, and nothing is written."""
    if arguments[:2] == ("--to", "onnx") and not HAS_ONNX:
        pytest.skip("onnx is not installed")
    path, out = save_network("tables", tmp_path), tmp_path / "a.onnx"
    code, said, refused = run("export", path, "--out", out, *arguments)
    assert (code, said, out.exists()) == (2, "", False)
    assert says in refused
    assert len(refused.strip().splitlines()) == 1


@pytest.mark.parametrize("place", ["onnx", "pt2"])
def test_the_artifact_is_not_replaced_by_its_export(place, run, tmp_path):
    """Not even with --force."""
    path = save_network("dlrm, lower", tmp_path)
    before = path.read_bytes()
    code, _, refused = run("export", path, "--to", place, "--out", path, "--force")
    assert (code, "is the artifact itself" in refused) == (2, True)
    assert path.read_bytes() == before


@pytest.mark.skipif(HAS_ONNX, reason="onnx is installed")
def test_without_the_library_the_extra_is_named(run, tmp_path):
    """The sentence says what to install."""
    code, _, refused = run(
        "export", save_network("dlrm, lower", tmp_path), "--to", "onnx", "--out", tmp_path / "a.onnx"
    )
    assert code == 2
    assert "pip install 'memrec-convert[onnx]'" in refused


@pytest.mark.parametrize("name", ["no such file", "a\0b", "x" * 300])
def test_verify_of_what_is_no_file(name, run, tmp_path):
    """A path that is none is refused as one of an artifact is."""
    code, said, refused = run("verify", tmp_path / name)
    assert (code, said) == (2, "")
    assert len(refused.strip().splitlines()) == 1
