"""Models that do unusual things: nothing of what compress, save and load give is silently wrong."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import prune, vector_to_parameters
from torch.utils.data import DataLoader, IterableDataset

from memrec_convert import compress, load, save
from memrec_convert.errors import ArtifactError, MemrecError, ModelError, OutputError

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


def test_training_flags_and_gradients_stay():
    """Each module keeps its training flag, each remaining parameter whether it learns."""
    for inplace in (False, True):
        model = Net().train()
        model.head.eval()
        model.head.bias.requires_grad_(False)
        small, _ = compress(model, ROOMY, inplace=inplace)
        assert [small.training, small.item.training, small.head.training] == [True, True, False]
        assert [one.requires_grad for one in small.parameters()] == [False, True, False]


def captured():
    """A model whose forward holds on to its own modules."""
    model = Net()
    item, head = model.item, model.head
    model.other = lambda _, ids: head(item(ids)).squeeze(-1)
    return model


def test_copies_that_read_the_given_model_are_noticed():
    """With batches they are refused, without them a warning says so; in place they work."""
    with pytest.raises(ModelError, match=r"reads item\.weight of the given model"):
        shrink(captured(), batches=[IDS])
    assert "of the given model itself" in compress(captured(), ROOMY)[1].warnings[0]
    small, report = compress(captured(), ROOMY, inplace=True, batches=[IDS])
    assert "measuring sees it uncompressed" in report.warnings[0]
    assert torch.equal(answers(small), small.head(small.item(IDS)).squeeze(-1))


def test_numbers_beyond_float32_are_called_that():
    """They are finite all the same."""
    model = Net().double()
    with torch.no_grad():
        model.item.weight[3] = 1e300
    with pytest.raises(ModelError, match="beyond the range of float32"):
        shrink(model)


# ---- a compressed weight at work


def test_tables_go_into_shared_memory():
    """And answer from there."""
    small = shrink(Net())
    before = answers(small)
    small.share_memory()
    assert all(one.is_shared() for one in small.parameters())
    assert torch.equal(answers(small), before)


def test_ids_behind_the_last_offset_are_ignored():
    """As torch does, with weights per sample and without."""
    model = Net(lambda: nn.EmbeddingBag(500, 8, mode="sum", include_last_offset=True)).eval()
    small, offsets, weights = shrink(model), torch.tensor([0, 5, 60]), torch.rand(len(IDS))
    for more in ((), (weights,)):
        assert torch.allclose(small.item(IDS, offsets, *more), model.item(IDS, offsets, *more), atol=1e-2)
    with pytest.raises(ValueError, match="last offset"):
        small.item(IDS, torch.tensor([0, 5, 600]))


def test_only_what_is_written_into_is_refused():
    """A compressed weight may be read for an out=, and be none."""
    weight = shrink(Net()).item.weight
    assert torch.equal(torch.add(weight, 1, out=torch.zeros(500, 8)), weight + 1)
    with pytest.raises(ModelError, match="in place"):
        torch.add(torch.ones(500, 8), 1, out=weight)
    with pytest.raises(ModelError, match="in place"):
        torch._foreach_add_([weight], 1.0)


def test_a_pruned_weight_answers_and_is_not_saved(tmp_path):
    """Its module looks up what pruning leaves; no file can hold that."""
    small = shrink(Net())
    prune.l1_unstructured(small.item, "weight", 0.5)
    assert torch.equal(small.item(IDS), small.item.weight[IDS])
    with pytest.raises(ModelError, match="no compressed table"):
        save(small, tmp_path / "net.safetensors")


def test_assigning_to_data_is_refused():
    """It would be lost."""
    small = shrink(Net())
    with pytest.raises(ModelError, match=r"\.data of a compressed weight"):
        small.item.weight.data = torch.zeros(500, 8)
    with pytest.raises(ModelError, match=r"\.data of a compressed weight"):
        vector_to_parameters(torch.zeros(4009), small.parameters())
    assert small.half().item.weight.dtype is torch.float16


# ---- arguments and models of another kind than expected


class Computing(nn.Embedding):
    """Gives another weight than it holds."""

    def __init__(self) -> None:
        super().__init__(500, 8)

    def __getattr__(self, name):
        """Twice the weight."""
        value = super().__getattr__(name)
        return value * 2 if name == "weight" else value


def of_dims(*shape):
    """An embedding whose weight has another number of dimensions."""
    table = nn.Embedding(500, 8)
    table.weight = nn.Parameter(torch.zeros(*shape))
    return table


def name_it(name):
    """A model with a module by this name."""
    model = Net()
    model._modules[name] = nn.Linear(2, 2)
    return model


def with_parameter(parameter):
    """A model with another parameter beside its table."""
    model = Net()
    model.other = parameter
    return model


class Endless(IterableDataset):
    """A stream without a length."""

    def __iter__(self):
        """Three batches' worth of ids."""
        return iter(range(96))


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    ("model", "text"),
    [
        (lambda: Net(Computing), "computes its weight"),
        (lambda: Net(lambda: of_dims(500)), "weight of 1 dimensions"),
        (lambda: Net(lambda: of_dims(500, 2, 4)), "weight of 3 dimensions"),
        (lambda: name_it("a.b"), "named 'a.b'"),
        (lambda: name_it("a\ud800"), "has a part named"),
        (lambda: with_parameter(nn.parameter.UninitializedParameter()), "has no shape yet"),
        (lambda: with_parameter(nn.Parameter(torch.eye(3).to_sparse())), "no plain tensor .torch.sparse_coo"),
        (lambda: torch.jit.trace(Net(), IDS), "compiled by TorchScript"),
        (lambda: nn.Sequential(nn.Embedding(500, 8), torch.jit.script(nn.Linear(8, 1))), "compiled by TorchScript"),
    ],
)
def test_models_of_other_kinds_are_refused(model, text):
    """One sentence for each."""
    with pytest.raises(ModelError, match=text):
        shrink(model())


@pytest.mark.parametrize(
    ("choices", "text"),
    [
        ({"keep": 5}, "keep is 5"),
        ({"keep": [5]}, "keep is"),
        ({"progress": None}, "progress is None"),
        ({"progress": 3}, "progress is a int"),
        ({"labels": 3}, "labels is a int"),
        ({"forward": "x"}, "forward is a str"),
        ({"batches": list}, "batches is a type"),
        ({"batches": (1 // 0 for _ in range(1))}, "batches failed .ZeroDivisionError"),
        ({"batches": [{"ids": IDS, "y": IDS}]}, r"forward=lambda model, batch: model\(ids=batch\['ids'\]\)"),
        ({"batches": [IDS], "forward": lambda m, b: m(b).to_sparse()}, "sparse"),
        ({"batches": [IDS], "forward": lambda m, b: torch.nested.nested_tensor([m(b)])}, "nested"),
        ({"batches": [IDS], "forward": lambda m, b: m(b) + 1j, "outputs": "probabilities"}, "complex64"),
    ],
)
def test_arguments_of_other_kinds_are_refused(choices, text):
    """One sentence for each."""
    with pytest.raises(MemrecError, match=text):
        shrink(Net(), **choices)


def test_a_loader_without_a_length_teaches():
    """Batches are counted by going through them."""
    loader = DataLoader(Endless(), batch_size=32)
    assert compress(Net(), ROOMY, batches=loader, val=loader, epochs=1, keep=None)[0].item.weight.shape == (500, 8)


def test_a_compressed_model_is_no_fresh_instance(tmp_path):
    """A file is loaded into an instance of the class that was compressed, and not over what compress() returned."""
    small = shrink(Net())
    save(small, tmp_path / "net.safetensors")
    with pytest.raises(ModelError, match="item is compressed already; give a fresh instance"):
        load(tmp_path / "net.safetensors", into=small)


@pytest.mark.parametrize("path", [5, None, b"x", "\ud800"])
def test_paths_of_other_kinds_are_refused(path):
    """For writing and for reading."""
    with pytest.raises(OutputError, match="the path is"):
        save(shrink(Net()), path)
    with pytest.raises(ArtifactError, match="the path is"):
        load(path)


def test_another_default_device_changes_nothing(tmp_path):
    """Work is done on the CPU."""
    model, path = Net(), tmp_path / "net.safetensors"
    torch.set_default_device("meta")
    try:
        small = shrink(model, batches=[IDS])
        save(small, path)
        fresh = Net().to_empty(device="cpu")
        load(path, into=fresh)
    finally:
        torch.set_default_device(None)
    assert torch.equal(answers(fresh), answers(small))
