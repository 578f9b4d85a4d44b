"""The label-quality report as one HTML page that needs nothing else: no script, no outside asset, plots as inline SVG."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from uae.pages.page import INK, canvas, drawing, interval, or_dash, reach, render, svg
from uae.teacher.quality.tables import METRICS, pair_table, question_table
from uae.teacher.quality.verdict import THRESHOLDS, p_text

_UTILITY, _BASE, _GOLD, _OTHER = "#17607a", "#8b929a", "#c26a12", "#5f7f95"
_METRIC_NAMES = {"recall@1": "Recall@1", "map": "MAP", "auc": "AUC"}
_CHARACTERS = 280  # of a text in an example
_HASH = re.compile(r"\b[0-9a-f]{16,}\b")  # long enough to tell apart by its first digits


def page(
    report: dict[str, Any],
    utilities: pd.DataFrame,
    by_template: pd.DataFrame,
    candidates: pd.DataFrame,
    questions: pd.DataFrame,
    answer_tokens: pd.Series,
    passages: Mapping[str, str],
) -> str:
    """HTML of ``assess``'s report; the tables are those it was made from.

    Args:
        passages: passage_id -> text, at least of the passages in the report's examples. Texts are escaped, and shortened.
    """
    temperature = report["settings"]["temperature"]
    pairs = pair_table(utilities, candidates, questions, temperature)
    each = question_table(pairs, questions, answer_tokens, temperature)
    with drawing():
        plots = {
            "ranking": _ranking(report["ranking"]) if report["ranking"] else None,
            "utilities": _utilities(pairs),
            "agreement": _agreement(report["agreement"], by_template, pairs) if report["agreement"] else None,
            "length": _length(each),
            "grading": _grading(each),
        }
    return render(
        "teacher/quality/page.html.j2",
        _FILTERS,
        report=report,
        plots=plots,
        metrics={metric: _METRIC_NAMES[metric] for metric in METRICS},
        thresholds=THRESHOLDS,
        texts={row["passage_id"]: passages[row["passage_id"]] for row in _example_rows(report)},
    )


def _example_rows(report: dict[str, Any]) -> Iterator[dict[str, Any]]:
    return (row for examples in report["examples"].values() for example in examples for row in example["passages"])


def _ranking(ranking: dict[str, Any]) -> Markup:
    figure, axes = canvas("", "mean over questions")
    places = np.arange(len(METRICS))
    for offset, system, colour, name in ((-0.19, "utility", _UTILITY, "labels"), (0.19, "base", _BASE, "base encoder")):
        estimates = [ranking["metrics"][metric][system] for metric in METRICS]
        means = [estimate["mean"] for estimate in estimates]
        axes.bar(places + offset, means, 0.36, color=colour, label=name)
        axes.errorbar(places + offset, means, reach(estimates), fmt="none", ecolor=INK, elinewidth=1.2, capsize=3)
    chance = [ranking["metrics"][metric]["chance"] for metric in METRICS]
    axes.hlines(chance, places - 0.42, places + 0.42, colors=INK, linestyles="dotted", label="random order")
    axes.set_xticks(places, [_METRIC_NAMES[metric] for metric in METRICS])
    axes.set_ylim(0, 1.02)
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return svg(figure)


def _utilities(pairs: pd.DataFrame) -> Markup:
    figure, axes = canvas("utility (nats per answer token)", "share of the pairs")
    low, high = _bulk(pairs["utility"])
    bins = np.linspace(low, high, 41).tolist()
    groups = [(pairs["utility"], _UTILITY, "all passages")]
    if pairs["gold"].any():
        is_gold = pairs["gold"]
        groups = [(pairs["utility"][~is_gold], _OTHER, "other passages"), (pairs["utility"][is_gold], _GOLD, "evidence")]
    for values, colour, name in groups:
        if len(values):
            weights = np.full(len(values), 1 / len(values))
            axes.hist(values.clip(low, high), bins, weights=weights, color=colour, alpha=0.6, label=f"{name} ({len(values)})")
    axes.axvline(0, color=INK, linewidth=0.9)  # right of it, the passage helped
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return svg(figure)


def _agreement(agreement: dict[str, Any], by_template: pd.DataFrame, pairs: pd.DataFrame) -> Markup:
    """The comparison that rests on most questions."""
    shown = max(agreement["pairs"], key=lambda comparison: comparison["questions"])
    readings = by_template.merge(pairs[["question_id", "passage_id"]])
    columns = [
        readings[(readings["teacher"] == side["teacher"]) & (readings["template"] == side["template"])]
        for side in (shown["a"], shown["b"])
    ]
    both = columns[0].merge(columns[1], on=["question_id", "passage_id"], suffixes=("_a", "_b"))
    names = [_reading(shown[side], shown["kind"]) for side in "ab"]
    figure, axes = canvas(f"utility by {names[0]}", f"utility by {names[1]}", 5.2, 4.8)
    low, high = _bulk(pd.concat([both["utility_a"], both["utility_b"]]))
    # rasterised: a hundred thousand points would make the page too heavy to open
    axes.scatter(
        both["utility_a"].clip(low, high), both["utility_b"].clip(low, high), s=9, color=_UTILITY, alpha=0.45, rasterized=True
    )
    axes.plot([low, high], [low, high], color=INK, linewidth=0.9, linestyle="dotted")
    axes.set_aspect("equal")
    if shown["spearman"]:
        axes.set_title(f"mean rank correlation within a question: {shown['spearman']['mean']:.2f}", fontsize=10, loc="left")
    return svg(figure)


def _length(each: pd.DataFrame) -> Markup:
    figure, axes = canvas("answer length (tokens)", "best utility of the question")
    low, high = _bulk(each["best"])
    axes.scatter(each["tokens"], each["best"].clip(low, high), s=12, color=_UTILITY, alpha=0.5, rasterized=True)
    axes.axhline(0, color=INK, linewidth=0.9)
    if each["tokens"].max() > 10 * each["tokens"].median() and each["tokens"].min() > 0:
        axes.set_xscale("log")
    return svg(figure)


def _grading(each: pd.DataFrame) -> Markup:
    several, judged = each[each["candidates"] > 1], each[each["judged"]]
    figure = Figure(figsize=(7.2, 3.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    if len(several):
        left.hist(several["effective"], np.linspace(1, several["candidates"].max(), 25), color=_UTILITY)
    left.set_xlabel("effective number of passages")
    left.set_ylabel("questions")
    values, what = (judged["outside_gold"], "the evidence") if len(judged) else (several["outside_top"], "the best passage")
    right.hist(values, np.linspace(0, 1, 21), color=_GOLD if len(judged) else _UTILITY)
    right.set_xlabel(f"weight outside {what}")
    right.set_ylabel("questions")
    return svg(figure)


def _bulk(values: pd.Series) -> tuple[float, float]:
    """Where all but the outermost half percent on either side lie; one wild value must not squeeze the rest into a bar."""
    low, high = values.quantile([0.005, 0.995])
    return (float(low), float(high)) if high > low else (float(low) - 0.5, float(high) + 0.5)


def _reading(side: Mapping[str, str], kind: str) -> str:
    """What sets a reading apart from the one it is compared with: a template, a teacher, or both."""
    parts = {"templates": ("template",), "teachers": ("teacher",)}.get(kind, ("teacher", "template"))
    return ", ".join(f"{part} {_HASH.sub(lambda found: found[0][:8], side[part])}" for part in parts)


_number = or_dash(lambda value: f"{value:.3g}" if abs(value) >= 1000 or 0 < abs(value) < 0.001 else f"{value:.2f}")
_share = or_dash(lambda value: f"{value:.1%}" if 0 < value < 0.1 else f"{value:.0%}")


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _CHARACTERS else f"{text[:_CHARACTERS].rsplit(' ', 1)[0]} …"


_FILTERS: dict[str, Callable[..., Any]] = {
    "number": _number,
    "share": _share,
    "interval": lambda estimate: interval(estimate, _number),
    "p": p_text,
    "short": _short,
    "reading": _reading,
    "weight": lambda value: "< 0.001" if value < 0.001 else f"{value:.3f}",
}
