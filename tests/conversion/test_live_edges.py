"""Models that do unusual things: nothing of what compress, save and load give is silently wrong."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

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


# ---- what refers to a weight besides its module


class Boxed(nn.Embedding):
    """Looks rows up by a weight that it holds in a list."""

    def __init__(self, box=lambda weight: [weight]) -> None:
        super().__init__(500, 8)
        self.box = box(self.weight)

    def forward(self, ids):
        """Rows [B, 8]."""
        return functional.embedding(ids, self.box[0])


def test_other_references_to_a_weight_follow_it(tmp_path):
    """A list that holds the weight holds the compressed one, in the copy and in what is loaded."""
    small = shrink(Net(Boxed))
    save(small, tmp_path / "net.safetensors")
    fresh = load(tmp_path / "net.safetensors", into=Net(Boxed))
    assert fresh.item.box[0] is fresh.item.weight
    assert torch.equal(answers(fresh), answers(small))


@pytest.mark.parametrize("box", [lambda weight: (weight,), lambda weight: [weight.detach()]])
def test_references_that_cannot_follow_are_refused(tmp_path, box):
    """A tuple, or a view of the memory, would keep the instance's own rows."""
    save(shrink(Net(Boxed)), tmp_path / "net.safetensors")
    with pytest.raises(ModelError, match="refers to the weight of a table besides its module"):
        load(tmp_path / "net.safetensors", into=Net(lambda: Boxed(box)))


def test_hollow_instances_are_refused(tmp_path):
    """What is on the meta device takes no numbers."""
    save(shrink(Net()), tmp_path / "net.safetensors")
    with torch.device("meta"):
        hollow = Net()
    with pytest.raises(ModelError, match=r"head\.weight is on the meta device"):
        load(tmp_path / "net.safetensors", into=hollow)


# ---- copies


class Single(nn.Linear):
    """There is but one of it."""

    def __deepcopy__(self, memo):
        """Itself."""
        return self


class Guarded(nn.Linear):
    """Can be copied once."""

    left = 1

    def __getstate__(self):
        """Fails the second time."""
        Guarded.left -= 1
        if Guarded.left < 0:
            raise KeyError("no more")
        return self.__dict__


@pytest.mark.parametrize("kind", [Single, Guarded])
def test_models_that_cannot_be_copied_are_refused(kind):
    """A copy that is the object itself would be compressed in its place."""
    model = Net()
    model.head = kind(8, 1)
    with pytest.raises(ModelError, match="Net cannot be copied"):
        shrink(model)
    assert type(model.item.weight) is nn.Parameter
