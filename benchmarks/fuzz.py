"""Reads mutated files of every form, and counts what no reader may do: raise anything else than a refusal, or run it.

python benchmarks/fuzz.py --inputs 20000 --seed 0
python benchmarks/fuzz.py --inputs 20000 --atheris        (pip install atheris: mutations led by coverage)

Seeds of every container and of the artifact are made on the spot. What is mutated is the part that is parsed: the
pickle inside an archive, the header or manifest, or the whole file. The first engine needs nothing else and gives the
same inputs for the same seed. Exit code 1 where anything was found; --keep FOLDER keeps such inputs.
"""

from __future__ import annotations

import argparse
import codecs
import json
import os
import random
import shutil
import struct
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from fuzz_forms import Form, make_forms

from memrec_convert.errors import MemrecError

FORBIDDEN = (
    "os.system",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "subprocess.Popen",
    "exec",
    "pickle.find_class",
    "marshal.loads",
    "socket.",
    "os.remove",
    "os.rename",
    "ctypes.dlopen",
    "webbrowser.",
)
"""Beginnings of audit events that reading a file has no reason for, once everything is imported."""

_INSTRUMENTED = ("memrec_convert.checkpoint", "memrec_convert.artifact", "memrec_convert.encoding", "pickletools")
_FINDINGS = ("foreign", "executed", "misread")
_EDGES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
_LEAVES = (None, True, -1, 0, 1, 2, 255, 2**31, 2**63, 2**64, 10**30, 0.5, 1e308, "", "a", "..", "/", [], {}, [[]])

watching = False
seen: list[str] = []
Edit = tuple[int, int, int, int]
"""What to do, where, how much, and with what: any four numbers are one."""


def audit(event: str, args: tuple[object, ...]) -> None:
    """Notes what is forbidden while a file is read."""
    if watching and event.startswith(FORBIDDEN):
        seen.append(f"{event} {args!r}"[:200])


def warm_up() -> None:
    """Imports what the interpreter itself imports when it is first used: its codecs."""
    for encoding in ("raw_unicode_escape", "unicode_escape", "cp437", "latin-1", "ascii", "utf-16", "utf-32"):
        codecs.lookup(encoding)
    sys.addaudithook(audit)


def try_one(form: Form, folder: Path, content: bytes) -> tuple[str, object]:
    """What came of it ("read", "refused", "foreign" or "executed"), and the digest or what was raised."""
    global watching
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    path = form.build(folder, content)
    seen.clear()
    watching, outcome, found = True, "read", None
    try:
        found = form.read(path)
    except MemrecError as error:
        found, outcome = error, "refused" if "\n" not in str(error) else "foreign"
    except BaseException as error:  # whatever else it is, it is what is looked for
        if isinstance(error, KeyboardInterrupt):
            raise
        found, outcome = error, "foreign"
    finally:
        watching = False
    return ("executed" if seen else outcome), found


def apply(content: bytes, edits: list[Edit], others: tuple[bytes, ...]) -> bytes:
    """The content after these edits."""
    changed = bytearray(content)
    for act, where, amount, value in edits:
        at, length = where % (len(changed) + 1), 1 + amount % 32
        if act % 16 > 5 and _change_leaf(changed, where, value):
            continue
        if act % 9 == 0 and at < len(changed):
            changed[at] ^= 1 << (value % 8)
        elif act % 9 == 1 and at < len(changed):
            changed[at] = value % 256
        elif act % 9 == 2:
            changed[at:at] = bytes((value >> shift) % 256 for shift in range(0, 8 * (amount % 8 + 1), 8))
        elif act % 9 == 3:
            del changed[at : at + length]
        elif act % 9 == 4:
            changed[at:at] = changed[at : at + length] * (1 + value % 4)
        elif act % 9 == 5:
            other = others[value % len(others)]
            start = amount % (len(other) + 1)
            changed[at : at + length] = other[start : start + length]
        elif act % 9 == 6:
            packed = struct.pack("<Q", _EDGES[value % len(_EDGES)])[: (1, 2, 4, 8)[amount % 4]]
            changed[at : at + len(packed)] = packed
        elif act % 9 == 7 and value % 8 == 0:
            del changed[at:]
        elif at < len(changed):
            changed[at] = (changed[at] + 1) % 256
    return bytes(changed)


def _change_leaf(changed: bytearray, where: int, value: int) -> bool:
    """Where the content is JSON, another value or no value at one of its places; whether it was."""
    try:
        plain = json.loads(changed)
    except (ValueError, RecursionError):
        return False
    places: list[tuple[Any, Any]] = []
    pending = [plain]
    while pending:
        holder = pending.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder)) if isinstance(holder, list) else ()
        for key in keys:
            places.append((holder, key))
            pending.append(holder[key])
    if places:
        holder, key = places[where % len(places)]
        if value % 23 == 22:
            del holder[key]
        else:
            holder[key] = _LEAVES[value % len(_LEAVES)]
        changed[:] = json.dumps(plain).encode()
    return bool(places)


def draw(generator: random.Random) -> list[Edit]:
    """One to six edits, mostly few, mostly near the begin."""
    edits = []
    for _ in range(1 + min(int(generator.expovariate(0.8)), 5)):
        where = generator.randrange(400) if generator.random() < 0.4 else generator.getrandbits(32)
        edits.append((generator.getrandbits(16), where, generator.getrandbits(16), generator.getrandbits(16)))
    return edits


def run(inputs: int, seed: int, keep: Path | None) -> int:
    """Reads that many inputs, all forms in turn; the number of findings."""
    counts: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        work, case = Path(folder), Path(folder) / "case"
        forms = make_forms(work)
        everything = tuple(one for form in forms for one in form.seeds)
        digests = {form.name: read_seeds(form, case) for form in forms}
        warm_up()
        slowest, started = 0.0, time.perf_counter()
        for number in range(inputs):
            generator, form = random.Random(f"{seed} {number}"), forms[number % len(forms)]
            content = own = generator.choice(form.seeds)
            while content == own:
                content = apply(own, draw(generator), everything)
            before = time.process_time()
            outcome, found = try_one(form, case, content)
            if outcome == "read" and form.checked and found not in digests[form.name]:
                outcome = "misread"
            slowest = max(slowest, time.process_time() - before)
            counts[form.name, outcome] += 1
            if outcome in _FINDINGS:
                print(f"{form.name}, input {number}: {outcome}: {found!r} {seen[:1]}"[:300])
                if keep is not None:
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / f"{number}").write_bytes(content)
        seconds = time.perf_counter() - started
    for form in forms:
        print(f"{form.name}: {counts[form.name, 'refused']} refused, {counts[form.name, 'read']} read")
    total = {kind: sum(count for (_, own), count in counts.items() if own == kind) for kind in _FINDINGS}
    print(
        f"{inputs} inputs in {seconds:.0f} s, the slowest {slowest:.2f} s of CPU: {total['foreign']} foreign "
        f"exceptions, {total['executed']} executions, {total['misread']} misread in spite of a checksum"
    )
    return sum(total.values())


def read_seeds(form: Form, folder: Path) -> set[object]:
    """The digests of a form's seeds, each of which must be read."""
    found = [try_one(form, folder, own) for own in form.seeds]
    assert [outcome for outcome, _ in found] == ["read"] * len(found), (form.name, found)
    return {digest for _, digest in found}


def run_atheris(inputs: int, seed: int) -> None:
    """The same forms under libFuzzer: the first byte of an input chooses the form, the others are its content."""
    import atheris

    folder = Path(tempfile.mkdtemp())
    forms, corpus = make_forms(folder), folder / "corpus"
    corpus.mkdir()
    for number, form in enumerate(forms):
        for place, own in enumerate(form.seeds):
            (corpus / f"{number}-{place}").write_bytes(bytes([number]) + own)
    digests = {form.name: read_seeds(form, folder / "case") for form in forms}
    warm_up()

    def target(data: bytes) -> None:
        form = forms[data[0] % len(forms)] if data else forms[0]
        outcome, found = try_one(form, folder / "case", data[1:])
        misread = outcome == "read" and form.checked and found not in digests[form.name]
        if misread or outcome in _FINDINGS:
            raise RuntimeError(f"{form.name}: {outcome}: {found!r} {seen[:1]}")

    for name, module in list(sys.modules.items()):
        if name.startswith(_INSTRUMENTED):
            classes = [one for one in vars(module).values() if isinstance(one, type) and one.__module__ == name]
            for function in (own for holder in (module, *classes) for own in vars(holder).values()):
                if isinstance(function, FunctionType) and function.__module__ == name:
                    atheris.instrument_func(function)
    atheris.Setup([sys.argv[0], f"-runs={inputs}", f"-seed={seed + 1}", "-max_len=8192", str(corpus)], target)
    atheris.Fuzz()


def main() -> None:
    """Runs one engine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--atheris", action="store_true")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    if options.atheris:
        run_atheris(options.inputs, options.seed)
    else:
        sys.exit(1 if run(options.inputs, options.seed, options.keep) else 0)


if __name__ == "__main__":
    main()
