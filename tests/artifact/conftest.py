"""The random tables of the encoding's tests are built here too."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "encoding"))  # random_tables
