"""Small compressed models in every form, built by hand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from memrec_convert import save
from memrec_convert.artifact.layout import METADATA_KEY
from memrec_convert.artifact.metadata import METADATA_ATTRIBUTE, Metadata
from memrec_convert.encoding import HashSpec, LevelSpec, TableSpec
from memrec_convert.encoding.build import build_kept, build_replaced
from memrec_convert.encoding.index import IndexSpec
from memrec_convert.lookup import CompressedEmbedding, CompressedEmbeddingBag, HashGroup
from memrec_convert.models import build_model

DIM = 2
HASHING = HashSpec("dim2", DIM, 7, 2, blocks=1, k_weights=4)
ARCHITECTURE: dict[str, Any] = {
    "name": "dlrm",
    "bottom": [1, 2],
    "top": [12, 1],
    "interaction": "dot",
    "pairs": "lower",
    "self_interaction": False,
    "tables": [[20, 2], [40, 2], [50, 2], [60, 2]],
}


def make_group() -> HashGroup:
    """A hashed group with random tokens and weights."""
    draw = torch.Generator().manual_seed(5)
    group = HashGroup(HASHING)
    group.get_buffer("tokens").copy_(torch.randint(-127, 128, (7, DIM), generator=draw))
    group.get_buffer("scale").fill_(0.01)
    group.get_buffer("weights").copy_(torch.randn(16, generator=draw))
    return group


def make_spec(rows: int, *, hashed: bool = False) -> TableSpec:
    """A replaced table: a level of codes and one of stored rows over codes or over hashed tokens."""
    keys, bitmap = IndexSpec("keys", rows, 5, 4), IndexSpec("bitmap", rows, 3)
    return TableSpec(
        rows,
        DIM,
        "replaced",
        stages=(2, 4),
        shifts=(0, 2),
        base_depth=0 if hashed else 1,
        hashing=HASHING if hashed else None,
        hash_seed=rows if hashed else 0,
        levels=(LevelSpec("codes", keys, depth=2), LevelSpec("rows", bitmap, codec="int8")),
    )


def make_bag(rows: int, *, group: HashGroup | None = None, **choices: Any) -> CompressedEmbeddingBag:
    """A filled bag over a replaced table."""
    draw = np.random.default_rng(rows)
    spec = make_spec(rows, hashed=group is not None)
    levels = np.full(rows, -1, dtype=np.int8)
    order = draw.permutation(rows)
    levels[order[:5]], levels[order[5:8]] = 0, 1
    tensors = build_replaced(
        spec,
        centre=torch.tensor([0.5, -0.25]),
        scale=0.01,
        levels=levels,
        codebook=torch.from_numpy(draw.integers(-127, 128, (6, DIM)).astype(np.int8)),
        codes=np.stack([draw.integers(0, 2, rows), draw.integers(0, 4, rows)], axis=1).astype(np.uint8),
        read_rows=lambda ids: torch.from_numpy(draw.normal(size=(len(ids), DIM)).astype(np.float32)),
    )
    module = CompressedEmbeddingBag(spec, name=f"t{rows}", group=group, **choices)
    module.fill(tensors)
    return module


def make_kept(rows: int = 20, *, codec: str = "int8") -> CompressedEmbeddingBag:
    """A filled bag over a kept table."""
    spec = TableSpec(rows, DIM, "kept", codec=codec)
    module = CompressedEmbeddingBag(spec, name=f"t{rows}")
    module.fill(build_kept(spec, torch.randn(rows, DIM, generator=torch.Generator().manual_seed(rows))))
    return module


def make_dlrm() -> nn.Module:
    """A network that a file can bring along: a kept, a coded and two hashed tables that share their group."""
    group = make_group()
    tables = [make_kept(), make_bag(40), make_bag(50, group=group), make_bag(60, group=group)]
    torch.manual_seed(1)
    ARCHITECTURE["top"] = [DIM + 10, 1]
    model = build_model(ARCHITECTURE, tables).eval()
    metadata = Metadata(
        modules={}, architecture=ARCHITECTURE, dense="fp32", profile={"weights": "log"}, plan={"budget": "9kB"}, seed=3
    )
    setattr(model, METADATA_ATTRIBUTE, metadata)
    return model


class OwnModel(nn.Module):
    """A class of somebody's own: an embedding under two names, the later first in the alphabet, and tied layers."""

    def __init__(self, table: nn.Module | None = None) -> None:
        super().__init__()
        self.words = table if table is not None else nn.Embedding(40, DIM)
        self.also_words = self.words
        self.first, self.second = nn.Linear(DIM, DIM), nn.Linear(DIM, DIM)
        self.second.weight = self.first.weight
        self.register_buffer("count", torch.tensor(7))
        self.register_buffer("nothing", torch.empty(0, 3))
        self.register_buffer("mask", torch.tensor([True, False, True]))
        self.register_buffer("coarse", torch.tensor([0.5, 1.5], dtype=torch.float16))

    def forward(self, ids: Tensor) -> Tensor:
        """Something of every part."""
        return self.second(self.first(self.words(ids) + self.also_words(ids))) * self.count + self.coarse.float()


def make_own() -> OwnModel:
    """One of those, compressed by hand."""
    bag = make_bag(40)
    table = CompressedEmbedding(bag.spec, name="words")
    table.fill(dict(bag.named_buffers()))
    torch.manual_seed(2)
    return OwnModel(table).eval()


def save_tiny(folder: Path) -> Path:
    """A saved network of about 4 kB: one kept and one coded table."""
    tables = [make_kept(), make_bag(40)]
    architecture = ARCHITECTURE | {"tables": [[20, 2], [40, 2]], "top": [5, 1]}
    torch.manual_seed(1)
    model = build_model(architecture, tables).eval()
    metadata = Metadata(modules={}, architecture=architecture, dense="fp32", profile={}, plan={}, seed=3)
    setattr(model, METADATA_ATTRIBUTE, metadata)
    path = folder / "tiny.safetensors"
    save(model, path, force=True)
    return path


def save_dlrm(folder: Path) -> Path:
    """A saved network."""
    path = folder / "model.safetensors"
    save(make_dlrm(), path, force=True)
    return path


def split(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Header as JSON, and the bytes of the tensors."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def join(header: dict[str, Any], body: bytes) -> bytes:
    """The way back."""
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + body


def falsify_text(path: Path, change: Callable[[dict[str, Any]], None], *, fitting: bool = True) -> None:
    """Changes the metadata's plain JSON, whatever it becomes; its own digest is made to fit unless told otherwise."""
    header, body = split(path.read_bytes())
    plain = json.loads(header["__metadata__"][METADATA_KEY])
    change(plain)
    if fitting and isinstance(plain, dict):
        plain["self"] = "0" * 32
        text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
        plain["self"] = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    header["__metadata__"][METADATA_KEY] = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    path.write_bytes(join(header, body))


def falsify(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes the metadata as a forger would, who writes it again with its own digest."""
    header, body = split(path.read_bytes())
    plain = json.loads(header["__metadata__"][METADATA_KEY])
    for name in ("format", "self"):
        plain.pop(name)
    change(plain)
    header["__metadata__"][METADATA_KEY] = Metadata(**plain).to_text()
    path.write_bytes(join(header, body))
