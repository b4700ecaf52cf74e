"""Reads each case in a process of its own that is watched: python driver.py FOLDER prints one JSON line per case.

A second process builds what the first will read, so that its memory and time are those of the reader alone.
"""

from __future__ import annotations

import codecs
import json
import os
import sys
import tempfile
import traceback
from pathlib import Path

FORBIDDEN = (
    "os.system",
    "os.exec",
    "os.fork",
    "os.forkpty",
    "os.posix_spawn",
    "os.spawn",
    "subprocess.Popen",
    "pty.spawn",
    "exec",
    "compile",
    "import",
    "pickle.find_class",
    "marshal.loads",
    "code.__new__",
    "function.__new__",
    "ctypes.dlopen",
    "ctypes.dlsym",
    "socket.",
    "os.remove",
    "os.rename",
    "os.mkdir",
    "os.rmdir",
    "os.truncate",
    "os.chmod",
    "os.link",
    "os.symlink",
    "shutil.",
    "webbrowser.",
    "urllib.",
    "tempfile.",
    "builtins.input",
)
"""Beginnings of audit events that no reader of a checkpoint has reason for."""

_watched: Path | None = None
_seen: list[str] = []


def audit(event: str, args: tuple[object, ...]) -> None:
    """Note what is forbidden, and every file that is opened to be written or lies outside of the case's folder."""
    if _watched is None:
        return
    bad = event.startswith(FORBIDDEN)
    if event == "open":
        path, mode, flags = args
        outside = isinstance(path, str) and not Path(path).resolve().is_relative_to(_watched.resolve())
        bad = outside or not set(str(mode)).isdisjoint("wax+") or bool(flags & (os.O_WRONLY | os.O_RDWR))  # type: ignore[operator]
    if bad:
        _seen.append(f"{event} {args!r}"[:200])


def read(path: Path, folder: Path) -> dict[str, object]:
    """What comes of reading a case to its last row, and what was seen meanwhile."""
    global _watched
    from memrec_convert.checkpoint import read_source, verify_storage

    try:
        _watched = folder
        source = read_source(path, for_conversion=False)
        verify_storage(source)
        for table in source.tables:
            for _ in table.weight.chunks(1 << 16):
                pass
        for problem in source.warnings:
            raise LookupError(problem)  # `inspect` warns of what `convert` refuses
        outcome: dict[str, object] = {"kind": "read", "said": str([table.rows for table in source.tables])}
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is reported
        _watched = None
        raised = error
        if isinstance(error, LookupError) and type(error) is LookupError:
            raised = _refuse(path)
        kinds = [kind.__name__ for kind in type(raised).__mro__]
        outcome = {"kind": kinds[0], "of": kinds, "said": str(raised), "code": getattr(raised, "exit_code", 1)}
        if "MemrecError" not in kinds:
            outcome["trace"] = "".join(traceback.format_exception(raised))[-2000:]
    _watched = None
    return outcome | {"seen": _seen, "left": sorted(os.listdir("."))}  # noqa: PTH208


def _refuse(path: Path) -> BaseException:
    from memrec_convert.checkpoint import read_source

    try:
        read_source(path)
    except BaseException as error:  # noqa: BLE001
        return error
    return LookupError("only a warning")


def in_child(act: object) -> tuple[int, float, int]:
    """Exit status, seconds of CPU and peak KiB of a process that does this."""
    child = os.fork()
    if not child:
        try:
            act()  # type: ignore[operator]
            os._exit(0)
        except BaseException:  # noqa: BLE001
            traceback.print_exc()
        finally:
            os._exit(1)
    _, status, used = os.wait4(child, 0)
    return status, used.ru_utime + used.ru_stime, used.ru_maxrss


def run_case(name: str, build: object, work: Path) -> dict[str, object]:
    """Build in one child, read in another."""
    with tempfile.TemporaryDirectory(dir=work) as folder:
        inside, result, where = Path(folder) / "case", Path(folder) / "result", Path(folder) / "empty"
        inside.mkdir()
        where.mkdir()
        status, _, _ = in_child(lambda: result.write_text(str(build(inside))))  # type: ignore[operator]
        if status:
            return {"name": name, "kind": "not built", "said": ""}
        path = Path(result.read_text())
        os.chdir(where)
        status, seconds, peak = in_child(lambda: result.write_text(json.dumps(read(path, inside))))
        os.chdir(work)
        outcome = json.loads(result.read_text()) if not status else {"kind": f"died ({status})", "said": ""}
        return {"name": name, "path": str(path), "seconds": seconds, "peak_mib": peak / 1024, **outcome}


def main() -> None:
    """All cases, after whatever the reader imports lazily has been imported."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from hostile import all_cases
    from hostile.directories import GOOD_DISTRIBUTED, GOOD_NVIDIA, GOOD_RANKS
    from hostile.legacy import GOOD as GOOD_LEGACY
    from hostile.snapshots import GOOD as GOOD_SNAPSHOT

    for encoding in ("raw_unicode_escape", "cp437", "latin-1", "ascii", "utf-16", "utf-32"):
        codecs.lookup(encoding)  # the interpreter imports its own codecs when they are first used
    work = Path(sys.argv[1]).resolve()
    for number, good in enumerate((GOOD_DISTRIBUTED, GOOD_NVIDIA, GOOD_RANKS, GOOD_SNAPSHOT)):
        (work / f"good{number}").mkdir()
        read(good[0](work / f"good{number}"), work)
    (work / "legacy.pt").write_bytes(GOOD_LEGACY)
    read(work / "legacy.pt", work)
    _seen.clear()
    sys.addaudithook(audit)
    for name, (build, _) in all_cases().items():
        print(json.dumps(run_case(name, build, work)), flush=True)  # noqa: T201 - this is a program


if __name__ == "__main__":
    main()
