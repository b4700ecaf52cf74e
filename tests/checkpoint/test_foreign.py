"""What is no checkpoint is named for what it is."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from memrec_convert.checkpoint import read_source
from memrec_convert.errors import CheckpointError


def _tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    return buffer.getvalue()


def _zip(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)  # without the time, which would be in the test's name
    return buffer.getvalue()


def _npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, x=np.arange(3))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "an empty file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "a git-LFS pointer"),
        (b"<!DOCTYPE html><html></html>", "an HTML page"),
        (b"\xef\xbb\xbf \n<HTML>", "an HTML page"),
        (b"\x89HDF\r\n\x1a\n" + bytes(40), "an HDF5 file"),
        (b"\x08\x08\x12\x07pytorch\x1a\x052.3.0", "an ONNX graph"),
        (b"GGUF" + bytes(40), "a GGUF file"),
        (b"PAR1" + bytes(40), "a parquet file"),
        (b"\x93NUMPY" + bytes(40), "not an array of numpy"),
        (b"\x1f\x8b\x08" + bytes(40), "compressed with gzip"),
        (_tar(), "a tar archive"),
        (b"label,I1,C1\n1,2,3\n", "a plain text file \\(it begins 'label,I1,C1'\\)"),
        (pickle.dumps({"a": 1}), "a Python pickle, but not one of torch.save"),
        (bytes(range(1, 200)), "not a checkpoint in any known form"),
        (_zip(readme=b"x"), "none named data.pkl"),
        (_npz(), "a numpy .npz archive"),
    ],
    ids=lambda part: part if isinstance(part, str) else "file",
)
def test_other_files_are_named(tmp_path, content, sentence):
    """Each kind of file has its own sentence, whatever it is called."""
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=sentence) as caught:
        read_source(path)
    assert "\n" not in str(caught.value)


def test_paths_that_are_no_files_are_named(tmp_path):
    """Missing files, directories and devices have their own sentences."""
    (tmp_path / "dcp").mkdir()
    (tmp_path / "dcp" / ".metadata").write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe")
    for name, sentence in (
        ("absent.pt", "no such file"),
        ("dcp", ".metadata: damaged or truncated pickle"),
        (".", "a directory"),
        ("pipe", "neither a file nor a directory"),
    ):
        with pytest.raises(CheckpointError, match=sentence):
            read_source(tmp_path / name)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_torchscript_archive_is_named(tmp_path):
    """torch.jit.save writes code; it is refused by name."""
    torch.jit.trace(torch.nn.Linear(2, 1), torch.ones(1, 2)).save(str(tmp_path / "model.pt"))
    with pytest.raises(CheckpointError, match="a TorchScript archive"):
        read_source(tmp_path / "model.pt")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_truncated_files_are_named(dlrm_state, save, tmp_path, form, share):
    """A file that was cut anywhere says so."""
    from safetensors.torch import save_file

    path = tmp_path / ("model.safetensors" if form == "safetensors" else "model.pt")
    if form == "safetensors":
        save_file(dlrm_state(), path)
    else:
        save(dlrm_state(), _use_new_zipfile_serialization=form == "zip")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError, match="truncated"):
        read_source(path)


def test_an_artifact_is_told_from_a_checkpoint(tmp_path):
    """By its metadata, alone and as a directory's file."""
    tensors = {"emb.weight": torch.ones(30, 4)}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"memrec_convert": "{}"})
    for path in (tmp_path, tmp_path / "model.safetensors"):
        with pytest.raises(CheckpointError, match="an artifact of memrec-convert, not a checkpoint"):
            read_source(path)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_pointer_inside_a_directory_is_named(tmp_path, name):
    """Hugging Face clones without git-lfs."""
    (tmp_path / name).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n")
    with pytest.raises(CheckpointError, match="a git-LFS pointer"):
        read_source(tmp_path)


def test_which_of_two_files_was_taken_is_said(tmp_path):
    """safetensors goes before torch.save's."""
    tensors = {"emb.weight": torch.ones(30, 4)}
    save_file(tensors, tmp_path / "model.safetensors")
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    assert any("model.safetensors was taken" in one for one in read_source(tmp_path, tables_only=True).warnings)


def test_two_tables_of_one_name_are_refused(tmp_path):
    """`emb` and `emb.weight` would both be called emb."""
    torch.save({"emb": torch.ones(30, 4), "emb.weight": torch.zeros(30, 4)}, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match=r"emb and emb\.weight are two tables of one name"):
        read_source(tmp_path / "m.pt", tables_only=True)
