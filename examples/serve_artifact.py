"""Serve an artifact: check the file, load it once, answer requests; neither the original nor pickle is needed."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from convert_checkpoint import SPEC, make_checkpoint
from torch import Tensor, nn

from memrec_convert import convert, load, verify


def make_artifact(folder: Path) -> Path:
    """What somebody converted earlier: here without data, and ready for ids that came after the training."""
    artifact = folder / "dlrm.safetensors"
    convert(make_checkpoint(folder), "10x", out=artifact, oov="zero")
    return artifact


@torch.inference_mode()
def answer(model: nn.Module, counters: list[list[float]], ids: list[list[int]]) -> list[float]:
    """Click probabilities of requests: raw dense values and one id per table each."""
    dense = torch.log1p(torch.tensor(counters))  # the network's own dense_transform
    return torch.sigmoid(model(dense, torch.tensor(ids))).tolist()


@torch.inference_mode()
def answer_with_bags(model: nn.Module, counters: list[float], ids: list[list[int]]) -> float:
    """The same for one request with any number of ids per table, as nn.EmbeddingBag takes them: ids and offsets."""
    bags: list[tuple[Tensor, Tensor]] = [(torch.tensor(own, dtype=torch.int64), torch.tensor([0])) for own in ids]
    return float(torch.sigmoid(model(torch.log1p(torch.tensor([counters])), bags)))


def main() -> None:
    """Answer a few requests."""
    with tempfile.TemporaryDirectory() as folder:
        artifact = make_artifact(Path(folder))
        print(f"sound: {verify(artifact).bytes} bytes")
        model = load(artifact)
    held = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    print(f"{held} bytes in memory, where the rows alone had {sum(SPEC.tables) * 8 * 4}")
    new_user = SPEC.tables[0] + 5  # beyond the table: reads as zeros, since oov is "zero"
    for probability in answer(model, [[3.0, 0.0], [12.0, 7.0]], [[17, 4, 2], [new_user, 4, 2]]):
        print(f"click probability {probability:.4f}")
    several = answer_with_bags(model, [3.0, 0.0], [[17, 18], [4], []])
    print(f"click probability {several:.4f} with two ids in one table and none in another")


if __name__ == "__main__":
    main()
