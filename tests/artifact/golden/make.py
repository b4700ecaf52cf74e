"""Writes the golden files of the present format version: python tests/artifact/golden/make.py

Run once per format version, when it is released; the files are then read by every later version and never made again.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from memrec_convert import compress, convert, load, save
from memrec_convert.artifact.features import FEATURES
from memrec_convert.clicklog import SyntheticSpec, write_synthetic_log

GOLDEN = Path(__file__).parent
KINDS = {1: ("forms", "converted"), 2: ("own", "narrow", "trellis")}
"""The files of each format version: format 2's features are those of a model of its owner's own class, of a dense part
that is stored and computed in int8, and of trellis rows in a level and in a whole table."""
NEWEST_WRITTEN = 2 if FEATURES else 1
ROWS, DIM, DENSE = (3000, 200, 20), 4, 2
SPEC = SyntheticSpec(tables=ROWS, dense=DENSE, train_rows=4000, val_rows=200, test_rows=200)
WIDE_ROWS, WIDE_DIM = (500, 60), 16
INPUTS = {
    "forms": (1, (20, 40, 50, 60)),
    "converted": (DENSE, ROWS),
    "narrow": (DENSE, ROWS),
    "trellis": (DENSE, WIDE_ROWS),
}
"""Per golden file its dense features and the rows of its tables."""


class Scaled(nn.Embedding):
    """A table whose module does more than look up rows."""

    def forward(self, ids: Tensor) -> Tensor:
        """Eight times the rows of ids."""
        return 8 * super().forward(ids)


class Own(nn.Module):
    """A scaled table of its owner's own class, and an output layer that is tied to it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.item, self.out = Scaled(200, DIM), nn.Linear(DIM, 200, bias=False)
        self.out.weight = self.item.weight

    def forward(self, ids: Tensor) -> Tensor:
        """The best score of all rows, per id."""
        return self.out(self.item(ids)).amax(1)


def make_inputs(dense: int, rows: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Inputs that every version asks: [16, dense] and ids [16, tables], spread over each table."""
    steps = torch.arange(16, dtype=torch.int64)
    ids = torch.stack([(steps * 7919 + steps * steps * number) % count for number, count in enumerate(rows)], dim=1)
    return torch.linspace(0, 4, 16 * dense).reshape(16, dense), ids


def ask(path: Path, name: str) -> dict[str, list[str]]:
    """The logits of a file's model as hexadecimal floats, and a digest of all rows of each table."""
    if name == "own":
        model = load(path, into=Own())
        table, ids = model.item.weight.table, torch.arange(16)
        with torch.no_grad():
            logits = [float(value).hex() for value in model(ids)]
            rows = table.lookup(torch.arange(table.spec.rows)).numpy().tobytes()
        return {"logits": logits, "rows": [hashlib.blake2b(rows, digest_size=16).hexdigest()]}
    model = load(path)
    with torch.no_grad():
        logits = [float(value).hex() for value in model(*make_inputs(*INPUTS[name])).flatten()]
        rows = [table.lookup(torch.arange(table.spec.rows)).numpy().tobytes() for table in model.tables]
    return {"logits": logits, "rows": [hashlib.blake2b(table, digest_size=16).hexdigest() for table in rows]}


def _save_checkpoint(folder: Path, *hidden: int, tables: tuple[int, ...] = ROWS, dim: int = DIM) -> Path:
    torch.manual_seed(0)
    widths = (dim + len(tables) * (len(tables) + 1) // 2, *hidden, 1)
    layers = {"bot_l.0": nn.Linear(DENSE, dim)}
    layers |= {f"top_l.{2 * n}": nn.Linear(*pair) for n, pair in enumerate(pairwise(widths))}
    state = {f"emb_l.{number}.weight": torch.randn(rows, dim) / rows**0.5 for number, rows in enumerate(tables)}
    for name, layer in layers.items():
        state |= {f"{name}.{key}": value for key, value in layer.state_dict().items()}
    torch.save({"state_dict": state}, folder / "model.pt")
    return folder / "model.pt"


def main() -> None:
    """Makes the files that are missing, and what they answer."""
    sys.path.insert(0, str(GOLDEN.parent))
    from small_models import save_dlrm

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log = write_synthetic_log(SPEC, folder / "log")
        convert(_save_checkpoint(folder), "6KB", data=log.train, out=folder / "converted.safetensors", epochs=0)
        wide, narrow = _save_checkpoint(folder, 32, 32), folder / "narrow.safetensors"
        convert(wide, "8KB", data=log.train, out=narrow, epochs=0, dense="int8")
        save(compress(Own(), "4KB", threshold="0")[0], folder / "own.safetensors")
        broad = _save_checkpoint(folder, tables=WIDE_ROWS, dim=WIDE_DIM)
        convert(broad, "5KB", out=folder / "trellis.safetensors", epochs=0, threshold="0")
        made = {
            "forms": save_dlrm(folder),
            **{kind: folder / f"{kind}.safetensors" for kind in ("converted", "own", "narrow", "trellis")},
        }
        for kind in KINDS[NEWEST_WRITTEN]:
            source = made[kind]
            target = GOLDEN / f"format-{NEWEST_WRITTEN}-{kind}.safetensors"
            if target.exists():  # golden files are never made again
                continue
            target.write_bytes(source.read_bytes())
            target.with_suffix(".json").write_text(json.dumps(ask(target, kind), indent=1) + "\n")


if __name__ == "__main__":
    main()
