"""`python -m memrec_convert` is the command line."""

from __future__ import annotations

from memrec_convert.cli import run

if __name__ == "__main__":
    run()
