"""Hashed tokens in place of the mean row: built where they pay, named where they do not, never beyond the budget."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from memrec_convert import compress
from memrec_convert.conversion.steps import fitting
from memrec_convert.conversion.steps import hashed_base as cold
from memrec_convert.kernels.hashing import FIRST_HASH_SEED, hash_ids, token_numbers
from memrec_convert.lookup import spread_state
from memrec_convert.planning.hashed import size_group

ROWS, DIM, BUDGET = 60_000, 16, 20_000


class Tables(nn.Module):
    """One bag of rows, summed to a logit."""

    def __init__(self, rows):
        super().__init__()
        self.bag = nn.EmbeddingBag.from_pretrained(rows, mode="sum")

    def forward(self, ids):
        """Logits of ids."""
        return self.bag(ids, torch.arange(len(ids))).sum(dim=1)


def made_of_tokens(share):
    """Rows that hashed tokens of this share of the budget hold exactly, and nothing shorter does."""
    spec = size_group(DIM, int(share * BUDGET), most_rows=ROWS, k=2, k_weights=4)
    h1, h2 = hash_ids(torch.arange(ROWS), FIRST_HASH_SEED)
    tokens = torch.randn(spec.rows, DIM, generator=torch.Generator().manual_seed(0))
    return tokens[token_numbers(h1, h2, k=2, rows=spec.rows)].sum(dim=1)


def test_tokens_that_pay_are_built():
    """Rows that only their hashes tell apart go to hashed tokens, which cost no byte per id."""
    wanted = made_of_tokens(cold.SHARES["mean"][0])
    small, report = compress(Tables(wanted), BUDGET, weights="uniform", threshold="1kB")
    assert report.plan["chosen"] == cold.NAME
    assert "hashed" in report.tables[0].form
    lost = {one.name: one.score for one in report.alternatives}
    assert lost["rate-distortion plan"] > 1.5 * report.plan["distortion"]
    rows = small.bag(torch.arange(ROWS), torch.arange(ROWS))
    assert torch.isfinite(rows).all()
    lost_energy = (rows - wanted).square().sum() / (wanted - wanted.mean(dim=0)).square().sum()
    assert lost_energy < 0.01


class Beside(Tables):
    """A second table beside the one that is made of tokens."""

    def __init__(self, rows, seed):
        super().__init__(rows)
        torch.manual_seed(seed)
        self.user = nn.EmbeddingBag(2000, DIM, mode="sum")

    def forward(self, pair):
        """Logits of pairs of ids."""
        return 0.1 * super().forward(pair[0]) + 0.5 * self.user(pair[1], torch.arange(len(pair[1]))).sum(dim=1)


def test_codes_beside_hashed_tokens_still_move(monkeypatch):
    """In fine-tuning rows that are coded move by themselves, though another table's are hashed."""
    monkeypatch.setattr(fitting, "SMALL_LISTS", ())  # with which every row of the other table has codes of a level
    monkeypatch.setattr(fitting, "STAGE_LISTS", ((16, 16, 64, 64, 64, 64, 64, 64, 64, 64), (4, 8, 16, 32, 64, 128)))
    wanted, draw = made_of_tokens(cold.SHARES["mean"][0]), torch.Generator().manual_seed(3)
    model, truth = Beside(wanted, 0), Beside(wanted, 1)
    batches = []
    for _ in range(60):
        pair = torch.randint(ROWS, (512,), generator=draw), torch.randint(2000, (512,), generator=draw)
        with torch.no_grad():
            batches.append((pair, torch.bernoulli(torch.sigmoid(truth(pair)), generator=draw)))
    choices = {
        "batches": batches[:50],
        "val": batches[50:],
        "forward": lambda m, batch: m(batch[0]),
        "labels": lambda batch: batch[1],
        "threshold": "1kB",
        "targets": "labels",
        "weights": "uniform",
    }
    plain, _ = compress(model, BUDGET, epochs=0, **choices)
    small, report = compress(model, BUDGET, **choices)
    assert report.plan["chosen"] == cold.NAME
    assert "hashed" in report.tables[0].form
    assert "codes" in report.tables[1].form
    assert report.fine_tune["recoded"] > report.fine_tune["history"][0]["score"]
    before, after = spread_state(plain)[0], spread_state(small)[0]
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert "user.base" in changed
    assert any("token" in name for name in changed)


def test_tokens_that_do_not_pay_are_named(monkeypatch):
    """Random rows are worth more as codes: the attempt is listed as not built, without a score."""
    rows = torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(1))
    rows *= torch.logspace(0, -2, ROWS).unsqueeze(1)
    _, report = compress(Tables(rows), BUDGET, weights="uniform", threshold="1kB")
    assert report.plan["chosen"] == "rate-distortion plan"
    (named,) = [one for one in report.alternatives if one.name == cold.NAME]
    assert named.score is None
    assert "not built: predicted loss is 1." in named.note
    monkeypatch.setattr(cold, "LOW_RATE_BITS", 2.0)  # the budget has 2.7 bits per row
    _, report = compress(Tables(rows), BUDGET, weights="uniform", threshold="1kB")
    assert cold.NAME not in [one.name for one in report.alternatives]


@pytest.mark.parametrize("budget", [8_000, 20_000, 29_000])
def test_the_bytes_of_the_tokens_are_counted(budget, tmp_path):
    """With a hashed base the artifact still keeps its budget, loads alone and answers the same."""
    from memrec_convert import load, save

    model = Tables(made_of_tokens(cold.SHARES["mean"][0]))
    small, report = compress(model, budget, weights="uniform", threshold="1kB")
    path = tmp_path / "small.safetensors"
    save(small, path)
    assert path.stat().st_size <= budget
    assert report.plan["predicted_bytes"] <= budget
    ids = torch.arange(0, ROWS, 7)
    assert torch.equal(load(path, into=Tables(made_of_tokens(cold.SHARES["mean"][0])))(ids), small(ids))
