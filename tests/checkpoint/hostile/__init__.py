"""A corpus of hostile checkpoints: each case builds a file or directory, and says how its refusal reads."""

from __future__ import annotations

from hostile.building import Case


def all_cases() -> dict[str, Case]:
    """Every case by its name, the kind of container in front."""
    from hostile import archives, directories, legacy, pickles, safetensors, snapshots, state_dicts

    modules = {
        "pickle": pickles,
        "zip": archives,
        "legacy": legacy,
        "safetensors": safetensors,
        "directory": directories,
        "snapshot": snapshots,
        "state dict": state_dicts,
    }
    return {f"{kind}: {name}": case for kind, module in modules.items() for name, case in module.CASES.items()}
