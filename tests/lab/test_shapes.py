"""Shapes: the published tables to the printed digit, and files that make no model."""

import numpy as np
import pytest
import yaml

from memrec_convert.errors import BudgetTooSmallError, RecipeError
from memrec_convert.lab.shapes.planning import plan_shape
from memrec_convert.lab.shapes.rendering import render_shape_plan
from memrec_convert.lab.shapes.shapes import Shape, count_published, read_shape, shape_names

PRINTED = {
    "criteo-tb": [
        (25_000, 5, 20, 4734),
        (50_000, 8, 33, 2904),
        (75_000, 11, 46, 2094),
        (100_000, 15, 59, 1638),
        (150_000, 21, 84, 1140),
    ],
    "criteo-kaggle": [
        (25_000, 2, 9, 251),
        (50_000, 4, 15, 144),
        (75_000, 5, 21, 101),
        (100_000, 7, 28, 78),
        (150_000, 10, 41, 53),
    ],
}
"""d, millions of parameters, MB and ratio as the authors of MEM-REC print them."""
AVAZU = [
    (25_000, 0.8, 3, 188),
    (50_000, 1.2, 5, 126),
    (75_000, 1.6, 6, 95),
    (100_000, 2.0, 8, 76),
    (125_000, 2.4, 10, 63),
]
SMALL = {"rows": [1000, 50, 3], "dim": 8, "dense": {"bottom": [2, 8], "top": [14, 4, 1]}}


def write(path, **changes):
    """A shape file with some keys changed; None leaves a key out."""
    values = {key: value for key, value in {**SMALL, **changes}.items() if value is not None}
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", sorted(PRINTED))
def test_published_sizes_come_out_to_the_printed_digit(name):
    """Ten rows of the slides: parameters, megabytes and ratio as printed."""
    found = [
        (
            one["d"],
            round(one["published_parameters"] / 1e6),
            round(one["published_bytes"] / 1e6),
            round(one["published_ratio"]),
        )
        for one in count_published(read_shape(name))
    ]
    assert found == PRINTED[name]
    assert [one["printed_ratio"] for one in count_published(read_shape(name))] == [row[3] for row in PRINTED[name]]


def test_avazu_comes_out_within_one_of_the_printed_ratio():
    """Its layers are not printed: one constant cannot give all five ratios, and 400,000 misses none by more than 1."""
    for one, (d, millions, megabytes, ratio) in zip(count_published(read_shape("avazu")), AVAZU, strict=True):
        assert one["d"] == d
        assert round(one["published_parameters"] / 1e6, 1) == millions
        assert round(one["published_bytes"] / 1e6) == megabytes
        assert abs(one["published_ratio"] - ratio) <= 1


def test_the_honest_count_has_every_layer_and_the_weight_table():
    """75,000 rows on Criteo Terabyte: 2,034x and not 2,094x, to the byte of the layers written out."""
    (one,) = [one for one in count_published(read_shape("criteo-tb")) if one["d"] == 75_000]
    bottom = 13 * 512 + 512 + 512 * 256 + 256 + 256 * 128 + 128
    top = 256 * 1024 + 1024 + 1024 * 1024 + 1024 + 1024 * 512 + 512 + 512 * 256 + 256 + 256 + 1
    assert one["bytes"] == 4 * (75_000 * 129 + bottom + top)
    assert round(one["ratio"]) == 2034


def test_row_counts_add_up_to_the_published_sums():
    """187,767,399 rows of 128 are 96.137 GB; the other two sums are printed with the figures."""
    assert {name: sum(read_shape(name).rows) for name in shape_names()} == {
        "avazu": 9_449_445,
        "criteo-kaggle": 33_762_577,
        "criteo-tb": 187_767_399,
    }
    assert round(read_shape("criteo-tb").table_bytes / 1e9, 3) == 96.137


def test_unknown_shapes_are_refused_with_the_nearest_name():
    """A slip of the pen is answered with what was meant."""
    with pytest.raises(RecipeError, match=r"no shape 'criteo-bt'.*did you mean 'criteo-tb'\?"):
        read_shape("criteo-bt")
    with pytest.raises(RecipeError, match="known are avazu, criteo-kaggle, criteo-tb"):
        read_shape("zzz")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rows": [1000, 0]}, "rows of table 1 are 0"),
        ({"rows": [-5]}, "rows of table 0 are -5"),
        ({"rows": []}, "rows: found"),
        ({"rows": ["many"]}, "rows > 0: found 'many'"),
        ({"rows": None}, "rows is missing"),
        ({"dim": 0}, "dim: found 0"),
        ({"dimm": 8}, r"unknown key 'dimm' \(did you mean 'dim'\?\)"),
        ({"dense": {"bottom": [2, 8]}}, "either the widths of bottom and top, or parameters"),
        ({"dense": {"parameters": 0}}, "dense > parameters: found 0"),
        ({"names": ["a"]}, "1 names for 3 tables"),
        ({"published": {"width": 8, "d": [4], "k": 0, "parameters": 9}}, "published > k: found 0"),
        ({"published": {"width": 8, "d": [4], "k": 5, "parameters": 9}}, "d is 4, and an id has 5 tokens"),
        ({"published": {"width": 8, "d": [4], "k_weights": 5, "parameters": 9}}, "1 tokens and 5 weights"),
        ({"published": {"width": 8, "d": [4, 5], "auc_changes": [0.1], "parameters": 9}}, "1 values for 2 sizes"),
    ],
)
def test_shapes_that_make_no_model_are_refused(tmp_path, changes, words):
    """One sentence with the place, what was found and what was expected."""
    path = write(tmp_path / "own.yaml", **changes)
    with pytest.raises(RecipeError, match=words) as caught:
        read_shape(path)
    assert "own.yaml: " in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"rows: [1\n", b"- 1\n", b"\xff\xfe\x00", b"rows: [1]\nrows: [2]\n", b""])
def test_files_that_are_no_shape_are_refused(tmp_path, content):
    """Whatever stands in the file, the answer is a RecipeError."""
    path = tmp_path / "own.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=r"own\.yaml"):
        read_shape(path)
    with pytest.raises(RecipeError, match="cannot be read"):
        read_shape(tmp_path / "missing.yaml")


def test_a_budget_below_the_dense_part_is_refused_with_the_smallest_that_can_be():
    """The smallest reachable budget that the error names is enough when it is given, and a byte less is not."""
    with pytest.raises(BudgetTooSmallError, match="below the dense part") as caught:
        plan_shape("criteo-tb", "4MB")
    smallest = caught.value.smallest_bytes
    assert plan_shape("criteo-tb", smallest)["bytes"] <= smallest
    with pytest.raises(BudgetTooSmallError):
        plan_shape("criteo-tb", smallest - 1)


@pytest.mark.parametrize(("name", "budget"), [("criteo-tb", "48MB"), ("criteo-kaggle", "100x"), ("avazu", "5%")])
def test_plans_stay_within_their_budget_and_use_it(name, budget):
    """At most the budget, and at least 95 % of it; the parts add up to the whole."""
    plan = plan_shape(name, budget)
    assert 0.95 * plan["budget_bytes"] <= plan["bytes"] <= plan["budget_bytes"]
    assert plan["bytes"] - sum(table["bytes"] for table in plan["tables"]) >= plan["dense_bytes"]
    for table in plan["tables"]:
        assert sum(table["lookups"].values()) == pytest.approx(1.0)
    assert sum(plan["lookups"].values()) == pytest.approx(1.0)
    assert {"tables", "bytes", "published_bytes", "published", "budget_bytes"} <= set(plan)


def test_published_bytes_are_those_of_the_largest_model_within_the_budget():
    """48 MB holds d = 75,000 as the authors count; 2 MB holds none of Avazu's five."""
    assert plan_shape("criteo-tb", "48MB")["published_bytes"] == 45_909_508
    assert plan_shape("avazu", "2MB")["published_bytes"] is None


def test_more_bytes_cover_no_fewer_lookups():
    """Coverage and bits per row rise with the budget."""
    plans = [plan_shape("criteo-kaggle", budget) for budget in ("4MB", "8MB", "21MB", "80MB")]
    assert np.all(np.diff([plan["covered"] for plan in plans]) >= 0)
    assert np.all(np.diff([plan["bits_per_row"] for plan in plans]) > 0)


def test_a_steeper_profile_needs_fewer_deep_codes(tmp_path):
    """The same bytes lose less where fewer ids take most of the lookups."""
    shape = Shape.model_validate({"rows": [500_000], "dim": 32, "dense": {"parameters": 10}})
    flat, steep = (plan_shape(shape, "20kB", zipf=zipf) for zipf in (0.2, 1.3))
    assert flat["covered"] < steep["covered"]


def test_the_text_keeps_within_its_width_and_shows_both_counts():
    """No line is wider than asked, and the published ratio stands beside the honest one."""
    text = render_shape_plan(plan_shape("criteo-tb", "48MB"), 80)
    assert max(map(len, text.splitlines())) <= 80
    assert "2,094x" in text
    assert "2,034x" in text


def test_a_file_without_published_sizes_plans_all_the_same(tmp_path):
    """The published part is optional."""
    plan = plan_shape(str(write(tmp_path / "own.yaml")), "40kB")
    assert plan["published"] == []
    assert plan["published_bytes"] is None
    assert "one table for the pooled sample" not in render_shape_plan(plan)
