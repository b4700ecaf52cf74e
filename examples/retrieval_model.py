"""Compress a two-tower retrieval model by its recall@20 under exact search; trained here on synthetic visits."""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn

from memrec_convert import compress

USERS, ITEMS, KINDS, DIM, ROWS = 10_000, 2_000, 100, 32, 1_024


class TwoTowers(nn.Module):
    """One tower for a user and the items that they saw, one for items."""

    def __init__(self) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(USERS, DIM), nn.Embedding(ITEMS, DIM)
        self.seen = nn.EmbeddingBag(ITEMS, DIM, mode="mean")
        self.query, self.key = nn.Linear(2 * DIM, DIM), nn.Linear(DIM, DIM)
        for table in (self.user, self.item, self.seen):
            nn.init.normal_(table.weight, std=0.2)

    def forward(self, users: Tensor, histories: Tensor) -> Tensor:
        """Scores [B, ITEMS] of all items, the exact search, for users [B] and their histories [B, n]."""
        queries = self.query(torch.cat([self.user(users), self.seen(histories)], dim=1))
        return queries @ self.key(self.item(torch.arange(ITEMS))).T


def draw_visits(count: int, *, seed: int) -> list[tuple[Tensor, ...]]:
    """Batches (users, histories, next item): each user likes three kinds of items, of which some are popular."""
    world, generator = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed)
    liked = torch.randint(0, KINDS, (USERS, 3), generator=world)

    def visit(users: Tensor, times: int) -> Tensor:
        kinds = liked[users].gather(1, torch.randint(0, 3, (len(users), times), generator=generator))
        return kinds + KINDS * (ITEMS // KINDS * torch.rand(kinds.shape, generator=generator) ** 2).long()

    def draw() -> tuple[Tensor, ...]:
        users = (USERS * torch.rand(ROWS, generator=generator) ** 2).long()
        return users, visit(users, 4), visit(users, 1).squeeze(1)

    return [draw() for _ in range(count)]


def main() -> None:
    """Train for four passes, compress with and without fine-tuning, and print the recall of new visits."""
    torch.manual_seed(0)
    model, train = TwoTowers(), draw_visits(60, seed=1)
    adam = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=1e-5, fused=True)
    for users, histories, visited in train * 4:
        adam.zero_grad()
        nn.functional.cross_entropy(model(users, histories), visited).backward()  # type: ignore[no-untyped-call]
        adam.step()
    data = {"batches": train, "val": draw_visits(2, seed=2), "eval": draw_visits(6, seed=3)}
    for budget in sys.argv[1:] or ["10x"]:
        for epochs in (0, 1):
            _, report = compress(model, budget, **data, objective="ranking", metric="recall@20", epochs=epochs)
            print(f"{budget}, {epochs} epochs of fine-tuning: {report.metric}")


if __name__ == "__main__":
    main()
