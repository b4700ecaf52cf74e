"""Files appear whole or not at all, whatever fails on the way."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripts import listed, run_script

from memrec_convert import safe_files as files
from memrec_convert.errors import OutputError
from memrec_convert.safe_files import check_target, write_file

PARTS = [b"abc", memoryview(b"defgh"), b"", b"i"]


def test_a_file_is_its_parts(tmp_path: Path) -> None:
    """The parts stand in the file one after the other, their bytes are counted, and nothing else is in the folder."""
    path = tmp_path / "x.bin"
    assert write_file(path, PARTS) == 9
    assert path.read_bytes() == b"abcdefghi"
    assert write_file(path, [b"new"]) == 3
    assert path.read_bytes() == b"new"
    assert listed(tmp_path) == ["x.bin"]


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    """A new file has the permissions that the umask leaves, a replaced one keeps its own."""
    plain = tmp_path / "plain"
    plain.touch()
    write_file(tmp_path / "new", [b"x"])
    assert (tmp_path / "new").stat().st_mode == plain.stat().st_mode
    plain.chmod(0o640)
    write_file(plain, [b"x"])
    assert plain.stat().st_mode & 0o777 == 0o640


def test_a_folder_that_cannot_be_flushed_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is whole and in its place by then, so the write has not failed."""
    original, calls = os.fsync, []

    def fail_second(handle: int) -> None:
        calls.append(handle)
        if len(calls) == 2:
            raise OSError(22, "Invalid argument")
        original(handle)

    monkeypatch.setattr(files.os, "fsync", fail_second)
    assert write_file(tmp_path / "x.bin", PARTS) == 9
    assert len(calls) == 2
    assert (tmp_path / "x.bin").read_bytes() == b"abcdefghi"


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, ValueError])
def test_whatever_the_parts_raise_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    """An interruption between two parts passes on as it is, and leaves nothing behind."""
    path = tmp_path / "x.bin"
    path.write_bytes(b"old")

    def parts() -> Iterator[bytes]:
        yield b"new"
        raise error

    with pytest.raises(error):
        write_file(path, parts())
    assert listed(tmp_path) == ["x.bin"]
    assert path.read_bytes() == b"old"


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    """Where the system itself refuses more bytes, the error names the target and the old file is intact."""
    path = tmp_path / "x.bin"
    path.write_bytes(b"old")
    said = run_script(
        """
        import resource, signal, sys
        from pathlib import Path
        from memrec_convert.safe_files import write_file
        from memrec_convert.errors import OutputError
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            write_file(Path(sys.argv[1]), [bytes(60_000)] * 4)
        except OutputError as error:
            print(error)
        """,
        str(path),
    )
    assert "File too large" in said
    assert str(path) in said
    assert listed(tmp_path) == ["x.bin"]
    assert path.read_bytes() == b"old"


def test_a_read_only_folder_is_refused_before_any_work(tmp_path: Path) -> None:
    """A folder without permission to write is refused by check and write alike, for a user who is not root."""
    folder = tmp_path / "shut"
    folder.mkdir()
    said = run_script(
        """
        import os, sys
        from pathlib import Path
        from memrec_convert.safe_files import check_target, write_file
        from memrec_convert.errors import OutputError
        os.chdir(sys.argv[1])
        os.chmod(".", 0o555)
        if os.geteuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
        for act in (lambda: check_target(Path("x"), force=False), lambda: write_file(Path("x"), [b"new"])):
            try:
                act()
            except OutputError as error:
                print(error)
        """,
        str(folder),
    )
    assert said.splitlines() == [
        "cannot write x: no permission to write in .; choose another directory.",
        "cannot write x: Permission denied; choose another directory.",
    ]
    assert not list(folder.iterdir())


def test_a_folder_that_may_not_be_entered_is_refused(tmp_path: Path) -> None:
    """A target behind a shut door is refused in one sentence, not with a traceback."""
    said = run_script(
        """
        import os, sys
        from pathlib import Path
        from memrec_convert.safe_files import check_target
        from memrec_convert.artifact.reader import read_artifact
        from memrec_convert.errors import ArtifactError, OutputError
        os.chdir(sys.argv[1])
        os.mkdir("shut", 0o700)
        if os.geteuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
        else:
            os.chmod("shut", 0)
        try:
            check_target(Path("shut/x"), force=False)
        except OutputError as error:
            print(error)
        try:
            read_artifact(Path("shut/x"))
        except ArtifactError as error:
            print(error)
        """,
        str(tmp_path),
    )
    (tmp_path / "shut").chmod(0o700)
    assert said.splitlines() == [
        "cannot write shut/x: Permission denied; choose another name.",
        "cannot read shut/x: Permission denied; check the file.",
    ]


def test_targets_that_cannot_become_files(tmp_path: Path) -> None:
    """A directory, a device, a missing folder, an existing file and an impossible name are each told apart."""
    existing = tmp_path / "there"
    existing.write_bytes(b"old")
    os.mkfifo(tmp_path / "pipe")
    for path, message in (
        (tmp_path, "it is a directory"),
        (tmp_path / "pipe", "no regular file"),
        (tmp_path / "no" / "x", "does not exist"),
        (existing / "x", "does not exist"),
        (existing, "--force"),
        (tmp_path / ("x" * 300), "name too long"),
        (tmp_path / "a\0b", "null"),
    ):
        with pytest.raises(OutputError, match=message):
            check_target(path, force=False)
    check_target(existing, force=True)
    check_target(tmp_path / "new", force=False)
    assert existing.read_bytes() == b"old"


def test_the_longest_name_is_as_good_as_any(tmp_path: Path) -> None:
    """A name of as many bytes as a folder can hold is written, the temporary one notwithstanding."""
    for name in ("x" * 255, "ä" * 127):
        check_target(tmp_path / name, force=False)
        assert write_file(tmp_path / name, [b"x"]) == 1
        assert (tmp_path / name).read_bytes() == b"x"


def test_a_link_is_replaced_by_the_file(tmp_path: Path) -> None:
    """Writing over a symbolic link leaves what it pointed to alone."""
    (tmp_path / "far").write_bytes(b"far")
    (tmp_path / "link").symlink_to(tmp_path / "far")
    write_file(tmp_path / "link", [b"new"])
    assert (tmp_path / "link").read_bytes() == b"new"
    assert (tmp_path / "far").read_bytes() == b"far"
