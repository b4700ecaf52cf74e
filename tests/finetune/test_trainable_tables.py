"""Tables that decode through float parameters: the same rows as the stored integers, with gradients to all of them."""

import pytest
import torch
from students import DIM, FORMS, ROWS, SCALE, make_spec, make_student, make_table
from torch import nn

from memrec_convert.encoding.codecs import CODECS
from memrec_convert.finetune import stored_rows, trainable
from memrec_convert.finetune.row_adam import RowAdam
from memrec_convert.finetune.stored_rows import TrainableKept
from memrec_convert.finetune.trainable import TrainableGroup, TrainableTable, trainable_tables

IDS = torch.arange(ROWS)


def parts_of(table):
    """(trainable table, its group or None) of a compressed table."""
    if table.spec.form == "kept":
        return TrainableKept(table, mapped=True), None
    group = None if table.group is None else TrainableGroup(table.group)
    return TrainableTable(table, group), group


def move(parts, size=0.05, seed=0):
    """Shifts every parameter by noise of this many of its own units."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for part in parts:
            for parameter in part.parameters():
                parameter += size * torch.randn_like(parameter)


@pytest.mark.parametrize("form", [*FORMS, "kept"])
def test_at_step_zero_rows_are_those_of_the_reference(form):
    """Codes, levels, stored rows and hashed tokens decode alike, but for the order of float sums."""
    table = make_table(form)
    trainable, _ = parts_of(table)
    want = table.lookup(IDS)
    assert torch.allclose(trainable.decode(IDS), want, rtol=1e-5, atol=1e-5 * float(want.abs().max()))
    assert trainable.decode(IDS[:0]).shape == (0, DIM)
    assert torch.allclose(trainable.decode(IDS[[5, 5, 80]]), want[[5, 5, 80]], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", [*FORMS, "kept"])
def test_writing_back_at_once_changes_nothing(form):
    """Parameters that were not trained round to the integers that they came from."""
    table = make_table(form)
    before = {name: tensor.clone() for name, tensor in table.state_dict().items()}
    for part in parts_of(table):
        if part is not None:
            part.write_back()
    for name, tensor in table.state_dict().items():
        if name == "group.tokens" and form == "fp32 hashed":
            assert torch.allclose(tensor, before[name], rtol=1e-6)
        else:
            assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("form", [*FORMS, "kept"])
def test_after_writing_back_the_reference_gives_what_was_trained(form):
    """The rounding is in the loop: what training last saw is what the stored integers decode to."""
    table = make_table(form)
    untrained = table.lookup(IDS)
    parts = [part for part in parts_of(table) if part is not None]
    move(parts)
    trained = parts[0].decode(IDS).detach()
    for part in parts:
        part.write_back()
    found = table.lookup(IDS)
    tolerance = 2e-3 if "hashed" in form else 1e-5  # W is stored as fp16
    assert torch.allclose(found, trained, rtol=tolerance, atol=tolerance)
    assert float((found - untrained).abs().mean()) > 1e-2


def test_written_numbers_are_rounded_parameters():
    """Codebook entries are the nearest integers in units of their stage, cut at 127; the scale stays."""
    table = make_table("codes")
    trainable, _ = parts_of(table)
    with torch.no_grad():
        trainable.codebook += 0.3 * torch.randn(trainable.codebook.shape, generator=torch.Generator().manual_seed(0))
        trainable.codebook[0, 0], trainable.codebook[-1, 1] = 1e4, -1e4
        trainable.centre += 1.5 / trainable.unit
    centre, scale = table.frame[1:].clone(), table.frame[0].clone()
    trainable.write_back()
    spec, _ = make_spec("codes")
    units = torch.cat(
        [torch.full((size, 1), SCALE * 2.0**-s) for size, s in zip(spec.stages, spec.shifts, strict=True)]
    )
    want = (trainable.codebook.detach() * trainable.spread / units).clamp(-127, 127)
    assert float((table.codebook - want).abs().max()) <= 0.5001
    assert table.codebook[0, 0] == 127
    assert table.codebook[-1, 1] == -127
    assert torch.allclose(table.frame[1:], centre + 1.5)
    assert table.frame[0] == scale


@pytest.mark.parametrize("form", FORMS)
def test_gradients_reach_every_parameter(form):
    """Codebook, centre, M and W all move the rows; an entry that no id names gets none."""
    table = make_table(form)
    trainable, group = parts_of(table)
    trainable.decode(IDS).square().sum().backward()
    assert int((trainable.centre.grad != 0).sum()) == DIM
    if table.spec.stages:
        assert float((trainable.codebook.grad != 0).float().mean()) > 0.5
    if group is not None:
        assert float((group.tokens.grad != 0).float().mean()) > 0.5
        if group.weights is not None:
            assert float((group.weights.grad != 0).float().mean()) > 0.5


def test_gradients_are_those_of_the_unrounded_parameters():
    """Straight through the rounding: each lookup passes its gradient to the entries that it sums."""
    table = make_table("codes")
    trainable, _ = parts_of(table)
    key = torch.tensor([17])
    trainable.decode(key).sum().backward()
    spec = table.spec
    named = {int(entry) for entry in torch.cat(table.read_entries(key, 0, spec.base_depth))}
    touched = set(trainable.codebook.grad.abs().sum(dim=1).nonzero().flatten().tolist())
    assert touched == named
    assert torch.allclose(trainable.codebook.grad[sorted(named)], torch.full((3, DIM), trainable.spread))
    assert torch.allclose(trainable.centre.grad, torch.full((DIM,), trainable.unit))


def test_stored_rows_move_by_themselves():
    """A stored row has its own gradient, and no part in the codebook or the centre."""
    table = make_table("rows")
    trainable, _ = parts_of(table)
    stored = (table.form_of(IDS) == 2).nonzero().flatten()
    assert len(stored)
    (trainable.decode(stored).sum() + 0 * trainable.centre.sum() + 0 * trainable.codebook.sum()).backward()
    (rows,) = trainable.stored.values()
    assert torch.allclose(rows.rows.grad, rows.units.expand(rows.rows.shape))
    assert not bool(trainable.codebook.grad.any())
    assert not bool(trainable.centre.grad.any())


def test_levels_over_a_hashed_base_take_no_hashed_token():
    """An indexed id's row does not depend on M."""
    table = make_table("hashed rows")
    trainable, group = parts_of(table)
    before = trainable.decode(IDS).detach()
    with torch.no_grad():
        group.tokens += 10.0
    changed = (trainable.decode(IDS).detach() != before).any(dim=1)
    assert torch.equal(changed, table.form_of(IDS) == 0)


def test_tables_of_a_group_train_one_pair_of_tables():
    """Two tables that share M and W share its parameters too."""
    first = make_table("hashed")
    second = make_table("hashed", seed=1, group=first.group)
    with trainable_tables(nn.ModuleList([first, second])) as parts:
        groups = [part for part in parts if isinstance(part, TrainableGroup)]
        assert len(parts) == 3
        assert len(groups) == 1
        before = second(IDS.unsqueeze(1)).detach()
        first(IDS.unsqueeze(1)).sum().backward()
        with torch.no_grad():
            groups[0].tokens -= groups[0].tokens.grad
        assert not torch.equal(second(IDS.unsqueeze(1)), before)


def test_decoders_are_there_inside_and_gone_outside(monkeypatch):
    """Also after a failure, and a kept table of too many rows has none."""
    monkeypatch.setattr(trainable, "MOST_TRAINED", ROWS * DIM - 1)
    student = make_student("codes", "kept")

    def fail():
        with trainable_tables(student) as parts:
            assert [type(part) for part in parts] == [TrainableTable]
            assert student.first.decoder is not None
            assert student.second.decoder is None
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert student.first.decoder is None


def test_rows_move_at_a_multiple_of_the_rate(monkeypatch):
    """What many ids share takes the rate itself; more rows than may be trained stay as they are."""
    model = nn.ModuleList([make_table("rows"), make_table("hashed"), make_table("kept")])
    with trainable.open_codes(model) as trainee:
        (adam,) = trainee.make_optimizers(model, rate=0.1, dense_rate=1.0, train_dense=False)
        groups = [(group["lr"], sum(one.numel() for one in group["params"])) for group in adam.param_groups]
    stored, kept, group, shared = 20 * DIM, ROWS * DIM, 40 * DIM + 3 * 16, (4 + 16 + 8) * DIM + 2 * DIM
    maps = (0.1 * trainable.MAP_FACTOR, DIM * DIM)
    assert groups == [(0.1 * trainable.ROWS_FACTOR, stored + kept), (0.1, shared), maps, (0.1, group)]
    monkeypatch.setattr(trainable, "MOST_TRAINED", 20 * DIM - 1)
    with trainable_tables(model) as parts:
        assert [type(part) for part in parts] == [TrainableTable, TrainableTable, TrainableGroup]
        assert not parts[0].stored


def alone(paces):
    """Rows that move each by itself at their paces."""
    return trainable.Gait(paces, torch.zeros(len(paces), dtype=torch.bool))


@pytest.mark.parametrize("sparse", [False, True])
def test_some_rows_of_a_table_may_have_a_map(monkeypatch, sparse):
    """What one of them learns moves all of them, and none of the others; the table then has them so."""
    monkeypatch.setattr(stored_rows, "MANY_ROWS", ROWS if sparse else ROWS + 1)
    table, mapped = make_table("kept"), torch.arange(ROWS) < ROWS * 3 // 4
    gait = trainable.Gait(torch.ones(ROWS, 1), mapped)
    with trainable.open_codes(nn.ModuleList([table]), gaits={table: gait}) as trainee:
        optimizers = trainee.make_optimizers(nn.Module(), rate=0.01, dense_rate=1.0, train_dense=False)
        held, every = trainee.parts[0], torch.arange(ROWS)
        before = held.decode(every).detach()
        assert torch.allclose(before, table.read_rows(every), atol=1e-5)
        held.decode(torch.tensor([2, ROWS - 1])).sum().backward()
        for one in optimizers:
            one.step()
        moved = (held.decode(every).detach() != before).any(dim=1)
        trainee.write_back()
    assert torch.equal(moved, mapped | (every == ROWS - 1))
    assert torch.allclose(table.read_rows(every), held.decode(every).detach(), atol=1e-2)


def test_rows_of_a_table_apart_move_each_by_themselves():
    """A kept table has a map, by which a row that is not seen moves too; one that is set apart has none."""
    first, second = make_table("kept"), make_table("kept", seed=1)
    model = nn.ModuleList([first, second])
    with trainable.open_codes(model, gaits={second: alone(torch.ones(ROWS, 1))}) as trainee:
        (adam,) = trainee.make_optimizers(model, rate=0.01, dense_rate=1.0, train_dense=False)
        before = [table.decode(IDS).detach() for table in trainee.parts]
        sum(table.decode(IDS[:1]).sum() for table in trainee.parts).backward()
        adam.step()
        moved = [
            (table.decode(IDS).detach() != rows).any(dim=1) for table, rows in zip(trainee.parts, before, strict=True)
        ]
    assert moved[0].float().mean() > 0.9
    assert moved[1].nonzero().flatten().tolist() == [0]


@pytest.mark.parametrize("sparse", [False, True])
def test_rows_move_at_their_own_pace(monkeypatch, sparse):
    """One step of equal gradients moves a row of twice the pace about twice as far, and none moves before it."""
    monkeypatch.setattr(stored_rows, "MANY_ROWS", ROWS if sparse else ROWS + 1)
    table = make_table("kept")
    paces = 1 + torch.arange(ROWS).remainder(2).unsqueeze(1).to(torch.float32)
    with trainable.open_codes(nn.ModuleList([table]), gaits={table: alone(paces)}) as trainee:
        (adam,) = trainee.make_optimizers(nn.Module(), rate=1e-4, dense_rate=1.0, train_dense=False)
        held = trainee.parts[0]
        before = (held.rows * held.units).detach()
        assert torch.allclose(before, table.read_rows(IDS), atol=1e-6)
        held.decode(IDS).sum().backward()
        adam.step()
        moved = ((held.rows * held.units).detach() - before).abs().mean(dim=1)
    assert torch.allclose(moved[1::2] / moved[::2], torch.full((ROWS // 2,), 2.0), rtol=0.02)


def test_a_row_that_is_seen_once_hardly_moves():
    """One example in many steps says little: it must not weigh as much as it would to Adam alone."""
    model = nn.ModuleList([make_table("kept")])
    with trainable.open_codes(model) as trainee:
        (adam,) = trainee.make_optimizers(model, rate=0.01, dense_rate=1.0, train_dense=False)
        rows = trainee.parts[0].rows
        before = rows.detach().clone()
        for step in range(50):
            rows.grad = torch.zeros_like(rows)
            rows.grad[0] = 2e-3
            rows.grad[1] = 2e-3 * (step == 24)
            adam.step()
    always, once, never = (rows.detach() - before).abs().mean(dim=1)[:3].tolist()
    assert never == 0 < once < always / 10


def test_parameters_have_a_common_size():
    """Codebooks and tokens are in units of their own spread, so one learning rate serves all."""
    for form in ("codes", "hashed", "fp32 hashed"):
        trainable, group = parts_of(make_table(form))
        trained = trainable.codebook if group is None else group.tokens
        assert float(trained.detach().square().mean().sqrt()) == pytest.approx(1.0, rel=1e-4)


def test_ids_outside_the_table_are_still_refused():
    """The decoder stands behind the checks of a lookup."""
    student = make_student("codes", "kept")
    with trainable_tables(student), pytest.raises(IndexError, match="outside"):
        student.first(torch.tensor([[ROWS]]))


def test_many_rows_have_sparse_gradients_and_learn_alike(monkeypatch):
    """Rows of which a batch touches few are an optimizer's own matter; rows that it does not touch stay."""
    monkeypatch.setattr(stored_rows, "MANY_ROWS", ROWS)
    table = make_table("kept")
    model = nn.ModuleList([table])
    with trainable.open_codes(model, gaits={table: alone(torch.ones(ROWS, 1))}) as trainee:
        (adam,) = trainee.make_optimizers(model, rate=0.01, dense_rate=1.0, train_dense=False)
        assert isinstance(adam, RowAdam)
        before = trainee.parts[0].decode(IDS).detach()
        trainee.parts[0].decode(IDS[:3].repeat(2 * ROWS)).sum().backward()  # also of more lookups than rows
        assert trainee.parts[0].rows.grad.is_sparse
        adam.step()
        moved = (trainee.parts[0].decode(IDS).detach() != before).any(dim=1)
    assert moved.nonzero().flatten().tolist() == IDS[:3].sort().values.tolist()


def test_few_rows_are_rounded_before_they_are_looked_up():
    """A table of fewer rows than a batch has lookups gives what one gives whose batches are smaller, gradients too."""
    answers, gradients = [], []
    for size in (4, 4 * ROWS):
        model = nn.ModuleList([make_table("kept")])
        with trainable_tables(model) as parts:
            ids = torch.arange(4 * ROWS) * 7 % ROWS
            answers.append(torch.cat([parts[0].decode(part) for part in ids.split(size)]))
            (answers[-1] * torch.arange(4 * ROWS).unsqueeze(1)).sum().backward()
            gradients.append(parts[0].rows.grad)
    torch.testing.assert_close(answers[0], answers[1], rtol=0, atol=1e-6)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-5)


def draw_hard_rows():
    """Rows of every size that int8 rows hold, among them zeros, halves between codes, tiny and huge ones, one cut."""
    generator = torch.Generator().manual_seed(9)
    rows = torch.randn(400, 24, generator=generator) * 10.0 ** torch.linspace(-12, 7.5, 400).unsqueeze(1)
    between = (torch.arange(24) * 10 - 120 + 0.5).repeat(40, 1) * 2.0 ** torch.arange(-30, 10).unsqueeze(1)
    return torch.cat([rows, between, torch.zeros(1, 24), torch.full((1, 24), 3e38), torch.full((1, 24), -1e-45)])


def test_the_kernel_rounds_as_the_codec_does():
    """To the bit; a row that is not finite stays as it is, for the checks that are made of trained rows."""
    rows, codec = draw_hard_rows(), CODECS["int8"]
    wanted = codec.decode(codec.encode(rows), torch.arange(len(rows)), rows.shape[1])
    assert torch.equal(stored_rows.round_as(codec, rows), wanted)
    across = torch.randn(24, 50, generator=torch.Generator().manual_seed(2)).T
    assert torch.equal(stored_rows.round_as(codec, across), stored_rows.round_as(codec, across.contiguous()))
    for dtype in (torch.float64, torch.bfloat16):  # which the kernel does not take
        told = codec.decode(codec.encode(across.to(dtype)), torch.arange(50), 24)
        assert torch.equal(stored_rows.round_as(codec, across.to(dtype)), told)
    broken = torch.tensor([[1.0, torch.nan], [torch.inf, 2.0]])
    torch.testing.assert_close(stored_rows.round_as(codec, broken), broken, rtol=0, atol=0, equal_nan=True)
