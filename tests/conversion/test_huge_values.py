"""Numbers far from what training leaves: converted where float32 bears it, else refused in one sentence."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from memrec_convert import apply, compress, convert, plan, verify
from memrec_convert.errors import ArtifactError, ModelError, NonFiniteRowsError, OptionError, PatchError


def write(tiny, path, change):
    """The tiny model with changed tensors."""
    state = torch.load(tiny.bare, weights_only=True)["state_dict"]
    change(state)
    torch.save({"state_dict": state}, path)
    return path


def scale_tables(state, factor):
    """All rows times a factor."""
    for name in state:
        if name.startswith("emb_l"):
            state[name] *= factor


@pytest.mark.parametrize("size", [1e16, 1e20, 3e38])
@pytest.mark.parametrize("with_log", [False, True])
def test_a_row_that_is_too_long_is_named(tiny, tmp_path, size, with_log):
    """One weight whose square leaves float32: the table, the row, its length and what to do; no file."""
    source = write(tiny, tmp_path / "a.pt", lambda state: state["emb_l.0.weight"][5].fill_(0)[3].fill_(size))
    with pytest.raises(
        NonFiniteRowsError, match=rf"a\.pt > emb_l\.0: row 5 has the length {size:.1e}".replace("+", r"\+")
    ):
        convert(source, "12kB", data=tiny.train if with_log else None, out=tmp_path / "small")
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize("factor", [1e9, 1e12, 1e14])
def test_large_rows_take_the_budget_that_small_ones_do(tiny, tmp_path, factor):
    """Whatever unit rows are in, the same budgets are in reach."""
    source = write(tiny, tmp_path / "a.pt", lambda state: scale_tables(state, factor))
    report = convert(source, "12kB", data=tiny.train, epochs=0, out=tmp_path / "small")
    assert report.artifact.bytes <= 12_000
    found = verify(tmp_path / "small", against=source).against["tables"]
    assert all(table["relative_error"] < 0.7 for table in found)


class Steep(nn.Module):
    """A regression whose outputs are far larger than any label."""

    def __init__(self):
        super().__init__()
        self.rows = nn.EmbeddingBag(2000, 8, mode="sum")

    def forward(self, ids):
        """Outputs [n]."""
        return self.rows(ids).sum(1) * 1e25


def test_outputs_that_are_too_steep_are_named():
    """Squared gradients beyond float32: the table, and what to do."""
    torch.manual_seed(0)
    batches = [torch.randint(0, 2000, (64, 2)) for _ in range(4)]
    with pytest.raises(ModelError, match="outputs change so steeply with the rows of table rows"):
        compress(Steep(), "30kB", batches=batches, objective="regression", labels=lambda ids: ids[:, 0].float())


def test_rows_that_count_nothing_are_warned_of(tiny, tmp_path):
    """Without data, rows shorter than fresh ones beside huge ones are read as the huge ones' mean; plain models not."""

    def change(state):
        state["emb_l.0.weight"][100:] *= 1e-4
        state["emb_l.0.weight"][:100] *= 1e3

    source = write(tiny, tmp_path / "a.pt", change)
    warnings = convert(source, "12kB", out=tmp_path / "small").warnings
    assert any(one.startswith("emb_l.0: 1,900 of 2,000 rows are no longer than") for one in warnings)
    plain = convert(tiny.bare, "12kB", out=tmp_path / "plain").warnings
    assert not any("no longer than" in one for one in plain)


def test_other_slips_are_one_sentence(tiny, tmp_path):
    """An artifact by URL, a directory for an artifact or a patch, and a number of samples beyond counting."""
    with pytest.raises(ArtifactError, match=r"^s3://b/a\.safetensors: found a URL, expected a local file"):
        verify("s3://b/a.safetensors")
    with pytest.raises(ArtifactError, match="is a directory; expected an artifact"):
        apply(tmp_path, tmp_path / "patch", out=tmp_path / "new")
    with pytest.raises(PatchError, match="is a directory; expected a patch"):
        apply(tiny.bare, tmp_path, out=tmp_path / "new")
    with pytest.raises(OptionError, match=r"samples is 4611686018427387904; expected .* 1 to 2\^62 - 1"):
        plan(tiny.bare, "12kB", counts=tmp_path / "counts.parquet", samples=1 << 62)
    assert list(tmp_path.iterdir()) == []
