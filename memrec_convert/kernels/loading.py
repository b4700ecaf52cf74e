"""Which path lookups take: the C++ kernel and its instruction set, or the torch reference."""

from __future__ import annotations

import functools
import os
import warnings
from types import ModuleType
from typing import Any

import torch

from memrec_convert.errors import KernelError

KERNEL_VARIABLE = "MEMREC_KERNEL"
"""Environment variable: "auto" (the best that there is), "reference", or the name of an instruction set."""
REFERENCE = "reference"


@functools.cache
def load_kernel() -> Any | None:  # noqa: ANN401 - the extension module, which has no annotations
    """The C++ kernel with its instruction set chosen, or None for the reference.

    Warns once where it could not be built or loaded; KernelError where the environment asks for what is not there.
    """
    wanted = os.environ.get(KERNEL_VARIABLE, "auto").strip().lower() or "auto"
    if wanted == REFERENCE:
        return None
    native, problem = import_native()
    if native is None:
        if wanted != "auto":
            raise KernelError(
                f"{KERNEL_VARIABLE}={wanted}: the C++ kernel is not installed ({problem}); install a C++ compiler and "
                f"reinstall memrec-convert, or set {KERNEL_VARIABLE}={REFERENCE}."
            )
        warnings.warn(
            f"the C++ kernel of memrec-convert is not installed ({problem}): lookups run in torch, several times "
            f"slower. Install a C++ compiler and reinstall, or set {KERNEL_VARIABLE}={REFERENCE} to silence this.",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    if wanted != "auto" and not native.choose(wanted):
        raise KernelError(
            f"{KERNEL_VARIABLE}={wanted} is not available on this machine; available: "
            f"{', '.join([*native.instruction_sets(), REFERENCE])}."
        )
    native.connect(torch.Tensor, torch.get_num_threads)  # where torch is too old for it, `look_up_few` takes nothing
    return native


def import_native() -> tuple[Any | None, str]:
    """The extension module, or None and why it cannot be imported."""
    try:
        native: ModuleType = importlib_import()
    except ImportError as error:
        return None, str(error)
    return native, ""


def importlib_import() -> ModuleType:
    """Imports the extension; apart, so that a test can stand in its way."""
    from importlib import import_module

    return import_module("memrec_convert.kernels._native")


def describe_path() -> dict[str, object]:
    """{"path": "reference" or "kernel", "instruction_set", "available"} as lookups in this process use it."""
    native = load_kernel()
    available = [] if native is None else list(native.instruction_sets())
    return {
        "path": REFERENCE if native is None else "kernel",
        "instruction_set": None if native is None else native.active(),
        "available": [*available, REFERENCE],
    }
