"""The choices: defined once, typed for editors, and each decided as to what it leaves valid."""

from __future__ import annotations

import subprocess
import sys
from typing import get_type_hints

import click
import pytest
from docs_pages import ROOT
from pydantic import ValidationError

from memrec_convert import choices
from memrec_convert.checkpoint import READINGS
from memrec_convert.checkpoint.facts import Facts
from memrec_convert.cli.commands import cli
from memrec_convert.conversion.options import (
    LATER,
    OptionChoices,
    Options,
    OutputChoices,
    ReadingChoices,
    make_options,
    names_of,
)
from memrec_convert.errors import CheckpointError, OptionError
from memrec_convert.recipe import Recipe

FIT = {"threshold", "method", "weights", "tables_only", "allow_nonfinite", "pooled", "batch_size", "seed"}

SCRIPT = """
from memrec_convert import compare, compress, convert, evaluate, plan

report = convert("dlrm.pt", "48MB", data="train.parquet", val="val.parquet", epochs=2, method="codes", force=True)
print(report.sizes.ratio, report.auc and report.auc.delta)
print(plan("dlrm.pt", "48MB", curve=True, assume={"pairs": "upper"}).predicted_bytes)
print(evaluate("small.safetensors", "test.parquet", columns={"label": "click"}).auc)
print(compare("dlrm.pt", ["33x", "100x"], eval="test.parquet", only=["int8"]).to_json()["budgets"])
"""

WRONG = {
    'epoch=1, data="train.parquet"': 'Unexpected keyword argument "epoch"',
    'method="magic"': "incompatible type \"Literal['magic']\"",
    'epochs="two"': 'Argument "epochs" to "convert" has incompatible type "str"',
    "budgets=3": 'Unexpected keyword argument "budgets"',
}


@pytest.fixture(scope="module")
def check_types(tmp_path_factory):
    """A function that gives what `mypy --strict` says of a user's script."""
    pytest.importorskip("mypy")
    script = tmp_path_factory.mktemp("typed") / "script.py"

    def check(text):
        script.write_text(text)
        command = [sys.executable, "-m", "mypy", "--strict", str(script)]  # here, where `make lint` left what it knows
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False).stdout

    return check


def test_the_package_says_that_it_is_typed():
    """Without its marker, mypy would take nothing from the package where it is installed."""
    assert (ROOT / "memrec_convert" / "py.typed").is_file()


def test_a_script_without_mistakes_passes_mypy(check_types):
    """The verbs, their choices and their results are typed for those who use them."""
    assert check_types(SCRIPT).startswith("Success")


def test_mypy_reports_misspelt_and_wrong_choices(check_types):
    """Each mistake is found, and nothing else is."""
    calls = "\n".join(f'convert("dlrm.pt", "48MB", {mistake})' for mistake in WRONG)
    said = check_types(f"from memrec_convert import convert\n\n{calls}\n")
    errors = [line for line in said.splitlines() if ": error: " in line]
    assert len(errors) == len(WRONG)
    assert all(expected in line for expected, line in zip(WRONG.values(), errors, strict=True)), said


def test_the_typed_keywords_are_the_fields_of_options():
    """Names and types stand in the model and in the keywords alike."""
    hints = get_type_hints(OptionChoices)
    assert hints == {name: field.annotation for name, field in Options.model_fields.items()}
    assert names_of(OptionChoices) | names_of(ReadingChoices) < names_of(OutputChoices)


def test_every_option_is_decided_as_to_kept_fits():
    """A new option must say whether fits and codes depend on it."""
    assert set(Options.model_fields) == LATER | FIT
    assert not LATER & FIT
    changed = Options(epochs=3, dense="bf16", threads=2)
    assert changed.fit_facts() == Options().fit_facts() != Options(seed=1).fit_facts()
    assert set(changed.fit_facts()) == FIT


@pytest.mark.parametrize(
    ("option", "choice"),
    [
        ("method", choices.Method),
        ("weights", choices.Weights),
        ("targets", choices.Targets),
        ("dense", choices.DensePrecision),
        ("oov", choices.Oov),
    ],
)
def test_the_command_line_offers_the_values_of_the_choice(option, choice):
    """Every command that has the option has these values, and `Options` takes each of them."""
    kinds = [p.type for command in cli.commands.values() for p in command.params if p.name == option]
    assert kinds
    assert all(isinstance(kind, click.Choice) and tuple(kind.choices) == choices.values_of(choice) for kind in kinds)
    for value in choices.values_of(choice):
        assert getattr(make_options({option: value}), option) == value
    with pytest.raises(OptionError, match=f"{option} is 'none'; expected {choices.values_of(choice)[0]}, |or"):
        make_options({option: "none"})


def test_facts_take_the_values_of_their_choices():
    """Each value of each fact is taken, another is refused; a recipe has a key for each fact."""
    assert set(READINGS) <= set(Recipe.model_fields)
    kinds = (choices.Pairs, choices.DenseTransform, choices.QrOperation, choices.Interaction, choices.Pooling)
    names = ("pairs", "dense_transform", "qr_operation", "interaction", "pooling")
    for name, choice in zip(names, kinds, strict=True):
        assert [getattr(Facts(**{name: value}), name) for value in choices.values_of(choice)]
        with pytest.raises(CheckpointError, match="is not one of"):
            Facts(**{name: "none"})


def test_options_are_strict_and_frozen():
    """Nothing is coerced, and nobody changes them under way."""
    with pytest.raises(ValidationError):
        Options(epochs="3")
    with pytest.raises(ValidationError):
        Options().epochs = 3
    assert Options().change(epochs=3).differing() == {"epochs": 3}
    assert Options(threads=3).differing() == {}


def test_a_wrong_option_is_one_sentence():
    """It names the option, what was found and what was expected."""
    for value, said in (
        ({"epochs": -1}, "epochs is -1; expected a whole number from 0 to 1000."),
        ({"seed": True}, "seed is True; expected a whole number from 0 to 2147483647."),
        ({"train_dense": 1}, "train_dense is 1; expected true or false."),
        ({"threshold": "tall"}, "threshold is 'tall'; expected 0, a size such as 100kB, or rows such as 10000rows."),
        ({"dense": "fp16"}, "dense is 'fp16'; expected fp32, bf16, int8 or auto."),
    ):
        with pytest.raises(OptionError) as caught:
            make_options(value)
        assert str(caught.value) == said
