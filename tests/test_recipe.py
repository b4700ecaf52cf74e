"""Recipes: strict, typed, and never silent about a typo."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memrec_convert import recipe as module
from memrec_convert.errors import RecipeError
from memrec_convert.recipe import Recipe, read_recipe

EVERYTHING = """
description: all keys
source: a paper
pairs: upper
dense_transform: log(x+3)
qr_operation: add
interaction: dot
pooling: mean
state: model
field_sizes: [50, 30]
table_order: [t_user, t_item]
columns: {t_user: user_id, label: clicked}
budget: 48MB
threshold: 10000rows
method: codes
pooled: D=75000,K=1
weights: optimizer
epochs: 2
dense: bf16
oov: hash
seed: 7
batch_size: 512
targets: soft
train_dense: true
tables_only: true
allow_nonfinite: true
k: 3
k_weights: 2
threads: 2
data:
  modulus: 40_000_000
  id_map: maps/ids.npz
"""


@pytest.fixture
def refuse(tmp_path):
    """A recipe file of this text is refused; the sentence without the file's name."""

    def refuse_text(text):
        path = tmp_path / "mine.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(RecipeError) as caught:
            read_recipe(path)
        said = str(caught.value)
        assert said.startswith(f"{path}: ")
        assert said.endswith(".")
        assert "\n" not in said
        return said.removeprefix(f"{path}: ").removesuffix(".")

    return refuse_text


def test_every_key_is_read(tmp_path):
    """A recipe may say all of it, and comes back as typed values."""
    path = tmp_path / "all.yaml"
    path.write_text(EVERYTHING)
    recipe = read_recipe(str(path))
    assert recipe.columns == {"t_user": "user_id", "label": "clicked"}
    assert (recipe.pairs, recipe.dense_transform, recipe.budget) == ("upper", "log(x+3)", "48MB")
    assert (recipe.epochs, recipe.seed, recipe.batch_size, recipe.data.modulus) == (2, 7, 512, 40_000_000)
    assert set(recipe.to_json()) == set(Recipe.model_fields)


def test_an_id_map_lies_beside_its_recipe(tmp_path):
    """A relative path is meant from the recipe's folder, an absolute one stays."""
    path = tmp_path / "deep" / "all.yml"
    path.parent.mkdir()
    path.write_text("data: {id_map: maps/ids.npz}")
    assert read_recipe(path).data.id_map == str(tmp_path / "deep" / "maps" / "ids.npz")
    path.write_text(f"data: {{id_map: {tmp_path}/ids.npz}}")
    assert read_recipe(path).data.id_map == f"{tmp_path}/ids.npz"


def test_what_a_recipe_leaves_open_stays_open(tmp_path):
    """Keys that are not given are left to the command line and the defaults."""
    path = tmp_path / "short.yaml"
    path.write_text("budget: 100x\n")
    recipe = read_recipe(path)
    assert recipe.to_json() == {"budget": "100x"}
    assert recipe.said() == {"budget": "100x"}
    assert recipe.pairs is recipe.data.modulus is None


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "pairs": st.sampled_from(["lower", "upper"]),
            "budget": st.sampled_from(["48MB", "5%", "100x", "llc", 1000]),
            "threshold": st.sampled_from(["0", 0, "10rows", "1MiB"]),
            "seed": st.integers(0, 2**31 - 1),
            "epochs": st.integers(0, 100),
            "columns": st.dictionaries(st.text(min_size=1, max_size=5), st.text(max_size=5), min_size=1),
            "data": st.fixed_dictionaries({"modulus": st.integers(1, 2**40)}),
        },
    )
)
def test_a_recipe_is_what_it_was_given(values):
    """Reading a valid recipe and writing it as JSON loses and adds nothing."""
    assert Recipe.model_validate(values).to_json() == values


def test_the_packaged_recipes_are_all_there():
    """The five promised names exist, in order."""
    with pytest.raises(RecipeError, match="known are avazu, criteo-kaggle, criteo-terabyte, movielens-1m, synthetic;"):
        read_recipe("none of them")


@pytest.mark.parametrize("name", ["avazu", "criteo-kaggle", "criteo-terabyte", "movielens-1m", "synthetic"])
def test_a_packaged_recipe_is_found_by_its_bare_name(name):
    """Each reads without error, says what it is for, and sets budget and dense transform."""
    recipe = read_recipe(name)
    assert recipe.description
    assert recipe.budget is not None
    assert recipe.dense_transform is not None


def test_recipes_inside_the_package_are_found_without_a_checkout(tmp_path, monkeypatch):
    """An installed package holds its recipes itself, and a stranger's folder beside it is no source of recipes."""
    (tmp_path / "memrec_convert" / "recipes").mkdir(parents=True)
    (tmp_path / "memrec_convert" / "recipes" / "inside.yaml").write_text("seed: 3")
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "stranger.yaml").write_text("seed: 4")
    monkeypatch.setattr(module.resources, "files", lambda package: tmp_path / package)
    monkeypatch.setattr(module, "__file__", str(tmp_path / "memrec_convert" / "recipe.py"))
    with pytest.raises(RecipeError, match="known are inside;"):
        read_recipe("stranger")
    assert read_recipe("inside").seed == 3


def test_a_misspelt_name_is_suggested():
    """The nearest packaged recipe and all known ones are named."""
    with pytest.raises(RecipeError, match=r"did you mean 'criteo-kaggle'\?.*known are avazu, criteo-kaggle"):
        read_recipe("criteo-kagle")
    with pytest.raises(RecipeError, match=r"^no recipe is called 'zzz': known are") as caught:
        read_recipe("zzz")
    assert "did you mean" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    """A path that leads nowhere is one sentence, with a packaged recipe of nearly that name where there is one."""
    with pytest.raises(RecipeError, match=r"nowhere\.yaml: there is no such recipe file\.$"):
        read_recipe(tmp_path / "nowhere.yaml")
    with pytest.raises(RecipeError, match="did you mean 'criteo-kaggle'"):
        read_recipe("criteo_kaggle.yaml")


@pytest.mark.parametrize("name", ["folder.yaml", "zero\0byte.yaml"])
def test_what_is_no_file_is_refused(tmp_path, name):
    """A folder, or a name that no file can have, cannot be read."""
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(RecipeError, match="cannot be read"):
        read_recipe(tmp_path / name)


def test_a_huge_file_is_not_read(refuse):
    """Another file under a recipe's name is refused by its size."""
    assert "expected a recipe of a few lines" in refuse("#" * 1_000_001)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("budgett: 48MB", "unknown key 'budgett' (did you mean 'budget'?)"),
        ("zzz: 1", "unknown key 'zzz'"),
        ("1: 2", "unknown key '1'"),
        ("data: {modulos: 3}", "unknown key 'data > modulos' (did you mean 'modulus'?)"),
        (
            "Budget: 1MB\nseeds: 1",
            "unknown key 'Budget' (did you mean 'budget'?); unknown key 'seeds' (did you mean 'seed'?)",
        ),
    ],
)
def test_unknown_keys_are_errors_with_a_suggestion(refuse, text, said):
    """A key that would silently do nothing is named, all of them at once."""
    assert refuse(text) == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pairs: up", "pairs: found 'up' (text), expected lower or upper"),
        ("dense_transform: off", "dense_transform: found False (true or false), expected log1p, log(x+3) or identity"),
        ("columns: [a]", "columns: found ['a'] (a list), expected a mapping from table"),
        ("columns: {user: 3}", "columns > user: found 3 (a whole number), expected a mapping from table"),
        ("columns: {3: user}", "columns > 3: found 3 (a whole number), expected a mapping from table"),
        ("budget: 48 bananas", "budget: found '48 bananas' (text), expected a size such as 48MB, a share"),
        ("budget: 0", "budget: found 0 (a whole number), expected"),
        ("budget: 1.5", "budget: found 1.5 (a number), expected"),
        ("threshold: 5%", "threshold: found '5%' (text), expected 0, a size such as 100kB, or rows"),
        ("method: fast", "method: found 'fast' (text), expected auto, memrec, codes, int8 or sample-pooled"),
        ("weights: none", "weights: found 'none' (text), expected auto, log, optimizer, displacement or uniform"),
        ("epochs: -1", "epochs: found -1 (a whole number), expected a whole number from 0 to"),
        ("epochs: 1.5", "epochs: found 1.5 (a number), expected a whole number from 0 to"),
        ("seed: true", "seed: found True (true or false), expected a whole number from 0 to"),
        ("seed: 9223372036854775808", "seed: found 9223372036854775808 (a whole number), expected"),
        ("dense: int4", "dense: found 'int4' (text), expected fp32, bf16, int8 or auto"),
        ("oov: ignore", "oov: found 'ignore' (text), expected error, clip, hash or zero"),
        ("batch_size: 0", "batch_size: found 0 (a whole number), expected a whole number from 1 to"),
        ("batch_size: '512'", "batch_size: found '512' (text), expected a whole number from 1 to"),
        ("description: 2020-01-01", "description: found datetime.date(2020, 1, 1) (date), expected a sentence"),
        ("source: [a]", "source: found ['a'] (a list), expected where the values come from"),
        ("data: 3", "data: found 3 (a whole number), expected a mapping with the keys modulus and id_map"),
        ("data: {modulus: -4}", "data > modulus: found -4 (a whole number), expected a whole number above zero"),
        ("data: {id_map: 7}", "data > id_map: found 7 (a whole number), expected the path of a file"),
        ("data: {id_map: ''}", "data > id_map: found '' (text), expected the path of a file"),
    ],
)
def test_a_wrong_value_names_key_found_and_expected(refuse, text, said):
    """Values are never coerced: text is no number and true is no 1."""
    assert refuse(text).startswith(said)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("budget:", "budget"),
        ("data: {modulus: }", "data > modulus"),
        ("data: ~", "data"),
        ("columns: {user: }", "columns > user"),
        ("columns: null", "columns"),
    ],
)
def test_a_key_without_a_value_is_an_error(refuse, text, key):
    """What would silently do nothing is said once."""
    assert refuse(text) == f"{key}: found nothing, expected a value: give one or leave the key out"


@pytest.mark.parametrize("text", ["budget: 1MB\nbudget: 2MB", "data: {modulus: 3, modulus: 3}", "<<: {}\n<<: {}"])
def test_a_key_given_twice_is_an_error(refuse, text):
    """YAML would silently take the last one."""
    assert "is given twice (line " in refuse(text)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "nothing"),
        ("# only a comment", "nothing"),
        ("- budget", "['budget'] (a list)"),
        ("48MB", "'48MB' (text)"),
        ("3", "3 (a whole number)"),
    ],
)
def test_yaml_that_is_no_mapping_is_refused(refuse, text, found):
    """A recipe is a mapping; anything else is shown."""
    assert refuse(text) == f"found {found}, expected a mapping such as 'budget: 48MB'"


@pytest.mark.parametrize(
    "text",
    [
        "budget: [",
        "budget: 48MB: 3",
        "\tbudget: 1",
        "a: *unknown",
        "\x00",
        b"budget: \xff\xfe",
        "--- 1\n--- 2",
        "seed: !!bool maybe",
        "seed: !!int ''",
        "seed: !!timestamp x",
        "seed: 2001-13-45",
        "? [a]\n: b",
        "[" * 5000,
        "seed: " + "9" * 5000,
    ],
    ids=range(14),
)
def test_what_is_not_yaml_is_one_sentence(refuse, text):
    """Broken YAML, other encodings, impossible values and endless nesting end in no traceback."""
    assert refuse(text).startswith("not a YAML recipe")


def test_a_recipe_executes_nothing(refuse, tmp_path):
    """A tag that asks for a Python call is refused, and the call does not happen."""
    trace = tmp_path / "trace"
    said = refuse(f"seed: !!python/object/apply:os.mkdir ['{trace}']")
    assert said.startswith("not a YAML recipe: could not determine a constructor")
    assert not trace.exists()


def test_a_self_containing_recipe_ends(refuse):
    """Aliases that contain themselves, or multiply, are shown in short."""
    assert refuse("columns: &a {x: *a}").startswith("columns > x: found {'x': ")
    levels = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    said = refuse("\n".join(["a0: &a0 [1]", *levels, "seed: *a29"]))
    assert said.startswith("seed: found [[[...], [...], ")
    assert said.endswith("and 23 more")
    assert len(said) < 1000


def test_a_key_without_end_is_cut(refuse):
    """A wrong key of a megabyte is named in short."""
    assert len(refuse("k" * 900_000 + ": 1")) < 200
