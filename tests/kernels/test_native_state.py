"""The kernel's view of a table is never out of date, and threads, forks and copies change no bit."""

from __future__ import annotations

import copy
import gc
import io
import os
import pickle
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from native_tables import KINDS, draw_ids, make_bag, make_embedding, make_kept, same_bits, through_kernel
from random_tables import BASES
from torch import Tensor

from memrec_convert.encoding import LevelSpec, TableSpec
from memrec_convert.encoding.build import build_replaced
from memrec_convert.encoding.index import IndexSpec
from memrec_convert.lookup import CompressedEmbeddingBag
from memrec_convert.lookup.kernel_tables import KernelTables

pytestmark = pytest.mark.usefixtures("native")


def check_rows(module: CompressedEmbeddingBag) -> None:
    """What a call gives is what the reference gives for the buffers as they are now."""
    ids = torch.arange(module.spec.rows)
    assert same_bits(module(ids.view(-1, 1)), module.lookup(ids))


def double_state(module: CompressedEmbeddingBag) -> dict[str, torch.Tensor]:
    """The module's state with the frame doubled."""
    return {name: tensor * 2 if name == "frame" else tensor.clone() for name, tensor in module.state_dict().items()}


def swap_group(module: CompressedEmbeddingBag) -> None:
    """Another group of the same spec, which saw fewer replacements than the present one."""
    group = copy.deepcopy(module.group)
    group.get_buffer("tokens").neg_()
    module.group.tokens = module.group.tokens.clone()
    module.group.tokens = module.group.tokens.clone()
    check_rows(module)
    module.group = group


CHANGES: dict[str, Callable[[CompressedEmbeddingBag], object]] = {
    "replace": lambda module: setattr(module, "frame", module.frame * 2),
    "in place": lambda module: module.frame.mul_(2),
    "register": lambda module: module.register_buffer("frame", module.frame * 2),
    "dict": lambda module: module._buffers.__setitem__("frame", module.frame * 2),
    "delete": lambda module: (delattr(module, "frame"), module.register_buffer("frame", torch.ones(33))),
    "load": lambda module: module.load_state_dict(double_state(module)),
    "assign": lambda module: module.load_state_dict(double_state(module), assign=True),
    "half": lambda module: module.half(),
    "share": lambda module: module.share_memory(),
    "apply": lambda module: module._apply(lambda tensor: tensor.clone()),
    "fill": lambda module: module.fill({"frame": module.frame * 2}),
    "group": lambda module: swap_group(module),
    "group buffer": lambda module: setattr(module.group, "tokens", module.group.tokens.neg()),
    "group in place": lambda module: module.group.tokens.neg_(),
}


def test_a_loaded_index_is_looked_through_at_once() -> None:
    """State loaded into a module that has been used brings its own index along."""
    spec = TableSpec(3000, 4, "replaced", levels=(LevelSpec("rows", IndexSpec("keys", 3000, 50, 8), codec="fp32"),))
    modules = []
    for start in (0, 1000):
        levels = np.full(3000, -1, dtype=np.int8)
        levels[start : start + 50] = 0
        module = CompressedEmbeddingBag(spec)
        module.fill(
            build_replaced(
                spec,
                centre=torch.zeros(4),
                scale=0.01,
                codebook=None,
                codes=np.zeros((3000, 0)),
                levels=levels,
                read_rows=lambda ids: torch.ones(len(ids), 4),
            )
        )
        check_rows(module)
        modules.append(module)
    modules[0].load_state_dict(modules[1].state_dict())
    check_rows(modules[0])
    assert modules[0](torch.tensor([[10], [1010]]))[:, 0].tolist() == [0.0, 1.0]


@pytest.mark.parametrize("change", CHANGES)
def test_changes_of_buffers_are_seen(change: str) -> None:
    """However a buffer comes to hold other numbers, the next lookup reads those."""
    module = make_bag(1, base="hashed")
    ids = torch.arange(module.spec.rows).view(-1, 1)
    before = module(ids)
    check_rows(module)
    CHANGES[change](module)
    gc.collect()
    check_rows(module)
    assert same_bits(before, module(ids)) == (change in ("share", "apply"))


def test_functional_calls_read_the_buffers_that_they_are_given() -> None:
    """torch.func.functional_call swaps buffers for one call, and the module goes on with its own."""
    module, other = make_bag(2), make_bag(2)
    other.frame = other.frame * 3
    ids = torch.arange(module.spec.rows)
    before = module(ids.view(-1, 1))
    found = torch.func.functional_call(module, {"frame": module.frame * 3}, (ids.view(-1, 1),))
    assert same_bits(found, other.lookup(ids))
    assert same_bits(module(ids.view(-1, 1)), before)


def test_changes_of_rules_are_seen() -> None:
    """What happens to ids outside, the padding and the pooling are those of the moment."""
    module = make_bag(3)
    ids = torch.tensor([[0, 1], [10**6, 2]])
    with pytest.raises(IndexError):
        module(ids)
    module.oov = "zero"
    assert same_bits(module(ids)[1], module.lookup(torch.tensor([2]))[0])
    module.mode = "mean"
    assert same_bits(module(ids)[0], module.lookup(torch.tensor([0, 1])).sum(0) / 2)
    module.padding_idx = 1
    assert same_bits(module(ids)[0], module.lookup(torch.tensor([0]))[0])
    module.decoder = lambda ids: torch.ones(len(ids), 32)
    assert not through_kernel(module)
    assert bool(module(ids)[0].eq(1).all())
    module.decoder = None
    assert through_kernel(module)


def store_and_load(module: CompressedEmbeddingBag) -> CompressedEmbeddingBag:
    """Through torch.save."""
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, copy.copy, lambda module: pickle.loads(pickle.dumps(module)), store_and_load],
    ids=["deepcopy", "copy", "pickle", "torch.save"],
)
@pytest.mark.parametrize("used", [True, False])
def test_copies_run_in_the_kernel_on_their_own_tensors(duplicate: Callable, used: bool) -> None:
    """A copy of a module gives the same rows, in the kernel, and goes on when the original is gone."""
    module = make_bag(4, base="weighted")
    ids = torch.arange(module.spec.rows).view(-1, 1)
    expected = module.lookup(ids.flatten())
    if used:
        module(ids)
    twin = duplicate(module)
    for buffer in module.buffers() if duplicate is not copy.copy else []:
        buffer.zero_()
    del module
    gc.collect()
    assert through_kernel(twin)
    assert same_bits(twin(ids), expected)


def test_memory_is_held_for_as_long_as_addresses_of_it() -> None:
    """A view of tables goes on when modules and tensors are gone, and when a buffer's storage was exchanged."""
    module = make_kept(1, "fp32", 64)
    ids = draw_ids(300, 200).view(-1, 1)
    expected = module(ids)
    view = KernelTables([module], [0])
    module.rows.data = torch.zeros(1)
    del module
    gc.collect()
    torch.full((300, 64), 5.0)
    assert same_bits(view.look_up_grid(ids), expected)


@pytest.mark.parametrize("samples", [20, 2000])
def test_outputs_in_use_are_nobody_elses(samples: int) -> None:
    """Outputs, whose memory is used again, keep their numbers for as long as anything that shares it lives."""
    module = make_kept(2, "fp32", 256)
    ids = [draw_ids(300, samples, seed).view(-1, 1) for seed in range(8)]
    expected = [module.lookup(one.flatten()) for one in ids]
    factor = torch.ones(256, requires_grad=True)
    views: list[object] = []
    for one, take in zip(
        ids,
        (
            lambda held: held[5:],
            lambda held: held.t(),
            lambda held: held.numpy(),
            lambda held: held.view(-1)[-256:],
            lambda held: held.detach(),
            lambda held: held.unbind(0)[7],
            lambda held: np.from_dlpack(held),
            lambda held: (held * factor).sum(),
        ),
        strict=True,
    ):
        views.append(take(module(one)))
        for seed in range(5):
            module(draw_ids(300, samples, 100 + seed).view(-1, 1))
    loss = views.pop()
    assert isinstance(loss, Tensor)
    loss.backward()
    assert factor.grad is not None
    assert torch.allclose(factor.grad, expected[7].sum(0), rtol=1e-4, atol=1e-4)
    e = expected
    wanted = [e[0][5:], e[1].t(), e[2], e[3].view(-1)[-256:], e[4], e[5][7], e[6]]
    assert all(np.array_equal(view, one) for view, one in zip(views, wanted, strict=True))


def make_several() -> KernelTables:
    """Five tables, one of each base."""
    dims = (16, 64, 7, 128, 33)
    return KernelTables([make_bag(n, base=BASES[n], kinds=KINDS[n], dim=dims[n]) for n in range(5)], range(5))


@pytest.mark.usefixtures("threads")
def test_any_number_of_threads_gives_the_same_bits() -> None:
    """One, two, four and many threads, over grids and bags."""
    tables = make_several()
    ids = draw_ids(20, 5 * 4100).view(-1, 5)
    starts = torch.arange(0, 4100, 2)
    bags = [(ids[:, n], starts, torch.randn(4100)) for n in range(5)]
    torch.set_num_threads(1)
    grid, pooled = tables.look_up_grid(ids), tables.look_up_bags(bags, len(starts))
    for count in (2, 4, 16, 1):
        torch.set_num_threads(count)
        for _ in range(5):
            assert same_bits(tables.look_up_grid(ids), grid)
            assert same_bits(tables.look_up_bags(bags, len(starts)), pooled)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("inside", [1, 2])
def test_calls_from_several_python_threads(inside: int) -> None:
    """Threads that use the same tables at once, with and without helpers of their own, get what one alone gets."""
    torch.set_num_threads(inside)
    tables, module = make_several(), make_bag(6, mode="mean")
    embedding = make_embedding(7, base="hashed")
    together = threading.Barrier(4)

    def work(number: int) -> bool:
        torch.set_num_threads(inside)
        ids = draw_ids(20, 5 * 2500, number).view(-1, 5)
        alone = tables.look_up_grid(ids), module(ids), embedding(ids)
        together.wait()
        for _ in range(25):
            beside = tables.look_up_grid(ids), module(ids), embedding(ids)
            if not all(same_bits(one, other) for one, other in zip(alone, beside, strict=True)):
                return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


def test_errors_in_one_thread_leave_the_others_alone() -> None:
    """Threads that ask for ids outside get their error while others get their rows."""
    module = make_bag(8)
    good, bad = draw_ids(20, 500).view(-1, 1), torch.full((500, 1), 10**6)
    expected = module(good)

    def work(number: int) -> bool:
        for _ in range(50):
            if number % 2:
                with pytest.raises(IndexError):
                    module(bad)
            elif not same_bits(module(good), expected):
                return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


def run_python(code: str) -> None:
    """Runs a script that has this folder's helpers, in a process of its own."""
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", "import named_kernel\n" + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "2", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert ran.returncode == 0, ran.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_has_helpers_of_its_own() -> None:
    """A child of a process that has helper threads looks up with helpers of its own, and so does its child."""
    run_python("""
        import os, signal, torch
        from native_tables import *
        signal.alarm(60)
        torch.set_num_threads(2)
        module = make_bag(1, dim=64)
        ids = draw_ids(20, 20000).view(-1, 1)
        expected = module(ids).numpy().tobytes()
        def look_up_in_child(depth):
            child = os.fork()
            if child == 0:
                signal.alarm(60)
                same = all(module(ids).numpy().tobytes() == expected for _ in range(20))
                if depth:
                    look_up_in_child(depth - 1)
                os._exit(0 if same else 1)
            assert os.waitpid(child, 0)[1] == 0
        look_up_in_child(1)
        look_up_in_child(0)
        assert module(ids).numpy().tobytes() == expected
    """)
