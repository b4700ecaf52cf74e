"""Whatever hits a write, at whatever moment: the target is the old file or the new one, and nothing is beside it."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from scripts import listed, run_script

from memrec_convert import safe_files as files
from memrec_convert.errors import OutputError
from memrec_convert.safe_files import remove_orphans, write_file

OLD, NEW = b"old" * 100, [b"abc", memoryview(b"defgh"), b"", b"i" * 100]
WRITTEN = b"".join(bytes(part) for part in NEW)
ORPHAN = ".x.bin.abcdefgh.memrec-partial"


class Countdown:
    """Counts the calls of all functions that it wraps, and fails the one that is due."""

    def __init__(self, due: int, error: int) -> None:
        self.due, self.error, self.calls = due, error, list[str]()

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, unless its call is the one that fails."""

        def call(*args: Any, **options: Any) -> Any:
            self.calls.append(name)
            if len(self.calls) == self.due:
                raise OSError(self.error, os.strerror(self.error))
            return function(*args, **options)

        return call


class CountedStream:
    """A stream whose every operation counts."""

    def __init__(self, stream: Any, countdown: Countdown) -> None:
        self.stream = stream
        for name in ("write", "flush", "seek", "read"):
            setattr(self, name, countdown.wrap(name, getattr(stream, name)))
        self.closing = countdown.wrap("close", stream.close)

    def __enter__(self) -> CountedStream:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.closing()
        finally:
            self.stream.close()

    def fileno(self) -> int:
        """The stream's own."""
        return self.stream.fileno()


SYSTEM_CALLS = (
    (os, "fsync"),
    (os, "fchmod"),
    (os, "dup"),
    (os, "fstat"),
    (os, "open"),
    (os, "scandir"),
    (fcntl, "flock"),
    (Path, "replace"),
)


def write_counted(path: Path, due: int, error: int = errno.ENOSPC) -> tuple[list[str], OutputError | None]:
    """Writes with every call counted and one failing; the calls, and the error."""
    countdown, refused = Countdown(due, error), None
    with pytest.MonkeyPatch.context() as patched:
        opened = os.fdopen
        patched.setattr(os, "fdopen", lambda *args: CountedStream(countdown.wrap("fdopen", opened)(*args), countdown))
        for holder, name in SYSTEM_CALLS:
            patched.setattr(holder, name, countdown.wrap(name, getattr(holder, name)))
        try:
            write_file(path, NEW)
        except OutputError as caught:
            refused = caught
    return countdown.calls, refused


HARMLESS = {"scandir", "flock"}
"""What may fail without failing the write: looking for orphans, and locks where a file system has none.

After the rename the file is whole and in its place, so a failing flush of its folder is no failure either.
"""


@pytest.mark.parametrize("existing", [True, False])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_each_failing_call_leaves_the_old_file(tmp_path: Path, existing: bool, error: int) -> None:
    """Every call fails once: the old file is there and nothing beside it, or the write went well all the same."""
    path = tmp_path / "x.bin"
    calls, refused = write_counted(path, 0)
    assert refused is None
    assert {"write", "flush", "seek", "read", "close", "fsync", "replace", "flock", "fdopen", "fchmod"} <= set(calls)
    assert len(calls) >= 18
    for due, name in enumerate(calls, start=1):
        path.unlink()
        if existing:
            path.write_bytes(OLD)
        _, refused = write_counted(path, due, error)
        after_rename = due > calls.index("replace") + 1
        assert (refused is None) == (name in HARMLESS or after_rename), (due, name)
        if refused is None:
            assert path.read_bytes() == WRITTEN
        elif existing:
            assert path.read_bytes() == OLD
        assert listed(tmp_path) == (["x.bin"] if path.exists() else [])
        if refused is not None:
            assert str(path) in str(refused)
            assert os.strerror(error) in str(refused)
        path.touch()


def test_what_is_read_back_otherwise_is_not_put_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that returns other bytes than it was given fails the write, and the old file stays."""
    path = tmp_path / "x.bin"
    path.write_bytes(OLD)
    opened = os.fdopen

    def forgetful(*args: Any) -> Any:
        stream = CountedStream(opened(*args), Countdown(0, 0))
        good = stream.stream.write
        stream.write = lambda piece: good(bytes(piece).replace(b"e", b"E"))  # type: ignore[attr-defined]
        return stream

    monkeypatch.setattr(os, "fdopen", forgetful)
    with pytest.raises(OutputError, match="what was read back is not what was written"):
        write_file(path, NEW)
    assert (path.read_bytes(), listed(tmp_path)) == (OLD, ["x.bin"])


def test_an_interruption_at_any_moment_leaves_nothing(tmp_path: Path) -> None:
    """Ctrl-C at every single instruction of a write: old file or new, KeyboardInterrupt, and nothing beside it."""
    path = tmp_path / "x.bin"
    moments = 0
    outcomes = set()
    handler = signal.getsignal(signal.SIGINT)

    def write_interrupted(due: int) -> bool:
        """Whether the write was interrupted; `due` counts the instructions of this package's and tempfile's code."""
        left = due
        written_in = (files.__file__, "tempfile.py", "contextlib.py")

        def trace(frame: Any, event: str, _: object) -> Any:
            nonlocal left
            if not frame.f_code.co_filename.endswith(written_in):
                return None
            frame.f_trace_opcodes = True
            if event == "opcode":
                left -= 1
                if left == 0:
                    signal.raise_signal(signal.SIGINT)
            return trace

        sys._getframe().f_trace_opcodes = True  # without which Python 3.12 tells of none
        sys.settrace(trace)
        try:
            write_file(path, NEW)
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(None)
        assert left > 0, "an interruption was lost"
        return False

    interrupted, due = True, 0
    while interrupted:
        due += 1
        path.write_bytes(OLD)
        interrupted = write_interrupted(due)
        moments += 1
        content = path.read_bytes()
        assert content in (OLD, WRITTEN), due
        assert listed(tmp_path) == ["x.bin"], due
        assert signal.getsignal(signal.SIGINT) is handler
        outcomes.add((interrupted, content == OLD))
    assert moments > 300
    assert outcomes == {(True, True), (True, False), (False, False)}


def test_a_write_outside_of_the_main_thread_is_as_good(tmp_path: Path) -> None:
    """Another thread has no handler to put off, and writes all the same."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(write_file, tmp_path / "x.bin", NEW).result() == len(WRITTEN)
    assert (tmp_path / "x.bin").read_bytes() == WRITTEN


KILLED = """
    import os, random, signal, sys, time
    from pathlib import Path
    from memrec_convert.safe_files import write_file

    folder, kills = Path(sys.argv[1]), int(sys.argv[2])
    path, generator, left, seen = folder / "x.bin", random.Random(7), 0, set()
    size = 1 << 19
    write_file(path, [b"\\x00" * size])
    started = time.perf_counter()
    for _ in range(5):
        write_file(path, [b"\\x00" * size])
    usual = (time.perf_counter() - started) / 5
    for kill in range(1, kills + 1):
        child = os.fork()
        if not child:
            while True:  # the whole time is spent in writes
                write_file(path, (bytes([kill]) * 4096 for _ in range(size // 4096)))
        time.sleep(generator.random() * 3 * usual)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        content = path.read_bytes()
        assert len(content) == size and len(set(content)) == 1 and content[0] <= kill, kill
        seen.add(content[0])
        partial = [entry.name for entry in os.scandir(folder) if entry.name != "x.bin"]
        assert len(partial) <= 1, partial
        left += len(partial)
    write_file(path, [b"last"])
    print(left, len(seen), sorted(entry.name for entry in os.scandir(folder)))
"""


def test_a_kill_at_fifty_moments_leaves_a_whole_file(tmp_path: Path) -> None:
    """SIGKILL at 50 random moments: the file is always one of the whole ones, with at most one orphan, soon removed."""
    left, seen, names = run_script(KILLED, str(tmp_path), "50").split(" ", 2)
    assert names.strip() == "['x.bin']"
    assert int(left) > 0  # the kills did hit writes, else nothing was tested; how many depends on the disk
    assert int(seen) > 1  # as does how many files were finished between them


TWO_WRITERS = """
    import os, sys
    from pathlib import Path
    from memrec_convert.safe_files import write_file

    path = Path(sys.argv[1])
    for number in (1, 2):
        if not os.fork():
            for _ in range(100):
                write_file(path, [bytes([number]) * 50_000] * 4)
                content = path.read_bytes()
                assert len(content) == 200_000 and len(set(content)) == 1
            os._exit(0)
    print([os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(2)])
"""


def test_two_writers_of_one_target_never_mix(tmp_path: Path) -> None:
    """Two processes that write the same target a hundred times each: always the whole file of one of them."""
    assert run_script(TWO_WRITERS, str(tmp_path / "x.bin")) == "[0, 0]\n"
    assert listed(tmp_path) == ["x.bin"]


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Path]:
    """A temporary file that another process is still writing."""
    path = tmp_path / ".other.12345678.memrec-partial"
    with path.open("wb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield path


def test_orphans_go_and_files_in_work_stay(tmp_path: Path, locked: Path) -> None:
    """What a killed process left is removed by the next write; what is locked, or named otherwise, stays."""
    (tmp_path / ORPHAN).write_bytes(b"half")
    kept = [locked.name, ".x.bin.abc.memrec-partial", ".x.bin.ABCDEFGH.memrec-partial", "x.abcdefgh.memrec-partial"]
    for name in kept[1:]:
        (tmp_path / name).write_bytes(b"somebody's")
    write_file(tmp_path / "x.bin", NEW)
    assert listed(tmp_path) == sorted([*kept, "x.bin"])


def test_links_and_pipes_with_an_orphans_name_are_left(tmp_path: Path) -> None:
    """A link is not followed, and a pipe does not hold the write up."""
    (tmp_path / "far").write_bytes(b"far")
    (tmp_path / ORPHAN).symlink_to(tmp_path / "far")
    os.mkfifo(tmp_path / ".p.abcdefgh.memrec-partial")
    remove_orphans(tmp_path)
    assert (tmp_path / "far").read_bytes() == b"far"
    assert (tmp_path / ORPHAN).is_symlink()


def test_a_temporary_file_taken_for_an_orphan_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its making and its locking another process may remove it: then the next one is taken."""
    lock, removed = files._lock, list[Path]()

    def lock_too_late(handle: int) -> bool | None:
        if len(removed) < 3:
            (name,) = (entry.path for entry in os.scandir(tmp_path) if entry.name != "x.bin")
            removed.append(Path(name))
            removed[-1].unlink()
        return lock(handle)

    monkeypatch.setattr(files, "_lock", lock_too_late)
    assert write_file(tmp_path / "x.bin", NEW) == len(WRITTEN)
    assert len(removed) == 3
    assert listed(tmp_path) == ["x.bin"]
    monkeypatch.setattr(files, "_lock", lambda _: False)
    with pytest.raises(OutputError, match="vanish as they are made"):
        write_file(tmp_path / "x.bin", NEW)
    assert listed(tmp_path) == ["x.bin"]


def test_a_special_target_is_never_replaced(tmp_path: Path) -> None:
    """A rename would put a file in a pipe's or device's place; the write itself refuses, whoever forgot to check."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/null")
    for path, message in (
        (tmp_path, "it is a directory"),
        (tmp_path / "pipe", "no regular file"),
        (tmp_path / "link", "no regular file"),
        (Path("/dev/null"), "no regular file"),
    ):
        with pytest.raises(OutputError, match=message):
            write_file(path, NEW)
    assert listed(tmp_path) == ["link", "pipe"]
    assert (tmp_path / "pipe").is_fifo()
