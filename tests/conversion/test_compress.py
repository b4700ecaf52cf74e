"""compress, save and load on a live model of its owner's own class."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from memrec_convert import compress, load, save, verify
from memrec_convert.errors import (
    ArtifactError,
    BudgetError,
    BudgetTooSmallError,
    IdRangeError,
    LogError,
    ModelError,
    NonFiniteRowsError,
    OptionError,
    OutputError,
)
from memrec_convert.lookup import CompressedWeight
from memrec_convert.units import SHARE_ALLOWANCE_BYTES

BUDGET = 9_000
USERS, ITEMS, DAYS = 1500, 200, 40


class Net(nn.Module):
    """Two bags (sum, mean), an embedding with a padding row, and an MLP with dropout."""

    def __init__(
        self, *, mode: str = "mean", dtype: torch.dtype = torch.float32, max_norm: float | None = None
    ) -> None:
        super().__init__()
        self.user = nn.EmbeddingBag(USERS, 8, mode="sum", dtype=dtype, max_norm=max_norm)
        self.item = nn.EmbeddingBag(ITEMS, 6, mode=mode, dtype=dtype)
        self.day = nn.Embedding(DAYS, 4, padding_idx=0, dtype=dtype)
        self.mlp = nn.Sequential(nn.Linear(18, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 1))

    def forward(self, user, item, day):
        """Logits [B, 1] of ids [B, 2], [B, 3] and [B]."""
        return self.mlp(torch.cat([self.user(user), self.item(item), self.day(day)], dim=1).float())


class Tied(nn.Module):
    """An autoencoder-like model whose output layer shares another layer's weight, once as it is and once transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(USERS, 8)
        self.first, self.second, self.turned = (nn.Linear(8, 8, bias=False) for _ in range(3))
        self.second.weight = self.first.weight
        self.turned.weight = nn.Parameter(self.first.weight.detach().t())

    def forward(self, ids):
        """Logits [B]."""
        return self.turned(self.second(self.first(self.table(ids)).relu()).relu()).sum(1)


class Shared(nn.Module):
    """Two bags over one Parameter, and a third table of their size that is another one."""

    def __init__(self) -> None:
        super().__init__()
        self.seen, self.bought = (nn.EmbeddingBag(USERS, 8, mode="sum") for _ in range(2))
        self.bought.weight = self.seen.weight
        self.other = nn.EmbeddingBag(USERS, 8, mode="sum")
        self.out = nn.Linear(24, 1)

    def forward(self, seen, bought, other):
        """Logits [B, 1]."""
        return self.out(torch.cat([self.seen(seen), self.bought(bought), self.other(other)], dim=1))


def make(kind=Net, **choices):
    """A seeded model, its rows of different lengths as training leaves them."""
    torch.manual_seed(0)
    model = kind(**choices)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Embedding | nn.EmbeddingBag):
                module.weight *= torch.rand(len(module.weight), 1, dtype=torch.float32).to(module.weight.dtype)
    return model.eval()


def make_batches(count: int = 6, seed: int = 1):
    """Batches of 128 samples as tuples; low ids are frequent."""
    generator = torch.Generator().manual_seed(seed)

    def draw(rows, *shape):
        return (torch.rand(128, *shape, generator=generator) ** 3 * rows).long()

    return [(draw(USERS, 2), draw(ITEMS, 3), draw(DAYS)) for _ in range(count)]


def state_of(model):
    """A copy of all that could be changed."""
    return copy.deepcopy(model.state_dict()), model.training, [p.requires_grad for p in model.parameters()]


def same_state(before, model) -> bool:
    """Whether a model is as it was, bit for bit."""
    state, training, grads = before
    now = model.state_dict()
    return (
        list(now) == list(state)
        and all(torch.equal(now[name], state[name]) for name in state)
        and model.training == training
        and [p.requires_grad for p in model.parameters()] == grads
        and all(p.grad is None for p in model.parameters())
    )


# ---- what it gives


@pytest.mark.parametrize("training", [True, False])
def test_the_given_model_is_left_as_it_was(training):
    """Values, training flag, gradients and hooks: nothing of the original changes."""
    model = make().train(training)
    before = state_of(model)
    small, _ = compress(model, BUDGET, batches=make_batches(), val=make_batches(1, seed=2))
    assert same_state(before, model)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
    assert small is not model
    assert small.training == training
    assert isinstance(small.user, nn.EmbeddingBag)
    assert isinstance(small.day, nn.Embedding)
    assert all(isinstance(table.weight, CompressedWeight) for table in (small.user, small.item, small.day))
    dense = [p for p in small.parameters() if not isinstance(p, CompressedWeight)]
    assert {p.data_ptr() for p in dense}.isdisjoint(p.data_ptr() for p in model.parameters())


def test_save_and_load_give_the_same_logits(tmp_path):
    """A fresh instance of the class takes the file; size and sum of bytes are those of the report."""
    small, report = compress(make(), BUDGET, batches=make_batches())
    path = tmp_path / "net.safetensors"
    assert save(small, path) == path.stat().st_size == report.artifact.bytes <= BUDGET
    assert report.artifact.bytes > 0.75 * BUDGET
    assert report.weights == "log"
    fresh = load(path, into=Net())
    assert not fresh.training
    with torch.no_grad():
        for batch in make_batches(2, seed=7):
            assert torch.equal(fresh(*batch), small(*batch))
    assert verify(path).tables == 3
    again = tmp_path / "again.safetensors"
    save(fresh, again)
    assert again.read_bytes() == path.read_bytes()


def test_the_answers_stay_near_the_originals():
    """At a sixth of the bytes the logits still follow the original's."""
    model = make().eval()
    small, _ = compress(model, BUDGET, batches=make_batches())
    with torch.no_grad():
        old, new = (torch.cat([m(*batch) for batch in make_batches(4, seed=9)]).flatten() for m in (model, small))
    assert torch.corrcoef(torch.stack([old, new]))[0, 1] > 0.95


def test_a_padding_row_stays_zero_and_uncounted():
    """The embedding's padding id gives zeros; a bag's padding id does not count in its mean."""
    small, _ = compress(make(), BUDGET)
    assert not small.day(torch.tensor([0])).any()
    torch.manual_seed(0)
    model = nn.Sequential(nn.EmbeddingBag(500, 8, mode="mean", padding_idx=3))
    kept, _ = compress(model, "1MB")
    ids = torch.tensor([[1, 3, 2], [3, 3, 3]])
    assert torch.allclose(kept(ids), model(ids), atol=1e-6)


def test_a_roomy_budget_keeps_every_bit():
    """Rows at fp32, logits equal, and a warning that says so."""
    model = make().eval()
    small, report = compress(model, "1MB", batches=make_batches())
    batch = make_batches(1, seed=3)[0]
    assert torch.equal(small(*batch), model(*batch))
    assert any("stays at fp32" in warning for warning in report.warnings)


@pytest.mark.parametrize("method", ["auto", "codes", "int8", "memrec"])
def test_predicted_bytes_are_written_for_own_classes(tmp_path, method):
    """Whatever the method and the precision of the dense part."""
    for number, (budget, dense) in enumerate(((8_500, "fp32"), (11_111, "bf16"))):
        small, report = compress(make(), budget, method=method, dense=dense, threshold="0")
        path = tmp_path / f"{number}.safetensors"
        assert save(small, path) == report.artifact.bytes <= budget
        fresh = load(path, into=Net())
        batch = make_batches(1)[0]
        assert torch.equal(fresh(*batch), small(*batch))


def test_budgets_are_shares_texts_and_numbers():
    """A number is bytes; a share is of the tables, beside the dense part and 20 kB."""
    model = make()
    tables = 4 * (USERS * 8 + ITEMS * 6 + DAYS * 4)
    dense = sum(p.numel() * 4 for p in model.mlp.parameters())
    assert compress(model, "10x", method="int8")[1].budget_bytes == tables // 10 + dense + SHARE_ALLOWANCE_BYTES
    assert compress(model, 9_000, method="int8")[1].budget_bytes == 9_000
    assert compress(model, "9kB", method="int8")[1].budget_bytes == 9_000


# ---- batches


def test_any_iterable_of_batches_counts_alike():
    """A list, a generator and mappings with their own forward give the same model."""
    batches = make_batches()
    mappings = [{"u": u, "i": i, "d": d} for u, i, d in batches]

    def forward(model, batch):
        return model(batch["u"], batch["i"], batch["d"])

    found = [
        compress(make(), BUDGET, batches=batches, method="int8"),
        compress(make(), BUDGET, batches=iter(batches), method="int8"),
        compress(make(), BUDGET, batches=[list(batch) for batch in batches], method="int8"),
        compress(make(), BUDGET, batches=mappings, forward=forward, method="int8"),
    ]
    for small, report in found[1:]:
        assert report.tables == found[0][1].tables
        expected = found[0][0].state_dict()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in small.state_dict().items())


def test_mappings_reach_the_model_by_name():
    """Without forward= a mapping is the model's keyword arguments."""
    batches = [{"user": u, "item": i, "day": d} for u, i, d in make_batches(2)]
    assert compress(make(), BUDGET, batches=batches, method="int8")[1].weights == "log"


def test_the_lookups_are_those_of_the_batches():
    """An id that the batches read often is stored; shares of the lookups add up."""
    _, report = compress(make(), BUDGET, batches=make_batches(), method="int8")
    share = report.tables[0].lookup_share
    assert sum(share.values()) == pytest.approx(1, abs=1e-4)
    without = compress(make(), BUDGET, method="int8")[1]
    assert without.tables[0].lookup_share is None
    assert without.weights == "displacement"
    assert any("no data" in warning for warning in without.warnings)


def test_a_loader_that_shuffles_changes_no_choice():
    """Plans are compared sample by sample, however the loader orders each pass."""

    class Shuffling:
        def __init__(self, batches):
            self.batches, self.passes = batches, 0

        def __iter__(self):
            self.passes += 1
            return iter(self.batches if self.passes % 2 else self.batches[::-1])

    batches = make_batches(2)
    for choice in ({"batches": Shuffling(batches)}, {"batches": batches, "val": Shuffling(make_batches(2, seed=5))}):
        _, report = compress(make(), "1MB", **choice)
        assert report.plan["divergence"] == 0


def test_a_hold_out_leads_to_fine_tuning():
    """With batches and val the copy learns from its original; labels make the AUC its mark."""
    batches, val = make_batches(), make_batches(3, seed=2)
    _, report = compress(make(), BUDGET, batches=batches, val=val, method="codes", epochs=2)
    assert report.fine_tune["metric"] == "-divergence"
    told = report.fine_tune
    assert told["planned_steps"] == 2 * len(batches)
    assert told["steps"] in (told["planned_steps"], told["best_step"] + 4 * 2)  # or four checks without progress
    assert told["gain"] >= 0
    _, report = compress(
        make(), BUDGET, batches=batches, val=iter(val), labels=lambda batch: (batch[2] % 2).float(), method="int8"
    )
    assert report.fine_tune["metric"] == "auc"
    assert compress(make(), BUDGET, batches=batches, method="int8")[1].fine_tune is None


def test_adagrads_state_weighs_the_rows():
    """The optimizer of a live model says which rows were trained; its choice differs from the displacement's."""
    model = make()
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.05)
    for batch in make_batches():
        optimizer.zero_grad()
        model(*batch).square().mean().backward()
        optimizer.step()
    optimizer.zero_grad()
    assert compress(model, BUDGET, optimizer=optimizer, method="int8")[1].weights == "optimizer"
    with pytest.raises(LogError, match="user"):
        compress(model, BUDGET, optimizer=torch.optim.Adam(model.parameters()), weights="optimizer")


# ---- unusual models


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_tables_are_read_as_they_are(tmp_path, dtype):
    """Their bytes are counted at two each; the file round-trips into an instance of the same kind."""
    model = make(dtype=dtype).eval()
    small, report = compress(model, BUDGET, batches=make_batches())
    assert report.tables[0].bytes_before == USERS * 8 * 2
    save(small, tmp_path / "a.safetensors")
    batch = make_batches(1, seed=4)[0]
    assert torch.equal(load(tmp_path / "a.safetensors", into=Net(dtype=dtype))(*batch), small(*batch))
    roomy, _ = compress(model, "1MB")
    assert torch.allclose(roomy(*batch), model(*batch), atol=0.02)


def test_max_norm_that_would_still_change_rows_is_refused():
    """By the module's name, and the original keeps its rows; once every row is short enough, answers are the same."""
    model = make(max_norm=0.5).eval()
    before = state_of(model)
    with pytest.raises(ModelError, match=r"user would still shorten [\d,]+ rows.*keep=\['user'\]"):
        compress(model, "1MB")
    assert same_state(before, model)
    ids = torch.arange(USERS).unsqueeze(1)
    model.user(ids)
    small, _ = compress(model, "1MB", batches=make_batches(2))
    assert small.user.max_norm == 0.5
    assert torch.allclose(small.user(ids), model.user(ids), atol=1e-5)
    tiny, _ = compress(model, BUDGET)
    assert tiny.user(ids).norm(dim=1).max() <= 0.5001


def test_a_shared_parameter_stays_shared(tmp_path):
    """Two modules over one Parameter become one table, stored once, and load as one."""
    model = make(Shared)
    small, report = compress(model, 14_000)
    assert [table.name for table in report.tables] == ["seen", "other"]
    assert small.seen.weight is small.bought.weight
    path = tmp_path / "a.safetensors"
    assert save(small, path) == report.artifact.bytes <= 14_000
    fresh = load(path, into=Shared())
    ids = [torch.randint(0, USERS, (50, 2)) for _ in range(3)]
    assert torch.equal(fresh(*ids), small(*ids))
    assert fresh.seen.weight is fresh.bought.weight


def test_one_table_used_in_two_ways_is_pooled_by_each_module():
    """A sum and a mean over one Parameter share one table; each module pools it as it did."""
    model = make(Shared).eval()
    model.bought.mode = "mean"
    small, report = compress(model, "1MB")
    assert [table.name for table in report.tables] == ["seen", "other"]
    ids = [torch.randint(0, USERS, (50, 2)) for _ in range(3)]
    assert torch.allclose(small(*ids), model(*ids), atol=1e-6)


def test_tied_and_transposed_weights_come_back_right(tmp_path):
    """A tied layer is stored once; a transposed view of its memory is not taken for it."""
    model = make(Tied)
    small, report = compress(model, 10_000)
    path = tmp_path / "a.safetensors"
    assert save(small, path) == report.artifact.bytes <= 10_000
    fresh = load(path, into=Tied())
    assert torch.equal(fresh.first.weight, model.first.weight)
    assert torch.equal(fresh.turned.weight, model.turned.weight)
    ids = torch.arange(64)
    assert torch.equal(fresh(ids), small(ids))


def test_empty_tables_are_left_alone():
    """A table without rows is no reason to fail."""
    model = nn.ModuleDict({"full": nn.Embedding(1000, 8), "empty": nn.Embedding(0, 8), "none": nn.Embedding(0, 8)})
    small, report = compress(model, BUDGET)
    assert [table.name for table in report.tables] == ["full"]
    assert small["empty"].weight.shape == (0, 8)


def test_nonfinite_rows_are_refused_or_read_as_zeros():
    """Named with the table; allowed, they are zeros in the measurements too."""
    model = make()
    with torch.no_grad():
        model.user.weight[7, 2] = float("nan")
    with pytest.raises(NonFiniteRowsError, match="user: 1 row holds"):
        compress(model, BUDGET)
    batches = [*make_batches(2), (torch.full((4, 2), 7), torch.zeros(4, 3, dtype=int), torch.zeros(4, dtype=int))]
    small, report = compress(model, BUDGET, batches=batches, val=batches, allow_nonfinite=True)
    assert report.plan["divergence"] >= 0
    assert all(torch.isfinite(tensor).all() for tensor in small.state_dict().values() if tensor.is_floating_point())
    assert model.user.weight[7, 2].isnan()


# ---- refusals


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (nn.Linear(2, 1), "no nn.EmbeddingBag"),
        (nn.Sequential(nn.EmbeddingBag(50, 4, mode="max")), "max"),
        (nn.Embedding(500, 8), "is itself"),
        (nn.Sequential(nn.Embedding(500, 8, device="meta")), "meta"),
    ],
    ids=["no table", "max", "table alone", "meta"],
)
def test_models_that_cannot_be_compressed_are_refused(model, text):
    """One sentence that says why."""
    with pytest.raises(ModelError, match=text):
        compress(model, BUDGET)


def test_batches_that_do_not_fit_are_refused():
    """None at all, ids outside a table, and answers that are no logits."""
    model, good = make(), make_batches(1)
    with pytest.raises(LogError, match="batches is empty"):
        compress(model, BUDGET, batches=[])
    with pytest.raises(LogError, match="val is empty"):
        compress(model, BUDGET, batches=good, val=iter(()))
    outside = (torch.full((4, 2), USERS), torch.zeros(4, 3, dtype=int), torch.zeros(4, dtype=int))
    with pytest.raises(IdRangeError, match=f"8 of the 8 .* user .* {USERS}"):
        compress(model, BUDGET, batches=[outside])
    with pytest.raises(ModelError, match="a list; expected a tensor"):
        compress(model, BUDGET, batches=good, forward=lambda m, b: m(*b).tolist())
    with pytest.raises(ModelError, match="not all finite"):
        compress(model, BUDGET, batches=good, forward=lambda m, b: m(*b) / 0)


def test_budgets_and_choices_that_do_not_fit_are_refused():
    """As with files; what concerns logs has no meaning here."""
    with pytest.raises(BudgetTooSmallError) as error:
        compress(make(), 100)
    smallest = int(str(error.value).rsplit("(", 1)[1].split(" bytes")[0])
    assert compress(make(), smallest)[1].artifact.bytes <= smallest
    with pytest.raises(BudgetError):
        compress(make(), "48 MBs")
    with pytest.raises(OptionError, match="columns"):
        compress(make(), BUDGET, columns={"a": "b"})
    with pytest.raises(OptionError, match="did you mean 'epochs'"):
        compress(make(), BUDGET, epoch=2)


def test_load_refuses_what_does_not_fit(tmp_path):
    """No instance, another class, another width: each is one sentence."""
    small, _ = compress(make(), BUDGET)
    path = tmp_path / "a.safetensors"
    save(small, path)
    with pytest.raises(ArtifactError, match="into=model"):
        load(path)
    for other in (Shared(), Tied(), nn.Linear(2, 1)):
        with pytest.raises(ModelError, match="fresh instance"):
            load(path, into=other)
    wider = Net()
    wider.mlp[0] = nn.Linear(18, 9)
    with pytest.raises(ModelError, match=r"mlp\.0"):
        load(path, into=wider)


def test_save_refuses_what_it_cannot_write(tmp_path):
    """A model without compressed tables, an existing file, a missing directory; nothing is left behind."""
    small, _ = compress(make(), BUDGET, method="int8")
    with pytest.raises(ModelError, match="no compressed table"):
        save(make(), tmp_path / "a.safetensors")
    with pytest.raises(OutputError):
        save(small, tmp_path / "none" / "a.safetensors")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a.safetensors").write_text("mine")
    with pytest.raises(OutputError):
        save(small, tmp_path / "a.safetensors")
    assert (tmp_path / "a.safetensors").read_text() == "mine"
    save(small, tmp_path / "a.safetensors", force=True)
    assert verify(tmp_path / "a.safetensors").tables == 3
