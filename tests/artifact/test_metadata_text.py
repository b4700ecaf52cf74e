"""The metadata's text is canonical, carries a digest of itself, and is believed in nothing."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memrec_convert.artifact.metadata import (
    MEASURED_NAMES,
    NOT_MEASURED,
    Metadata,
    digest_tensor,
    format_measured,
    parse_metadata,
)
from memrec_convert.errors import ArtifactError

SIMPLE = Metadata(
    modules={"t": {"rows": 3, "name": "ä"}},
    architecture=None,
    dense="fp32",
    profile={"weights": "log", "samples": 7},
    plan={"budget": "48MB", "share": 0.1},
    seed=3,
    aliases={"b": "a"},
    digests={"a": "0" * 32},
)


def forge(**changes: Any) -> str:
    """A text with these fields in place of its own, with a digest that fits; None leaves a field out."""
    plain = json.loads(SIMPLE.to_text()) | {"self": "0" * 32} | changes
    plain = {name: value for name, value in plain.items() if value is not ...}
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    digest = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    return text.replace('"self":"' + "0" * 32, '"self":"' + digest)


def test_text_comes_back() -> None:
    """Metadata read from its text is the same metadata, and gives the same text."""
    assert parse_metadata(SIMPLE.to_text(), "x") == SIMPLE
    assert forge() == SIMPLE.to_text()


def test_the_digest_is_that_of_the_text_with_a_blank() -> None:
    """Anybody can check the text: BLAKE2b-128 of it with 32 zeros in the digest's place."""
    text = SIMPLE.to_text()
    digest = json.loads(text)["self"]
    blank = text.replace(digest, "0" * 32)
    assert hashlib.blake2b(blank.encode(), digest_size=16).hexdigest() == digest
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_any_other_character_is_noticed(data: st.DataObject) -> None:
    """A text with one character changed, left out or put in is refused."""
    text = SIMPLE.to_text()
    for _ in range(20):
        place = data.draw(st.integers(0, len(text) - 1))
        new = data.draw(st.characters(codec="utf-8"))
        kept = data.draw(st.integers(0, 1))
        wrong = text[:place] + data.draw(st.sampled_from([new, ""])) + text[place + kept :]
        if wrong != text:
            with pytest.raises(ArtifactError):
                parse_metadata(wrong, "x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "without memrec_convert metadata: not an artifact of this tool"),
        ("", "damaged"),
        ("{", "damaged"),
        ("[1]", "damaged"),
        ("7", "damaged"),
        ("{}", "damaged"),
        ("[" * 100_000, "damaged"),
        ('{"format":' + "9" * 5000 + "}", "damaged"),
        (forge(format=3), "format version 3; this release reads up to 2: install a newer"),
        (forge(format=3, requires=["fine"]), "format version 3; this release reads up to 2: install a newer"),
        (forge(format=0), "format version 0"),
        (forge(format="1"), "format version '1'"),
        (forge(format=True), "format version True"),
        (forge(format=1.0), "format version 1.0"),
        (forge(seed=...), "fields 'seed' missing or unknown"),
        (forge(colour=1), "fields 'colour' missing or unknown"),
        (forge(requires=[]), "fields 'requires' missing or unknown"),
        (forge(self="f" * 32), "does not match its own digest"),
        (forge(self=...), "does not match its own digest"),
        (SIMPLE.to_text() + " ", "does not match its own digest"),
        (SIMPLE.to_text().replace("0.1", "NaN"), "does not match its own digest"),
    ],
)
def test_foreign_damaged_and_newer_texts_are_refused(text: str | None, message: str) -> None:
    """Each names the file and what is the matter, in one sentence."""
    with pytest.raises(ArtifactError, match=message) as caught:
        parse_metadata(text, "some/file.safetensors")
    assert "some/file.safetensors" in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"modules": []},
        {"modules": {"t": 3}},
        {"architecture": "dlrm"},
        {"architecture": []},
        {"dense": "fp64"},
        {"dense": None},
        {"profile": None},
        {"plan": 1},
        {"seed": "3"},
        {"seed": True},
        {"seed": None},
        {"aliases": {"a": ["b"]}},
        {"aliases": {"a": None}},
        {"measured": {"auc_after": 0.8}},
        {"digests": {"a": 3}},
        {"digests": []},
    ],
    ids=str,
)
def test_fields_of_wrong_kinds_are_refused(change: dict[str, Any]) -> None:
    """A field of another kind is refused even where the digest fits, by its name or its value."""
    with pytest.raises(ArtifactError, match=r"wrong kind|its dense part is in 'fp64'"):
        parse_metadata(forge(**change), "x")


def test_length_is_known_before_anything_is_measured() -> None:
    """Digests and measurements that come later do not change the length of the text."""
    tensors = {"a": torch.arange(3), "b": torch.zeros(2, 2)}
    blank = SIMPLE.with_blank_digests(list(tensors))
    later = replace(SIMPLE.with_digests(tensors), measured={name: format_measured(0.75) for name in MEASURED_NAMES})
    assert len(blank.to_text()) == len(later.to_text())
    assert blank.to_text() != later.to_text()


@settings(deadline=None, max_examples=30)
@given(st.one_of(st.none(), st.floats(0, 1), st.floats(0, 1e9), st.floats(-1e3, 0)))
def test_measurements_take_twelve_characters(value: float | None) -> None:
    """Any measurement is 12 characters and reads as the number to the digits that are there."""
    text = format_measured(value)
    assert len(text) == len(NOT_MEASURED) == 12
    if value is not None:
        assert float(text) == pytest.approx(value, abs=1e-9 if abs(value) < 1 else 1e-2)


def test_digests_tell_bytes_types_and_shapes_apart() -> None:
    """The digest is that of dtype, shape and bytes: equal bytes of another dtype or shape have another."""
    rows = torch.arange(6, dtype=torch.int8).reshape(2, 3)
    expected = hashlib.blake2b(b"torch.int8 [2, 3]\n" + bytes(range(6)), digest_size=16).hexdigest()
    assert digest_tensor(rows) == digest_tensor(rows.t().contiguous().t()) == expected
    others = [rows.reshape(3, 2), rows.view(torch.uint8), rows.reshape(6), rows + 1, torch.empty(0, 3)]
    assert len({expected, *map(digest_tensor, others), digest_tensor(torch.empty(0, 2))}) == 7
