"""Where this installation keeps libmemrec, the engine for C and C++, and the library with the torch operators."""

from __future__ import annotations

from pathlib import Path

from memrec_convert.errors import KernelError
from memrec_convert.kernels.loading import import_native

LIBRARIES = ("libmemrec.so", "libmemrec.dylib", "memrec.dll")
OPERATORS = ("libmemrec_torch.so", "libmemrec_torch.dylib")


def find_library() -> dict[str, str]:
    """{"include", "library", "operator", "cmake", "pkgconfig"}: a folder each, but for the two libraries' own files.

    KernelError where the package was installed without a C++ compiler.
    """
    root, library = _find("libmemrec", LIBRARIES)
    return {
        "include": str(root / "include"),
        "library": str(library),
        "operator": str(find_operator()),
        "cmake": str(library.parent / "cmake" / "memrec"),
        "pkgconfig": str(library.parent / "pkgconfig"),
    }


def find_operator() -> Path:
    """The library with the torch operators; KernelError where the package was installed without a C++ compiler."""
    return _find("libmemrec_torch", OPERATORS)[1]


def _find(what: str, names: tuple[str, ...]) -> tuple[Path, Path]:
    """The runtime's folder, and the first of these libraries that is in it."""
    native, problem = import_native()
    root = Path(native.__file__ or "").parents[1] / "runtime" if native is not None else Path()
    found = [path for path in (root / "lib" / name for name in names) if path.is_file()]
    if not found:
        raise KernelError(
            f"{what} is not installed ({problem or f'no library in {root}'}); install a C++ compiler and reinstall "
            "memrec-convert."
        )
    return root, found[0]
