"""Sections on how the artifact came about: headline, warnings, plan, fine-tuning, assumptions, provenance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from memrec_convert.report.figures import (
    describe_mapping,
    describe_provenance,
    format_change,
    format_ratio,
    format_size,
    format_value,
)
from memrec_convert.report.html.beside import CONVERTED, read_points
from memrec_convert.report.html.given import Latency
from memrec_convert.report.html.markup import Child, Html, join, tag
from memrec_convert.report.html.parts import (
    Cell,
    Section,
    fold,
    make_facts,
    make_figure,
    make_list,
    make_table,
    say,
    side_by_side,
    split_facts,
)
from memrec_convert.report.html.scale import linear_scale
from memrec_convert.report.html.svg import Line, plot_lines

DRAWN_KEYS = ("curve", "gate", "budget_bytes")
"""Parts of the plan that have a chart, a sentence or a card of their own."""
PLAN_NAMES = {
    "chosen": "what was chosen",
    "predicted_bytes": "bytes predicted for the file",
    "distortion": "predicted distortion (squared error of the rows, weighted by lookups)",
    "price_per_byte": "distortion that one byte more would save",
    "divergence": "divergence from the original's predictions",
    "budget": "budget as asked for",
    "method": "method asked for",
}
TRAINING_NAMES = {
    "metric": "judged on the hold-out by",
    "steps": "steps taken",
    "planned_steps": "steps planned",
    "best_step": "step whose state was kept",
    "recoded": "score once rows were coded anew",
    "gain": "gain on the hold-out",
    "rate": "learning rate",
}
MOST_STEPS = 500

Values = Mapping[str, Any]


def show_headline(values: Values, latency: Latency | None) -> Html:
    """Size, AUC, speed and budget at a glance."""
    source, size = values["sizes"]["source"], values["artifact"]["bytes"]
    before = source["tables"] + source["dense"]
    ratio = before / size if size else None
    sizes = join(tag("span", format_size(before), " →"), " ", tag("span", format_size(size)))
    cards = [_card("Size", sizes, f"{format_ratio(ratio)} smaller, tables and dense part"), _auc_card(values)]
    cards.append(_speed_card(latency))
    budget = values["budget_bytes"]
    used = f"{100 * size / budget:.1f} % used; the whole file counts" if budget else "none"
    cards.append(_card("Budget", format_size(budget), used))
    number = len(values["warnings"])
    if number:
        link = tag("a", "what they say", href="#warnings")
        cards.append(_card("Warnings", str(number), link, alarm=True))
    return tag("dl", *cards, class_="cards")


def show_warnings(values: Values) -> Section | None:
    """What should be known before anything else; None where there is nothing."""
    if not values["warnings"]:
        return None
    return Section("warnings", "Warnings", make_list(values["warnings"]), kind="warnings")


def show_plan(values: Values) -> Section:
    """What decided the forms, and which plans lost."""
    plan = {key: value for key, value in values["plan"].items() if key not in DRAWN_KEYS}
    gate = values["plan"].get("gate")
    facts = [("ids weighted by", values["weights"]), *split_facts(describe_mapping(plan), PLAN_NAMES)]
    if isinstance(gate, Mapping) and isinstance(gate.get("says"), str):
        facts.append(("quality gate", gate["says"]))
    content = [make_facts(facts)]
    if values["alternatives"]:
        rows = [
            [
                entry["name"],
                Cell(format_size(entry["bytes"]), entry["bytes"]),
                Cell("-" if entry["score"] is None else f"{entry['score']:.6g}", entry["score"] or 0.0),
                entry["note"],
            ]
            for entry in values["alternatives"]
        ]
        headers = ["alternative", "bytes", "score", "note"]
        content.append(make_table("What lost against it (score: lower is better)", headers, rows, words=(0, 3)))
    return Section("plan", "How the plan was chosen", side_by_side(*content))


def show_training(values: Values) -> Section:
    """How fine-tuning went, with its history where it is known."""
    training = values["fine_tune"]
    if not training:
        return Section("training", "Fine-tuning", say("None."))
    facts = {key: value for key, value in training.items() if key != "history"}
    if "metric" in facts:
        facts["metric"] = name_metric(facts["metric"])
    return Section(
        "training",
        "Fine-tuning",
        side_by_side(_draw_history(training), make_facts(split_facts(describe_mapping(facts), TRAINING_NAMES))),
    )


def show_origin(values: Values) -> Section:
    """What was assumed, and what the artifact was made from and by."""
    content: list[Html | None] = []
    if values["assumed"]:
        content += [tag("h3", "Assumed, because the source does not say it"), make_list(values["assumed"])]
    content += [tag("h3", "Made from and by"), make_facts(split_facts(describe_provenance(values)))]
    if values["architecture"]:
        content.append(fold("Architecture", make_facts(split_facts(describe_mapping(values["architecture"])))))
    return Section("origin", "Assumptions and provenance", join(*content))


def name_metric(metric: object) -> str:
    """A metric as people write it."""
    return "AUC" if metric == "auc" else str(metric or "score")


def _auc_card(values: Values) -> Html:
    auc = values["auc"]
    if auc is None:
        return _card("AUC", "not measured", "there was no evaluation data")
    interval = auc["ci95"]
    said = f"{format_value(auc['before'])} → {format_value(auc['after'])}"
    if interval is not None:
        said += f"; 95 % interval {format_change(interval[0])} to {format_change(interval[1])}"
    if auc["verdict"]:
        said += f": {auc['verdict']}"
    return _card("Change of the AUC", format_change(auc["delta"]), said)


def _speed_card(latency: Latency | None) -> Html:
    """The embedding stage against the original over all batch sizes; its own time where nothing was beside it."""
    if latency is None:
        return _card("Speed", "not measured", tag("a", "how to measure it", href="#missing"))
    rows = [row for row in latency.rows if row.contender == CONVERTED]
    rows = [row for row in rows if row.stage == "embedding"] or rows
    compared = [(row.ratio_to_original, row.batch) for row in rows if row.ratio_to_original is not None]
    if compared:
        (low, at_low), (high, at_high) = min(compared), max(compared)
        if low == high:
            return _card("Speed", f"{low:.2f}x", f"that of the original's embedding stage, at batch {at_low:,}")
        said = f"that of the original's embedding stage: the least at batch {at_low:,}, the most at {at_high:,}"
        return _card("Speed", f"{low:.2f}x to {high:.2f}x", said)
    if rows:
        best = min(rows, key=lambda row: row.ns_per_lookup)
        return _card("Speed", f"{best.ns_per_lookup:,.0f} ns a lookup", f"at batch {best.batch:,}")
    return _card("Speed", "not measured", "the file given holds no times of the artifact")


def _card(title: str, figure: Child, said: Child, *, alarm: bool = False) -> Html:
    shown = tag("dd", figure, tag("small", said))
    return tag("div", tag("dt", title), shown, class_="alarm" if alarm else None)


def _draw_history(training: Values) -> Html | None:
    points = read_points(
        [
            {**entry, "step": entry["step"] + 1}
            for entry in training["history"]
            if isinstance(entry, Mapping) and isinstance(entry.get("step"), int)
        ]
        if isinstance(training.get("history"), list)
        else None,
        "step",
        "score",
    )[:MOST_STEPS]
    if len(points) < 2:
        return None
    line = Line("hold-out", tuple((step - 1, score) for step, score in points), 0, ours=True)
    across = linear_scale([0.0, *(x for x, _ in line.points)], lambda value: f"{value:,.0f}")
    up = linear_scale([y for _, y in line.points], lambda value: f"{value:.6g}", most=4)
    metric = name_metric(training.get("metric"))
    title = f"{metric} on the hold-out"
    chart = plot_lines(
        [line],
        across,
        up,
        title=title,
        axes=("step", metric),
        description=f"{len(points)} measurements while training.",
    )
    return make_figure("The hold-out while training; the best state was kept.", chart)
