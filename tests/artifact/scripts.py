"""Scripts in processes of their own, and what they leave."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path


def run_script(script: str, *arguments: str) -> str:
    """What a script of its own process printed."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def listed(folder: Path) -> list[str]:
    """Every name in a folder, hidden ones too."""
    return sorted(entry.name for entry in os.scandir(folder))
