"""Reading .npz files from anywhere: arrays without objects, or a LogError."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from memrec_convert.errors import LogError


def read_npz(path: Path, *, what: str) -> dict[str, np.ndarray]:
    """Every array of an .npz file; nothing in it is unpickled. LogError, naming `what` it is, where it is damaged."""
    try:
        # Opened here, because numpy leaves its own handle open on a file that is no zip.
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("a single array")
            with archive:
                return {name: archive[name] for name in archive.files}
    except FileNotFoundError as error:
        raise LogError(f"cannot read {what} {path}: it does not exist; check the path.") from error
    except (OSError, ValueError, EOFError, MemoryError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise LogError(
            f"cannot read {what} {path}: it is damaged or no .npz of plain arrays ({type(error).__name__}); "
            "make it anew."
        ) from error
