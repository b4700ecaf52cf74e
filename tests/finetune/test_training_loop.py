"""The training loop: the best state on the hold-out is kept, and nothing else has changed."""

import copy
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from students import DIM, ROWS, make_batches, make_lessons, make_original, make_student
from torch import nn
from torch.nn import functional

from memrec_convert.evaluation.support import ScoredRows
from memrec_convert.finetune import trainable
from memrec_convert.finetune.loop import FineTuning, HoldOutScore, Lesson, TrainingPlan, fine_tune
from memrec_convert.finetune.rows import open_rows
from memrec_convert.lookup import CompressedTable

TRAINED = {"first.codebook", "first.frame", "second.frame", "second.group.tokens", "second.group.weights"}


def state_of(model):
    """A copy of all buffers and parameters."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def changed(model, before):
    """The names of what differs from a state."""
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}


class Script:
    """A hold-out that gives scores from a list and remembers the states that it saw."""

    def __init__(self, scores):
        self.scores, self.states = list(scores), []

    def __call__(self, model):
        """The next score."""
        assert all(module.decoder is None for module in model.modules() if isinstance(module, CompressedTable))
        self.states.append(state_of(model))
        return HoldOutScore("script", self.scores[len(self.states) - 1])


def train(student, hold_out, *, epochs=1, batches=8, progress=lambda *_: None, **choices):
    """Fine-tunes towards an original of the student."""
    lessons = make_lessons(make_original(student), make_batches(batches))
    plan = TrainingPlan(epochs=epochs, steps_per_epoch=batches, **choices)
    return fine_tune(student, lambda _epoch: lessons, plan, hold_out=hold_out, progress=progress)


def divergence_score(student, *, seed=99):
    """A hold-out that scores by the cross-entropy with the original's probabilities."""
    ids = torch.cat(make_batches(8, seed=seed))
    targets = torch.sigmoid(make_original(student)(ids))

    def score(model):
        with torch.no_grad():
            return HoldOutScore("-loss", -float(functional.binary_cross_entropy_with_logits(model(ids), targets)))

    return score


def test_a_gain_that_may_be_luck_is_not_taken():
    """Scores rise, but on a single row: none is better beyond its standard error; the model stays as it came."""
    student, script = make_student(), Script([0, 1, 2, 3, 4])
    before = state_of(student)
    logits = iter(np.arange(5.0))

    def score(model):
        found = script(model)
        return HoldOutScore(found.name, found.score, ScoredRows(np.array([next(logits)]), np.array([9.0])))

    told = train(student, score)
    assert (told.best_step, told.gain) == (0, 0)
    assert "within its standard error" in told.refused
    assert not changed(student, before)


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([0, 1, 5, 2, 3], 4),
        ([0, -1, -2, 4, 3], 6),
        ([0, 1, 2, 3, 4], 8),
        ([3, 1, 5, 5, 4], 6),
        ([0, 0.5, -1, -2, -3], 2),
    ],
)
def test_the_best_state_of_the_history_is_kept(scores, best):
    """What the hold-out saw when it gave its highest score is what the model holds in the end."""
    student, script = make_student(), Script(scores)
    told = train(student, script)
    assert told.history == tuple(zip((0, 2, 4, 6, 8), scores, strict=True))
    assert (told.best_step, told.steps, told.metric) == (best, 8, "script")
    assert told.gain == max(scores) - scores[0]
    assert not changed(student, script.states[best // 2])
    assert len({str(state["first.codebook"].tolist()) for state in script.states}) == 5


@pytest.mark.parametrize("scores", [[5, 4, 3, 2, 1], [5, 5, 5, 5, 5], [5, 1, 4.9, 5, 2]])
def test_where_nothing_is_better_the_first_state_stays(scores):
    """Equal is not better: bit for bit the model that came in."""
    student, script = make_student(), Script(scores)
    before = state_of(student)
    told = train(student, script)
    assert (told.best_step, told.gain) == (0, 0)
    assert not changed(student, before)


def test_a_score_that_is_no_number_is_never_the_best():
    """A state whose score is NaN is passed over, and later ones are still compared."""
    student, script = make_student(), Script([1, float("nan"), 3, 2, float("nan")])
    told = train(student, script)
    assert told.best_step == 4
    assert not changed(student, script.states[2])


def test_only_codebooks_centres_rows_and_hashed_tables_move():
    """Codes, indexes, the codebooks' scale and the dense part are as before; all that may move has moved."""
    frames = {"first.codebook", "first.frame", "second.codebook", "second.frame"}
    for second in ("hashed", "rows", "kept"):
        student = make_student("levels", second)
        before = state_of(student)
        scale = float(student.first.frame[0])
        train(student, Script([0, 1, 2, 3, 4]))
        allowed = {
            "hashed": TRAINED,
            "rows": frames | {"second.level1_rows", "second.level1_scale"},
            "kept": {"first.codebook", "first.frame", "second.rows", "second.scale"},
        }[second]
        assert changed(student, before) == allowed
        assert float(student.first.frame[0]) == scale


def test_the_dense_part_moves_where_asked():
    """train_dense trains what requires a gradient, at its own rate."""
    student = make_student()
    student.last.requires_grad_(True)
    before = state_of(student)
    train(student, Script([0, 1, 2, 3, 4]), train_dense=True)
    assert changed(student, before) == TRAINED | {"last.weight", "last.bias"}
    moved = float((student.last.weight.detach() - before["last.weight"]).abs().max())
    assert 0 < moved <= 8 * 1e-4 * 1.01


def test_a_dense_part_that_requires_gradients_stays_unless_asked():
    """A model that comes unfrozen is not trained by accident, and no gradient is left on it."""
    student = make_student()
    student.last.requires_grad_(True)
    before = state_of(student)
    train(student, Script([0, 1, 2, 3, 4]))
    assert changed(student, before) == TRAINED
    assert student.last.weight.grad is None


@pytest.mark.parametrize(("first", "second"), [("levels", "hashed"), ("codes", "rows"), ("mean", "fp32 hashed")])
def test_distillation_brings_the_student_nearer(first, second):
    """Towards the original's own probabilities, the loss on other samples falls by much of its excess."""
    student = make_student(first, second)
    score = divergence_score(student)
    ids = torch.cat(make_batches(8, seed=99))
    targets = torch.sigmoid(make_original(student)(ids))
    entropy = float(functional.binary_cross_entropy(targets, targets))
    told = train(student, score, epochs=4, batches=24)
    excess = [-value - entropy for _, value in told.history]
    assert told.gain > 0
    assert -score(student).score - entropy == pytest.approx(min(excess), abs=1e-7)
    assert min(excess) < 0.5 * excess[0]


def test_training_is_deterministic():
    """The same lessons from the same state give the same bits."""
    one, two = make_student(), make_student()
    told = [train(student, divergence_score(student), epochs=2) for student in (one, two)]
    assert told[0] == told[1]
    assert told[0].best_step > 0
    assert not changed(one, state_of(two))


def test_training_ends_after_its_steps():
    """Lessons that go on are left; each step is reported, and the last one is scored."""
    student, steps = make_student(), []
    lessons = make_lessons(make_original(student), make_batches(50))
    plan = TrainingPlan(epochs=3, steps_per_epoch=5)
    told = fine_tune(
        student,
        lambda _epoch: iter(lessons),
        plan,
        hold_out=Script(range(9)),
        progress=lambda stage, done, total: steps.append((stage, done, total)),
    )
    assert steps == [("fine-tune", step, 15) for step in range(1, 16)]
    assert told.steps == 15
    assert [step for step, _ in told.history] == [0, 2, 4, 6, 8, 10, 12, 14, 15]


def test_lessons_that_end_early_are_no_failure():
    """Fewer batches than announced: what was scored counts."""
    student = make_student()
    lessons = make_lessons(make_original(student), make_batches(3))
    plan = TrainingPlan(epochs=1, steps_per_epoch=8)
    script = Script([0, 1])
    told = fine_tune(student, lambda _epoch: lessons, plan, hold_out=script, progress=lambda *_: None)
    assert (told.steps, told.best_step) == (3, 2)
    assert not changed(student, script.states[1])


def test_epochs_are_asked_for_by_number():
    """Each epoch may come in its own order."""
    asked, student = [], make_student()
    lessons = make_lessons(make_original(student), make_batches(2))

    def deal(epoch):
        asked.append(epoch)
        return lessons

    plan = TrainingPlan(epochs=3, steps_per_epoch=2)
    fine_tune(student, deal, plan, hold_out=divergence_score(student), progress=lambda *_: None)
    assert asked == [0, 1, 2]


def test_decoders_are_gone_after_training_and_after_a_failure():
    """The model answers from its stored integers again."""
    student = make_student()
    train(student, divergence_score(student))
    assert student.first.decoder is None
    assert student.second.decoder is None
    twin = copy.deepcopy(student)

    def fail(_epoch):
        raise KeyError("no more batches")

    with pytest.raises(KeyError):
        fine_tune(student, fail, TrainingPlan(1, 4), hold_out=divergence_score(student), progress=lambda *_: None)
    assert student.first.decoder is None
    ids = make_batches(1)[0]
    assert torch.equal(student(ids), twin(ids))


def test_nothing_to_train_is_step_zero(monkeypatch):
    """Kept tables of too many rows alone: no lesson is asked for."""
    monkeypatch.setattr(trainable, "MOST_TRAINED", ROWS * DIM - 1)
    student = make_student("kept", "kept")
    before = state_of(student)

    def refuse(_epoch):
        raise AssertionError

    plan = TrainingPlan(1, 4)
    told = fine_tune(student, refuse, plan, hold_out=lambda _: HoldOutScore("auc", 0.7), progress=lambda *_: None)
    assert told == FineTuning("auc", ((0, 0.7),), 0, 0)
    assert not changed(student, before)


def test_the_gain_is_over_step_zero():
    """Of the best score, or nothing where no later one was better."""
    assert FineTuning("auc", ((0, 0.5), (1, 0.75), (2, 0.6)), 1, 2).gain == 0.25
    assert FineTuning("auc", ((0, 0.5), (1, 0.4)), 0, 1).gain == 0


def test_training_ends_when_nothing_gets_better():
    """An epoch of checks without a new best is the end, and the best state is kept."""
    student, script = make_student(), Script([0, 1, 3, 2, 2, 2, 2, 9])
    told = train(student, script, epochs=3)
    assert [score for _, score in told.history] == [0, 1, 3, 2, 2, 2, 2]
    assert (told.best_step, told.steps, told.planned_steps) == (4, 12, 24)
    assert not changed(student, script.states[2])


def test_the_state_that_came_in_is_told():
    """Whoever wants the model from before the training can have it."""
    student = make_student()
    before = state_of(student)
    told = train(student, Script([0, 1, 2, 3, 4]))
    assert told.start.keys() == before.keys()
    assert all(torch.equal(told.start[name], before[name]) for name in before)
    assert changed(student, before)


def test_rows_train_through_the_same_loop():
    """Plain tables learn labels, no slower than codes; what made their gradients sparse is undone."""
    student = make_original(make_student())
    before = state_of(student)
    batches = make_batches(8)
    lessons = [Lesson(lambda model, ids=ids: model(ids), (ids.sum(dim=1) % 2).float()) for ids in batches]
    ids = torch.cat(batches)
    targets = (ids.sum(dim=1) % 2).float()

    def score(model):
        with torch.no_grad():
            return HoldOutScore("-loss", -float(functional.binary_cross_entropy_with_logits(model(ids), targets)))

    plan = TrainingPlan(epochs=4, steps_per_epoch=8, codebook_rate=0.1)
    told = fine_tune(
        student, lambda _epoch: lessons, plan, hold_out=score, progress=lambda *_: None, open_model=open_rows
    )
    assert told.gain > 0.01
    assert changed(student, before) == {"first.weight", "second.weight"}
    assert not student.first.sparse
    assert not student.first.weight.requires_grad
    assert score(student).score == max(value for _, value in told.history)


@pytest.mark.parametrize("train_dense", [False, True])
def test_parts_of_a_lesson_are_learnt_as_the_lesson_is(train_dense):
    """Up to rounding; to the bit with any number of threads. Rows of plain tables, whose gradients are sparse, too."""

    def split(lesson, batch):
        halves = zip(batch.chunk(2), lesson.targets.chunk(2), strict=True)
        return replace(lesson, parts=tuple(Lesson(lambda m, ids=ids: m(ids), part) for ids, part in halves))

    for opened in (trainable.open_codes, open_rows):
        states = []
        for workers in (0, 1, 2):
            student = make_student("rows") if opened is not open_rows else make_original(make_student())
            student.last.requires_grad_(train_dense)
            batches = make_batches(6)
            lessons = make_lessons(make_original(make_student()), batches)
            if workers:
                lessons = [split(lesson, batch) for lesson, batch in zip(lessons, batches, strict=True)]
            plan = TrainingPlan(1, 6, train_dense=train_dense, workers=max(workers, 1))
            script = Script(range(9))
            fine_tune(
                student,
                lambda _, lessons=lessons: lessons,
                plan,
                hold_out=script,
                progress=lambda *_: None,
                open_model=opened,
            )
            states.append(torch.cat([tensor.to(torch.float64).flatten() for tensor in state_of(student).values()]))
        assert torch.equal(states[1], states[2])
        torch.testing.assert_close(states[0], states[1], rtol=1e-4, atol=1.0 if opened is not open_rows else 1e-5)


def test_rows_that_no_batch_has_stay():
    """A step moves the rows of its batch and no others."""
    student = make_original(make_student())
    before = state_of(student)
    ids = torch.tensor([[3, 5], [7, 5]])
    lesson = Lesson(lambda model: model(ids), torch.tensor([1.0, 1.0]))
    script = Script([0, 1])
    fine_tune(
        student,
        lambda _epoch: [lesson],
        TrainingPlan(1, 1),
        hold_out=script,
        progress=lambda *_: None,
        open_model=open_rows,
    )
    moved = (student.first.weight != before["first.weight"]).any(dim=1).nonzero().flatten()
    assert moved.tolist() == [3, 7]


def test_mapped_rows_of_the_original_move_together():
    """With a map a row that no batch has moves too; the table's module then holds the rows as the map leaves them."""
    student = make_original(make_student())
    before = state_of(student)
    ids = torch.tensor([[3, 5], [7, 5]])
    lesson = Lesson(lambda model: model(ids), torch.tensor([1.0, 1.0]))
    seen = []

    def score(model):
        with torch.no_grad():
            seen.append(model(ids))
        return HoldOutScore("script", float(len(seen)))

    told = fine_tune(
        student,
        lambda _epoch: [lesson] * 3,
        TrainingPlan(1, 3),
        hold_out=score,
        progress=lambda *_: None,
        open_model=partial(open_rows, mapped=["first"]),
    )
    assert told.best_step == 3
    moved = [
        (table.weight != before[f"{name}.weight"]).any(dim=1).float().mean()
        for name, table in (("first", student.first), ("second", student.second))
    ]
    assert moved[0] > 0.9
    assert moved[1] == 1 / ROWS
    assert "forward" not in student.first.__dict__
    assert not student.first.weight.requires_grad
    assert torch.allclose(student(ids), seen[-1], atol=1e-5)


@pytest.mark.parametrize(("mode", "weighted"), [("sum", False), ("sum", True), ("mean", False)])
def test_bags_of_mapped_rows_pool_as_the_module_does(mode, weighted):
    """Bags of any size, by offsets or in rows, and single rows."""
    bag, single = nn.EmbeddingBag(ROWS, DIM, mode=mode), nn.Embedding(ROWS, DIM)
    ids, offsets = torch.tensor([5, 1, 1, 7, 90, 3]), torch.tensor([0, 3, 3, 4])
    weights = torch.linspace(0.5, 2, 6) if weighted else None
    square = ids.view(3, 2), None, weights if weights is None else weights.view(3, 2)
    ways = (bag, (ids, offsets, weights)), (bag, square), (single, (ids.view(2, 3),))
    wanted = [module(*arguments) for module, arguments in ways]
    model = nn.ModuleDict({"bag": bag, "single": single})
    with open_rows(model, mapped=["bag", "single", "elsewhere"]) as trainee:
        assert len(trainee.mapped) == 2
        assert not trainee.tables
        for (module, arguments), want in zip(ways, wanted, strict=True):
            assert torch.allclose(module(*arguments), want, atol=1e-5)


def test_tables_that_pool_otherwise_get_no_map():
    """Padding, norms, the maximum and few rows: these tables train by their rows alone."""
    model = nn.ModuleList(
        [
            nn.EmbeddingBag(ROWS, DIM, mode="sum", padding_idx=0),
            nn.EmbeddingBag(ROWS, DIM, mode="max"),
            nn.EmbeddingBag(ROWS, DIM, mode="sum", max_norm=1.0),
            nn.EmbeddingBag(4 * DIM - 1, DIM, mode="sum"),
            nn.EmbeddingBag(ROWS, DIM, mode="sum", include_last_offset=True),
            nn.Embedding(ROWS, DIM, padding_idx=1),
        ]
    )
    with open_rows(model, mapped=[str(number) for number in range(6)]) as trainee:
        assert not trainee.mapped
        assert len(trainee.tables) == 6


def test_a_forward_of_the_callers_own_stays():
    """A module whose forward was replaced before gets no map, and keeps what was put there."""
    model = nn.ModuleDict({"bag": nn.EmbeddingBag(ROWS, DIM, mode="sum")})

    def forward(*_):
        return torch.zeros(1)

    model["bag"].forward = forward
    with open_rows(model, mapped=["bag"]) as trainee:
        assert not trainee.mapped
    assert model["bag"].forward is forward
