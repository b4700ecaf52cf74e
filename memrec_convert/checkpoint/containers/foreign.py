"""Names what a path is when it is no checkpoint that can be read: one sentence per kind of file."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from memrec_convert.checkpoint.inert.stand_ins import printable
from memrec_convert.errors import CheckpointError

HEAD_BYTES = 512
_SAVE_STATE = "save the model's state with torch.save(model.state_dict(), ...)"


@dataclass(frozen=True)
class ForeignForm:
    """A kind of file, how its first bytes show, and what to do about it."""

    sentence: str
    matches: Callable[[bytes], bool]


def _starts(*prefixes: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(prefixes)


FOREIGN_FORMS = (
    ForeignForm(
        "a git-LFS pointer, not the file itself; fetch it with `git lfs pull`",
        _starts(b"version https://git-lfs.github.com"),
    ),
    ForeignForm(
        "an HTML page, not a checkpoint; the download returned a web page: use the file's direct link",
        lambda head: re.match(rb"(\xef\xbb\xbf)?\s*<(!doctype|html|head|\?xml)", head, re.IGNORECASE) is not None,
    ),
    ForeignForm(f"an HDF5 file (Keras weights), not a torch checkpoint; {_SAVE_STATE}", _starts(b"\x89HDF\r\n\x1a\n")),
    ForeignForm(
        f"an ONNX graph, not a checkpoint; {_SAVE_STATE}",
        lambda head: re.match(rb"\x08[\x01-\x1f][\x12\x1a\x22\x3a\x42]", head) is not None and head[4:8] != bytes(4),
    ),
    ForeignForm("a GGUF file (language model), not a click model's checkpoint", _starts(b"GGUF")),
    ForeignForm("a parquet file, not a checkpoint; if it is a click log, pass it as one", _starts(b"PAR1")),
    ForeignForm("compressed with gzip; decompress it first", _starts(b"\x1f\x8b")),
    ForeignForm("compressed; decompress it first", _starts(b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf")),
    ForeignForm(
        "a tar archive (torch.save before 0.1.10, or a packed folder); unpack it, or save again with a current torch",
        lambda head: head[257:262] == b"ustar",
    ),
)
"""Told by their first bytes alone, and asked before any container, whatever the file is called."""


def refuse_missing(path: Path) -> None:
    """CheckpointError where the path names nothing, or something that is neither file nor directory, or is empty."""
    if not path.exists():
        raise CheckpointError(f"{path}: no such file.")
    if path.is_dir():
        return
    if not path.is_file():
        raise CheckpointError(f"{path}: neither a file nor a directory.")
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path}: an empty file; the save or the download did not finish.")


def refuse_foreign(path: Path, head: bytes) -> None:
    """CheckpointError where the first bytes show a form that is never read."""
    for form in FOREIGN_FORMS:
        if form.matches(head):
            raise CheckpointError(f"{path}: {form.sentence}.")


def unknown_form(path: Path, head: bytes) -> CheckpointError:
    """The error for what no container recognised."""
    if path.is_dir():
        return CheckpointError(f"{path}: {_name_directory(path)}.")
    if head.startswith(b"\x80"):
        return CheckpointError(f"{path}: a Python pickle, but not one of torch.save; {_SAVE_STATE}.")
    if _is_text(head):
        line = printable(head.decode("utf-8", "replace").strip().split("\n")[0], limit=40)
        return CheckpointError(f"{path}: a plain text file (it begins {line!r}), not a checkpoint.")
    return CheckpointError(
        f"{path}: not a checkpoint in any known form (it begins with the bytes {head[:8].hex(' ')}); "
        "zip .pt, legacy .pt, .safetensors and .npz are read."
    )


def _is_text(head: bytes) -> bool:
    """Whether bytes are UTF-8 text, save for a character cut at the end."""
    text = head.decode("utf-8", "ignore")
    return len(head) - len(text.encode()) < 4 and all(letter.isprintable() or letter in "\t\r\n\f" for letter in text)


_DIRECTORIES = (("saved_model.pb", "a TensorFlow SavedModel"), ("checkpoint", "a directory of TensorFlow checkpoints"))
_NESTED = (".metadata", ".snapshot_metadata", "metadata.pt")


def _name_directory(path: Path) -> str:
    """What a directory is, as far as one file in it tells."""
    for name, kind in _DIRECTORIES:
        if (path / name).exists():
            return f"{kind}, which this version does not read; {_SAVE_STATE} and give that file"
    inside = next((name for name in _NESTED if any(path.glob(f"*/{name}"))), None)
    if inside is not None:
        return f"a directory above a checkpoint (it has a */{inside}); give the folder in it"
    return "a directory, and not one of a known checkpoint; give the checkpoint file in it"
