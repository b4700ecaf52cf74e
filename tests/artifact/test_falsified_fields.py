"""An artifact with any of its fields falsified is refused in one sentence, by verify and load, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from small_models import falsify_text, join, save_dlrm, split

from memrec_convert import load, verify
from memrec_convert.artifact.layout import METADATA_KEY
from memrec_convert.artifact.reader import _check_length
from memrec_convert.errors import ArtifactError, MemrecError, ModelError

Place = tuple[Any, ...]
WRONG = (
    None,
    True,
    -1,
    0,
    1,
    7,
    2**31,
    2**63,
    10**30,
    0.5,
    "",
    "x",
    "F64",
    "../../etc/passwd",
    [],
    {},
    [[1]],
    {"a": 1},
)
FIELDS = (
    "aliases",
    "architecture",
    "dense",
    "digests",
    "format",
    "measured",
    "modules",
    "plan",
    "profile",
    "seed",
    "self",
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a small artifact with every form."""
    return save_dlrm(tmp_path_factory.mktemp("saved")).read_bytes()


def find_places(plain: Any, before: Place = ()) -> Iterator[Place]:
    """Every place in nested JSON, the branches too."""
    inner = plain.items() if isinstance(plain, dict) else enumerate(plain) if isinstance(plain, list) else ()
    for key, value in inner:
        yield (*before, key)
        yield from find_places(value, (*before, key))


def put(plain: Any, place: Place, value: Any) -> bool:
    """Puts a value in a place, or takes it away (...); whether that changed anything."""
    for key in place[:-1]:
        plain = plain[key]
    old = plain[place[-1]]
    if value is ...:
        del plain[place[-1]]
    else:
        plain[place[-1]] = value
    return value is ... or json.dumps(old) != json.dumps(value)


def refuse(path: Path) -> list[str]:
    """The sentences of verify and load; ... in the place of one that did not refuse."""
    said = []
    for act in (verify, load):
        try:
            act(path)
            said.append("")
        except (ArtifactError, ModelError) as error:
            said.append(str(error))
            assert said[-1].isprintable()
            assert len(said[-1]) < 2000
    return said


@pytest.mark.parametrize("field", FIELDS)
def test_each_field_of_the_metadata_is_guarded(tmp_path: Path, saved: bytes, field: str) -> None:
    """Each value in it, replaced or taken away, is noticed: the text carries a digest of itself."""
    path, unnoticed, tried = tmp_path / "x.safetensors", [], 0
    plain = json.loads(split(saved)[0]["__metadata__"][METADATA_KEY])
    for place in [place for place in find_places(plain) if place[0] == field]:
        for value in (..., WRONG[len(place) % 5], "x", 7):
            path.write_bytes(saved)
            changes: list[bool] = []
            falsify_text(path, lambda own, at=place, to=value, n=changes: n.append(put(own, at, to)), fitting=False)
            tried += 1
            if changes[0] and not all(refuse(path)):
                unnoticed.append((place, value))
    assert tried >= 4
    assert unnoticed == []


@pytest.mark.parametrize("field", [field for field in FIELDS if field != "self"])
def test_a_forger_who_mends_the_digest_gets_no_further(tmp_path: Path, saved: bytes, field: str) -> None:
    """Where a falsified text has a digest that fits, it is refused as well or read as it says, and never a crash.

    What a file says of its own making (plan, profile, measurements, names, seed) cannot be known better than it says.
    """
    path, tried, refused = tmp_path / "x.safetensors", 0, 0
    plain = json.loads(split(saved)[0]["__metadata__"][METADATA_KEY])
    places = [place for place in find_places(plain) if place[0] == field]
    for number, place in enumerate(places):
        for value in (..., *WRONG[number % 4 :: 4]):
            path.write_bytes(saved)
            falsify_text(path, lambda own, at=place, to=value: put(own, at, to))
            tried += 1
            refused += all(refuse(path))
    informative = field in ("measured", "plan", "profile", "seed")
    assert tried >= 5
    assert refused > tried * (0.1 if informative else 0.7)


@pytest.mark.parametrize(
    "forge", [lambda table: table.pop("mode"), lambda table: table.update(include_last_offset=True)]
)
def test_a_table_that_takes_ids_in_another_way_is_refused(
    tmp_path: Path, saved: bytes, forge: Callable[[dict[str, Any]], object]
) -> None:
    """A known network gives its tables ids and the starts of bags; a forged file cannot make it fail over that."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(saved)
    falsify_text(path, lambda own: forge(own["modules"]["tables.0"]))
    assert all("takes ids in another way" in said for said in refuse(path))


def test_each_field_of_the_header_is_guarded(tmp_path: Path, saved: bytes) -> None:
    """Types, shapes and places of tensors, their names, and names of more or fewer: each is noticed."""
    path, unnoticed, tried = tmp_path / "x.safetensors", [], 0
    header, body = split(saved)
    places = [place for place in find_places(header) if place[:2] != ("__metadata__", METADATA_KEY)]
    for number, place in enumerate(places):
        for value in (..., *WRONG[number % 4 :: 4]):
            changed = json.loads(json.dumps(header))
            if put(changed, place, value):
                path.write_bytes(join(changed, body))
                tried += 1
                if not all(refuse(path)):
                    unnoticed.append((place, value))
    names = [name for name in header if name != "__metadata__"]
    for first, second in pairwise(names):
        changed = dict(header)
        changed[first], changed[second] = changed[second], changed[first]
        path.write_bytes(join(changed, body))
        tried += 1
        if not refuse(path)[0]:  # load reads equal tensors in each other's place, which is no other model
            unnoticed.append(((first, second), "swapped"))
    assert tried > 500
    assert unnoticed == []


def test_a_header_of_a_hundred_megabytes_is_not_parsed(tmp_path: Path) -> None:
    """A header past the limit is refused by its length alone, before a parser sees it."""
    path = tmp_path / "x.safetensors"
    with path.open("wb") as stream:
        stream.write((100_000_000).to_bytes(8, "little") + b'{"a":[')
        stream.truncate(100_000_100)
    for act in (load, verify, _check_length):
        with pytest.raises(ArtifactError, match="its header takes 100000000 bytes"):
            act(path)
    assert issubclass(ArtifactError, MemrecError)
    assert ArtifactError.exit_code == 2
