"""Compress a model of ratings by its RMSE: matrix factorisation with biases, trained here on synthetic ratings."""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn

from memrec_convert import compress

USERS, ITEMS, DIM, ROWS = 10_000, 2_000, 32, 2_048


class Ratings(nn.Module):
    """A rating is a mean, a bias of either side, and the product of two rows."""

    def __init__(self) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(USERS, DIM), nn.Embedding(ITEMS, DIM)
        self.user_bias, self.item_bias = nn.Embedding(USERS, 1), nn.Embedding(ITEMS, 1)
        self.mean = nn.Parameter(torch.tensor(3.0))
        for table in (self.user, self.item, self.user_bias, self.item_bias):
            nn.init.normal_(table.weight, std=0.1)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Ratings [B] of users [B] and items [B]."""
        product = (self.user(users) * self.item(items)).sum(1)
        return self.mean + product + (self.user_bias(users) + self.item_bias(items)).squeeze(1)


def draw_ratings(count: int, *, seed: int) -> list[tuple[Tensor, ...]]:
    """Batches (users, items, stars): tastes of 6 dimensions, few ids often and many rarely, stars from 1 to 5."""
    world, generator = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed)
    tastes, kinds = (0.6 * torch.randn(rows, 6, generator=world) for rows in (USERS, ITEMS))
    likes = 0.5 * torch.randn(ITEMS, generator=world)

    def draw() -> tuple[Tensor, ...]:
        users, items = ((rows * torch.rand(ROWS, generator=generator) ** 2).long() for rows in (USERS, ITEMS))
        felt = 3.3 + likes[items] + (tastes[users] * kinds[items]).sum(1) + 0.7 * torch.randn(ROWS, generator=generator)
        return users, items, felt.round().clamp(1, 5)

    return [draw() for _ in range(count)]


def main() -> None:
    """Train for four passes, compress with and without fine-tuning, and print the RMSE of new ratings."""
    torch.manual_seed(0)
    model, train = Ratings(), draw_ratings(150, seed=1)
    adam = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=1e-4, fused=True)
    for users, items, stars in train * 4:
        adam.zero_grad()
        nn.functional.mse_loss(model(users, items), stars).backward()  # type: ignore[no-untyped-call]
        adam.step()
    data = {"batches": train, "val": draw_ratings(20, seed=2), "eval": draw_ratings(50, seed=3)}
    for budget in sys.argv[1:] or ["10x"]:
        for epochs in (0, 1):
            _, report = compress(model, budget, **data, objective="regression", epochs=epochs)
            print(f"{budget}, {epochs} epochs of fine-tuning: {report.metric}")


if __name__ == "__main__":
    main()
