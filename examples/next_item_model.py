"""Compress a next-item model with attention by its ndcg@10; trained here on synthetic sessions."""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn

from memrec_convert import compress

ITEMS, KINDS, LENGTH, DIM, ROWS = 4_000, 200, 8, 32, 512


class NextItem(nn.Module):
    """The last item of a session attends to all of them; what it finds is compared with every item."""

    def __init__(self) -> None:
        super().__init__()
        self.item, self.place = nn.Embedding(ITEMS, DIM), nn.Parameter(0.1 * torch.randn(LENGTH, DIM))
        self.attention = nn.MultiheadAttention(DIM, 2, batch_first=True)
        self.mix = nn.Sequential(nn.Linear(2 * DIM, 2 * DIM), nn.ReLU(), nn.Linear(2 * DIM, DIM))
        nn.init.normal_(self.item.weight, std=0.2)

    def forward(self, sessions: Tensor) -> Tensor:
        """Scores [B, ITEMS] of sessions [B, LENGTH]."""
        rows = self.item(sessions) + self.place
        found, _ = self.attention(rows[:, -1:], rows, rows, need_weights=False)
        found = self.mix(torch.cat([found, rows[:, -1:]], dim=2)).squeeze(1)
        return found @ self.item(torch.arange(ITEMS)).T


def draw_sessions(count: int, *, seed: int) -> list[tuple[Tensor, ...]]:
    """Batches (sessions, next item): a kind of item leads to one of three others, and some items are popular."""
    world, generator = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed)
    follows = torch.randint(0, KINDS, (KINDS, 3), generator=world)

    def draw() -> tuple[Tensor, ...]:
        kinds = torch.randint(0, KINDS, (ROWS, 1), generator=generator)
        for turn in torch.randint(0, 3, (LENGTH, ROWS, 1), generator=generator):
            kinds = torch.cat([kinds, follows[kinds[:, -1]].gather(1, turn)], dim=1)
        items = kinds + KINDS * (ITEMS // KINDS * torch.rand(kinds.shape, generator=generator) ** 3).long()
        return items[:, :-1], items[:, -1]

    return [draw() for _ in range(count)]


def main() -> None:
    """Train for six passes, compress with and without fine-tuning, and print the ndcg of new sessions."""
    torch.manual_seed(0)
    model, train = NextItem(), draw_sessions(60, seed=1)
    adam = torch.optim.Adam(model.parameters(), lr=1e-2, fused=True)
    for sessions, visited in train * 6:
        adam.zero_grad()
        nn.functional.cross_entropy(model(sessions), visited).backward()  # type: ignore[no-untyped-call]
        adam.step()
    data = {"batches": train, "val": draw_sessions(3, seed=2), "eval": draw_sessions(8, seed=3)}
    for budget in sys.argv[1:] or ["10x"]:
        for epochs in (0, 1):
            _, report = compress(model, budget, **data, objective="ranking", metric="ndcg@10", epochs=epochs)
            print(f"{budget}, {epochs} epochs of fine-tuning: {report.metric}")


if __name__ == "__main__":
    main()
