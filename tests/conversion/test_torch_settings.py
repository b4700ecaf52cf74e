"""What a program has set for torch does not change what the verbs on files do, and is set afterwards as before."""

from contextlib import ExitStack, contextmanager
from dataclasses import replace

import pytest
import torch

from memrec_convert import convert, evaluate, load, plan, verify


@contextmanager
def default_dtype(dtype):
    """As a program that computes in double has it."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        assert torch.get_default_dtype() == dtype
        torch.set_default_dtype(before)


@pytest.mark.parametrize(
    "settings",
    [
        [lambda: default_dtype(torch.float64)],
        [lambda: default_dtype(torch.bfloat16)],
        [lambda: torch.device("meta")],
        [torch.inference_mode],
        [torch.no_grad, lambda: torch.autocast("cpu", dtype=torch.bfloat16)],
    ],
    ids=["double", "bf16", "meta", "inference", "no gradients"],
)
def test_settings_of_torch_do_not_matter(tiny, tmp_path, settings):
    """Artifacts, plans and figures are the same; so is the loaded model."""
    choices = {"data": tiny.train, "val": tiny.val, "epochs": 1, "threads": 1}

    def run(folder):
        folder.mkdir()
        found = plan(tiny.checkpoint, "20kB", data=tiny.train, threads=1)
        report = convert(tiny.checkpoint, "20kB", out=folder / "small", eval=tiny.test, **choices)
        sound = verify(folder / "small", against=tiny.checkpoint)
        model, auc = load(folder / "small"), evaluate(folder / "small", tiny.test).auc
        kinds = {(one.dtype, one.device.type) for one in model.parameters()}
        return (
            replace(found, seconds={}).to_json(),
            report.auc.after,
            sound.against,
            auc,
            kinds,
            (folder / "small").read_bytes(),
        )

    expected = run(tmp_path / "plain")
    with ExitStack() as stack:
        for one in settings:
            stack.enter_context(one())
        assert run(tmp_path / "set") == expected
