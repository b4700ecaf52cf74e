"""Where this installation keeps libmemrec, the engine for C and C++: header, library, and what build tools read."""

from __future__ import annotations

from pathlib import Path

from memrec_convert.errors import KernelError
from memrec_convert.kernels.loading import import_native

LIBRARIES = ("libmemrec.so", "libmemrec.dylib", "memrec.dll")


def find_library() -> dict[str, str]:
    """{"include", "library", "cmake", "pkgconfig"}: a folder each, but for the library's own file.

    KernelError where the package was installed without a C++ compiler.
    """
    native, problem = import_native()
    root = Path(native.__file__ or "").parents[1] / "runtime" if native is not None else Path()
    found = [path for path in (root / "lib" / name for name in LIBRARIES) if path.is_file()]
    if not found:
        raise KernelError(
            f"libmemrec is not installed ({problem or f'no library in {root}'}); install a C++ compiler and reinstall "
            "memrec-convert."
        )
    return {
        "include": str(root / "include"),
        "library": str(found[0]),
        "cmake": str(found[0].parent / "cmake" / "memrec"),
        "pkgconfig": str(found[0].parent / "pkgconfig"),
    }
