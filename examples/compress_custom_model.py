"""Compress a model of your own class: `compress` a live module, `save` it, `load` it into a fresh instance."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from memrec_convert import compress, load, save

USERS, ITEMS, DIM = 1500, 1000, 16


class TwoTowers(nn.Module):
    """A user and the mean of the items in their history, against one item."""

    def __init__(self) -> None:
        super().__init__()
        self.user = nn.Embedding(USERS, DIM)
        self.history = nn.EmbeddingBag(ITEMS, DIM, mode="mean", padding_idx=0)
        self.item = nn.Embedding(ITEMS, DIM)
        self.head = nn.Linear(DIM, 1)

    def forward(self, users: Tensor, histories: Tensor, items: Tensor) -> Tensor:
        """Logits [B] of users [B], histories [B, n] (0 where shorter) and items [B]."""
        return self.head((self.user(users) + self.history(histories)) * self.item(items)).squeeze(1)


def draw_batches(count: int, *, seed: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Batches of random lookups, few ids often and many rarely."""
    generator = torch.Generator().manual_seed(seed)

    def draw(rows: int, *shape: int) -> Tensor:
        return (rows * torch.rand(shape, generator=generator) ** 4).long()

    return [(draw(USERS, 256), draw(ITEMS, 256, 5), draw(ITEMS, 256)) for _ in range(count)]


def main() -> None:
    """Compress to an eighth, write the file, read it back, and compare the answers."""
    torch.manual_seed(0)
    model = TwoTowers()
    small, report = compress(model, "8x", batches=draw_batches(20, seed=1), val=draw_batches(5, seed=2))
    for table in report.tables:
        print(f"{table.name}: {table.bytes_before} -> {table.bytes_after} bytes, {table.form}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "two_towers.safetensors"
        print(f"{save(small, path)} bytes written, {report.budget_bytes} allowed")
        again = load(path, into=TwoTowers())
    (batch,) = draw_batches(1, seed=3)
    with torch.no_grad():
        print(f"mean change of a logit: {(again(*batch) - model(*batch)).abs().mean():.4f}")
        assert torch.equal(again(*batch), small(*batch))


if __name__ == "__main__":
    main()
