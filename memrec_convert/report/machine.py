"""What `doctor` found, as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from memrec_convert.report.text import NARROWEST, wrap
from memrec_convert.units import format_bytes

GIVEN = {True: "memory that asks for them gets them", False: "asked for and not given", None: "unknown"}
LESS = ", less than the system reports, because others share it; a budget of that size is served fastest"


def render_machine(found: Mapping[str, Any], width: int = 80) -> str:
    """What `describe_machine` gives as JSON, in lines of at most `width` characters."""
    width = max(width, NARROWEST)
    lines = [
        _lookups(found["kernel"]),
        f"dense part: fast products in {', '.join(found['kernel']['products'])}",
        _operators(found.get("operators")),
        f"processor: {found['processor']}, {_count(found['cores'], 'core')} to use; torch takes "
        f"{_count(found['threads'], 'thread')}",
        _caches(found["caches"]),
        *([_effective(found)] if "effective_cache" in found else []),
        _large_pages(found["large_pages"]),
        "versions: " + ", ".join(f"{name} {version}" for name, version in found["versions"].items()),
    ]
    return "\n".join(line for text in lines if text for line in wrap(text, width, indent="  "))


def _lookups(kernel: Mapping[str, Any]) -> str:
    wish = f"MEMREC_KERNEL={kernel['variable']}" if kernel["variable"] is not None else "MEMREC_KERNEL is not set"
    available = f"available: {', '.join(kernel['available'])}; {wish}"
    if kernel["path"] is None:
        return f"lookups: refused. {kernel['problem']} ({available})"
    if kernel["path"] == "kernel":
        return f"lookups: C++ kernel, {kernel['instruction_set']} ({available})"
    why = f"; the C++ kernel is not installed: {kernel['problem']}" if kernel["problem"] else ""
    return f"lookups: torch reference ({available}{why})"


def _operators(problem: str | None) -> str:
    """Nothing where it is not known: an older measurement does not say."""
    if problem is None:
        return ""
    return f"torch operators: {f'in Python alone; {problem}' if problem else 'in C++'}"


def _caches(caches: list[Mapping[str, Any]]) -> str:
    if not caches:
        return "caches: not reported by the system"
    sharers = [f" for {cache['shared_by']} cores" if cache["shared_by"] > 1 else "" for cache in caches]
    parts = [f"L{one['level']} {_size(one['bytes'])}{said}" for one, said in zip(caches, sharers, strict=True)]
    return f"caches as the system states them: {', '.join(parts)}"


def _effective(found: Mapping[str, Any]) -> str:
    effective = found["effective_cache"]
    curve = effective["curve"]
    if not curve:
        return "random reads: not measured"
    first, last = curve[0], curve[-1]
    times = f"{first['ns']:.1f} ns a read from {_size(first['bytes'])}, {last['ns']:.1f} ns from {_size(last['bytes'])}"
    if effective["bytes"] is None:
        return f"random reads: no step up to {_size(last['bytes'])} ({times})"
    stated = max((cache["bytes"] for cache in found["caches"]), default=0)
    size = f"{_size(effective['bytes'])} ({format_bytes(effective['bytes'])})"
    return f"random reads: fast up to {size}{LESS if 2 * effective['bytes'] <= stated else ''} ({times})"


def _large_pages(pages: Mapping[str, Any]) -> str:
    setting = "the system does not tell" if pages["setting"] is None else f"set to {pages['setting']!r}"
    return f"large pages: {GIVEN[pages['given']]} ({setting})"


def _size(size: int) -> str:
    return f"{size / 2**10:.3g} KiB" if size < 1 << 20 else f"{size / 2**20:.3g} MiB"


def _count(number: int, unit: str) -> str:
    return f"{number} {unit}" + "s" * (number != 1)
