"""Random models of every kind, compressed at a budget that holds everything: the same answers, or few refusals."""

from __future__ import annotations

import copy
import os
import re
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from random_models import DTYPES, MODELS, TOLERANCES, Drawn, ModelChoice, make_calls, wrap

from memrec_convert import compress, load, save
from memrec_convert.errors import MemrecError

EXAMPLES = int(os.environ.get("MEMREC_RANDOM_MODELS", "60"))
PAGE = Path(__file__).parents[2] / "docs" / "own-model.md"
REFUSALS = {
    "computed weight": r"computes its weight",
    "mode max": r"pools with max",
    "max_norm": r"would still shorten",
    "no copy": r"cannot be copied",
    "no table": r"has no nn\.EmbeddingBag",
}
seen: list[str] = []


def close(found: torch.Tensor, wanted: torch.Tensor, dtype: str) -> None:
    """Equal up to the rounding of the dtype."""
    assert found.dtype == wanted.dtype
    scale = max(1.0, float(wanted.detach().double().abs().max()))
    assert float((found.double() - wanted.double()).abs().max()) <= TOLERANCES[dtype] * scale


@settings(max_examples=EXAMPLES, deadline=None, derandomize=EXAMPLES < 100, suppress_health_check=list(HealthCheck))
@given(MODELS)
def check_model(tmp_path: Path, choice: ModelChoice) -> None:
    """One model: equal after compression, copied, and read from its file; or refused for a reason of the list."""
    torch.compiler.reset()
    model = wrap(Drawn(choice), choice.wrapper).train(choice.training)
    calls = [make_calls(choice, seed) for seed in (1, 2)]
    with torch.no_grad():
        wanted = [Drawn(choice).eval()(*one) for one in calls]
        try:
            small, _ = compress(model, 10_000_000)
        except MemrecError as error:
            reasons = [name for name, pattern in REFUSALS.items() if re.search(pattern, str(error))]
            if not reasons or choice.oddity == "none":
                raise
            seen.append(reasons[0])
            return
        for one, right in zip(calls, wanted, strict=True):
            close(small(*one), right, choice.dtype)
            close(copy.deepcopy(small)(*one), right, choice.dtype)
        save(small, tmp_path / "model.safetensors", force=True)
        again = load(tmp_path / "model.safetensors", into=Drawn(choice))
        close(again(*calls[0]), wanted[0], choice.dtype)
        assert again.head.weight.dtype == DTYPES[choice.dtype]
    seen.append("equal")


def test_random_models_answer_as_before(tmp_path: Path) -> None:
    """At least 85 of 100 models give equal answers; the others are refused for a reason that own-model.md lists."""
    seen.clear()
    check_model(tmp_path)
    assert seen.count("equal") >= 0.85 * len(seen)


@pytest.mark.parametrize("pattern", REFUSALS.values(), ids=REFUSALS)
def test_the_page_lists_every_refusal(pattern: str) -> None:
    """The closed list of own-model.md has the words of each reason."""
    assert re.search(pattern, PAGE.read_text())


def test_the_sentences_of_the_page_are_those_of_the_code() -> None:
    """Whoever searches the page for the words of an error finds them, for no error has other words."""
    table = PAGE.read_text().partition("| the sentence says |")[2].partition("\n\n")[0]
    cells = [line.split("|")[1] for line in table.splitlines()[2:]]
    sources = " ".join(path.read_text() for path in (PAGE.parents[1] / "memrec_convert").rglob("*.py"))
    joined = re.sub(r'"\s+f?"', "", sources)  # texts that are continued on the next line
    missing = [phrase for cell in cells for phrase in cell.strip().split(", ") if phrase not in joined]
    assert len(cells) > 15
    assert not missing
