"""Models that do unusual things: nothing of what compress, save and load give is silently wrong."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from memrec_convert import compress, load, save
from memrec_convert.errors import ModelError

ROOMY = 10_000_000
IDS = torch.arange(0, 500, 7)


class Net(nn.Module):
    """One table and a head over it, with whatever a test makes of it."""

    def __init__(self, make=lambda: nn.Embedding(500, 8), forward=None) -> None:
        super().__init__()
        self.item, self.head, self.other = make(), nn.Linear(8, 1), forward

    def forward(self, ids):
        """Logits [B]."""
        return self.head(self.item(ids)).squeeze(-1) if self.other is None else self.other(self, ids)


def shrink(model, **choices):
    """The compressed copy of a model in eval mode."""
    return compress(model.eval(), ROOMY, **choices)[0]


def answers(model, ids=IDS):
    """What a model gives, without gradients."""
    with torch.no_grad():
        return model(ids)


# ---- state dicts that are not what they seem


class Forgetful(Net):
    """Its state dict lacks the head."""

    def state_dict(self, *arguments, **options):
        """All but the head."""
        state = super().state_dict(*arguments, **options)
        return {name: value for name, value in state.items() if "head" not in name}


def hooked(change):
    """A class of models whose state dict a hook changes."""

    class Hooked(Net):
        def __init__(self) -> None:
            super().__init__()
            self.register_state_dict_post_hook(lambda module, state, prefix, local: change(state))

    return Hooked


def clone_all(state):
    """Puts copies into a state dict."""
    for name in list(state):
        state[name] = state[name].clone()


def rename_head(state):
    """Shows the head by another name."""
    state["top"] = state.pop("head.weight")


@pytest.mark.parametrize("kind", [hooked(clone_all), hooked(rename_head), Forgetful])
def test_every_tensor_is_stored_and_filled_whatever_the_state_dict_shows(tmp_path, kind):
    """Copies, other names and gaps in a state dict change nothing of the file."""
    small = shrink(kind())
    save(small, tmp_path / "net.safetensors")
    assert torch.equal(answers(load(tmp_path / "net.safetensors", into=kind())), answers(small))


def test_what_only_a_state_dict_shows_is_refused():
    """Extra state would be lost, so that the model is refused."""

    def add(state):
        state["extra"] = torch.zeros(3)

    with pytest.raises(ModelError, match="extra is in the state dict and is no parameter"):
        shrink(hooked(add)())


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_buffer_by_the_name_of_a_tables_part_is_refused(tmp_path, when):
    """The file would hold one of the two."""
    model = Net()
    small = shrink(model) if when == "after" else model
    small.item.register_buffer("rows", torch.zeros(2))
    small.item.register_buffer("frame", torch.zeros(2))
    with pytest.raises(ModelError, match="the name of a part of the compressed table"):
        save(shrink(model) if when == "before" else small, tmp_path / "net.safetensors")
