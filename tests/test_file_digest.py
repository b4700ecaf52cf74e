"""The digest of files: taken once, by a thread or when it is asked for, and void where a file changes."""

import hashlib
import os

import pytest

from memrec_convert import file_digest
from memrec_convert.errors import CheckpointError
from memrec_convert.file_digest import FilesDigest, begin_digest


@pytest.fixture
def files(tmp_path):
    """Two files."""
    found = [tmp_path / "a", tmp_path / "b"]
    for path in found:
        path.write_bytes(path.name.encode() * 3_000_000)
    return found


def expected(files):
    """By hashlib alone."""
    digests = [hashlib.sha256(path.read_bytes()) for path in files]
    return (
        digests[0].hexdigest() if len(files) == 1 else hashlib.sha256(b"".join(d.digest() for d in digests)).hexdigest()
    )


@pytest.mark.parametrize("early", [None, "begin", "begin_digest"])
def test_each_file_is_read_once(files, monkeypatch, early):
    """Whoever starts."""
    read, digest_file = [], file_digest._digest_file
    monkeypatch.setattr(file_digest, "_digest_file", lambda file: read.append(file) or digest_file(file))
    for own in (files[:1], files):
        read.clear()
        digest = FilesDigest(own)
        if early == "begin":
            digest.begin()
            digest.begin()
        elif early == "begin_digest":
            begin_digest(own[0])
            digest.begin()
        assert digest.hex() == digest.hex() == expected(own)
        assert sorted(read) == sorted(own)


def test_a_file_that_changes_is_named(files):
    """Between the reading and the answer."""
    digest = FilesDigest(files)
    digest.hex()
    state = files[1].stat()
    os.utime(files[1], ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    with pytest.raises(CheckpointError, match="b: was changed while it was read"):
        digest.hex()


def test_what_was_begun_before_a_change_is_not_used(files):
    """A file that is written anew before the conversion begins is read anew, and one that is written later is named."""
    begin_digest(files[0])
    files[0].write_bytes(b"other content")
    digest = FilesDigest(files[:1])
    digest.begin()
    assert digest.hex() == expected(files[:1])
    files[0].write_bytes(b"yet other content")
    with pytest.raises(CheckpointError, match="a: was changed while it was read"):
        digest.hex()
    assert FilesDigest(files[:1]).hex() == expected(files[:1])


def test_a_file_that_is_gone_is_named(tmp_path, files):
    """Before it is read, or after."""
    with pytest.raises(CheckpointError, match="cannot be read"):
        FilesDigest([tmp_path / "gone"]).hex()
    with pytest.raises(CheckpointError, match="cannot be read"):
        FilesDigest([tmp_path / "gone"]).begin()
    digest = FilesDigest(files)
    digest.begin()
    files[0].unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        digest.hex()
