"""Mutated files of every form: refused in our own words or read, never run, never misread past a checksum."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import fuzz
from fuzz_forms import Form, make_forms

NAMES = (
    "pickle of a state dict in a zip",
    "pickle of a whole module in a zip",
    "zip .pt",
    "legacy .pt",
    "safetensors",
    "safetensors header",
    "safetensors index",
    "npz",
    ".metadata of a distributed checkpoint",
    "__0_0.distcp of a distributed checkpoint",
    ".snapshot_metadata of a snapshot",
    "metadata.pt of a NVIDIA directory",
    "embeddings.0.meta.pt of a NVIDIA directory",
    "top_model.mlp.pt of a NVIDIA directory",
    "names and shapes",
    "artifact",
    "artifact's metadata, forged to fit",
)
EDITS = st.lists(st.tuples(*[st.integers(0, 2**16 - 1)] * 4), min_size=1, max_size=5)


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Form]]:
    """The forms by name, their seeds made now; random numbers and threads are as before afterwards."""
    with torch.random.fork_rng():
        yield {form.name: form for form in make_forms(tmp_path_factory.mktemp("seeds"))}


@pytest.fixture(scope="module")
def digests(forms: dict[str, Form], tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[object]]:
    """What each form's unharmed seeds read as; imports all that reading needs on the way."""
    found = {name: fuzz.read_seeds(form, tmp_path_factory.mktemp("warm") / "case") for name, form in forms.items()}
    fuzz.warm_up()
    return found


def test_every_form_is_mutated(forms: dict[str, Form]) -> None:
    """No form that the long run mutates is left out here."""
    assert tuple(forms) == NAMES


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=EDITS, chosen=st.integers(0, 99))
def test_a_mutated_file_is_refused_or_read(
    forms: dict[str, Form],
    digests: dict[str, set[object]],
    tmp_path: Path,
    name: str,
    edits: list[tuple[int, int, int, int]],
    chosen: int,
) -> None:
    """Whatever is changed, the end is one of our own sentences, or numbers; where there are checksums, the same."""
    form = forms[name]
    everything = tuple(own for other in forms.values() for own in other.seeds)
    content = fuzz.apply(form.seeds[chosen % len(form.seeds)], edits, everything)
    outcome, found = fuzz.try_one(form, tmp_path / "case", content)
    assert outcome in ("read", "refused"), (found, fuzz.seen)
    assert outcome == "refused" or not form.checked or found in digests[name]


def test_the_watch_sees_an_execution(forms: dict[str, Form], digests: dict[str, set[object]], tmp_path: Path) -> None:
    """The proof can fail: a reader that unpickles or evaluates is caught, and so is one that raises its own."""

    def evaluate(_: Path) -> str:
        return str(eval("1 + 1"))

    def fail(path: Path) -> str:
        return (path / "none").read_text()

    good = forms["zip .pt"]
    for read, expected in ((evaluate, "executed"), (fail, "foreign")):
        form = Form("bad", good.seeds, good.build, read)
        assert fuzz.try_one(form, tmp_path / "case", good.seeds[0])[0] == expected
