"""Bytes as people write them: "48MB", "46MiB", "100x", "5%", "llc" <-> a number of bytes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from memrec_convert.errors import BudgetError

SHARE_ALLOWANCE_BYTES = 20_000
"""What a budget given as a share of the tables grants for header and metadata."""

_FACTORS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_LARGEST_BYTES = 2**63 - 1
_NUMBER = r"([0-9]{1,30}(?:\.[0-9]{1,30})?|\.[0-9]{1,30})"
_FORMS = "bytes as 600kB, 48MB, 46MiB, 1GB or a plain number; a share as 5% or 100x; or llc"


@dataclass(frozen=True)
class Budget:
    """A byte budget as the user wrote it.

    Exactly one of `fixed_bytes` and `table_share` is set; `note` says where a measured number came from.
    """

    text: str
    fixed_bytes: int | None = None
    table_share: float | None = None
    note: str = ""

    def resolve(self, *, table_bytes: int, dense_bytes: int) -> int:
        """The budget of the whole file in bytes, for a source of these table and dense bytes."""
        if self.fixed_bytes is not None:
            return self.fixed_bytes
        assert self.table_share is not None
        # 49x is 1/49 again, not the float just below it, which would cost a byte.
        share = Fraction(self.table_share).limit_denominator(10**15)
        return int(table_bytes * share) + dense_bytes + SHARE_ALLOWANCE_BYTES


def parse_bytes(text: str | int) -> int:
    """A size such as "48MB" (10^6) or "46MiB" (2^20) as a number of bytes; BudgetError where it is none."""
    if isinstance(text, int) and not isinstance(text, bool):
        size = text
    else:
        match = re.fullmatch(_NUMBER + r"\s*([a-zA-Z]*)", str(text).strip())
        if match is None or match.group(2).lower() not in _FACTORS:
            raise BudgetError(f"cannot read the size {str(text)!r}: expected {_FORMS}.")
        # Exact: 2.01 * 10**6 as floats is a byte short of 2.01 MB.
        size = int(Fraction(match.group(1)) * _FACTORS[match.group(2).lower()])
    if size <= 0:
        raise BudgetError(f"the size {str(text)!r} is {size} bytes: give a number of bytes above zero.")
    if size > _LARGEST_BYTES:
        raise BudgetError("a size of 2^63 bytes or more is more than any file can hold: give a size such as 48MB.")
    return size


def parse_budget(text: str | int) -> Budget:
    """A byte budget: a size, a share of the table bytes ("5%", "100x"), or "llc" of this machine."""
    if isinstance(text, int) and not isinstance(text, bool):
        return Budget(str(text), fixed_bytes=parse_bytes(text))
    plain = str(text).strip().lower()
    if plain == "llc":
        size, source = last_level_cache()
        note = f"last-level cache of this machine, {format_bytes(size)} ({source})"
        return Budget(plain, fixed_bytes=size, note=note)
    share = re.fullmatch(_NUMBER + r"\s*(%|x)", plain)
    if share is None:
        return Budget(plain, fixed_bytes=parse_bytes(text))
    value = float(share.group(1))
    if value <= 0:
        raise BudgetError(f"the budget {text!r} asks for nothing: give a share above zero, such as 5% or 100x.")
    return Budget(plain, table_share=value / 100 if share.group(2) == "%" else 1 / value)


def last_level_cache(sysfs: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> tuple[int, str]:
    """Bytes of one instance of this machine's last-level cache, and the sysfs file that says so."""
    found: list[tuple[int, int, Path]] = []
    for index in sorted(sysfs.glob("index*")):
        try:
            kind = (index / "type").read_text().strip()
            level = int((index / "level").read_text())
            kibibytes = int((index / "size").read_text().strip().removesuffix("K"))
        except (OSError, ValueError):
            continue
        if kind in ("Unified", "Data") and kibibytes > 0:
            found.append((level, kibibytes * 1024, index / "size"))
    if not found:
        raise BudgetError(
            f"budget 'llc': {sysfs} does not tell the cache size of this machine; give bytes, such as 32MiB."
        )
    level, size, source = max(found)
    return size, f"L{level}, {source}"


def format_bytes(size: float) -> str:
    """Bytes for people, in powers of ten and three digits: 600 B, 538 kB, 48.0 MB, 2.16 GB."""
    value, unit = float(size), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if abs(value) < 999.5:  # what would print as 1000 belongs to the next unit
            break
        value, unit = value / 1000, larger
    if unit == "B":
        return f"{value:.0f} B"
    decimals = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:,.{decimals}f} {unit}"


def parse_threshold(text: str | int) -> tuple[str, int]:
    """A table threshold: ("rows", n) from "10000rows", ("bytes", n) from a size."""
    match = re.fullmatch(r"([0-9]{1,18})\s*rows", str(text).strip().lower())
    if match is not None:
        return "rows", int(match.group(1))
    if str(text).strip() == "0":
        return "bytes", 0
    try:
        return "bytes", parse_bytes(text)
    except BudgetError:
        raise BudgetError(
            f"cannot read the threshold {str(text)!r}: expected 0, a size such as 100kB, or rows such as 10000rows."
        ) from None
