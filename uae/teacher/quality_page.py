"""The label-quality report as one HTML page that needs nothing else: no script, no outside asset, plots as inline SVG."""

import io
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from uae.teacher.quality import METRICS, pair_table, question_table
from uae.teacher.quality_verdict import THRESHOLDS, p_text

_TEMPLATE = Path(__file__).with_name("quality_page.html.j2")
_UTILITY, _BASE, _GOLD, _OTHER = "#17607a", "#8b929a", "#c26a12", "#5f7f95"
_METRIC_NAMES = {"recall@1": "Recall@1", "map": "MAP", "auc": "AUC"}
_STYLE = {
    "svg.fonttype": "path",  # text as outlines: it looks alike everywhere and fits where it was placed
    "svg.hashsalt": "label-quality",  # the same report gives the same bytes
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#6b7280",
    "axes.labelcolor": "#1f2933",
    "xtick.color": "#3a4550",
    "ytick.color": "#3a4550",
}
_CHARACTERS = 280  # of a text in an example
_HASH = re.compile(r"\b[0-9a-f]{16,}\b")  # long enough to tell apart by its first digits


def page(
    report: dict,
    utilities: pd.DataFrame,
    by_template: pd.DataFrame,
    candidates: pd.DataFrame,
    questions: pd.DataFrame,
    answer_tokens: pd.Series,
    passages: Mapping[str, str],
) -> str:
    """HTML of ``quality.judge``'s report; the tables are those it was made from.

    Args:
        passages: passage_id -> text, at least of the passages in the report's examples. Texts are escaped, and shortened.
    """
    temperature = report["settings"]["temperature"]
    pairs = pair_table(utilities, candidates, questions, temperature)
    each = question_table(pairs, questions, answer_tokens, temperature)
    with matplotlib.rc_context(_STYLE):
        plots = {
            "ranking": _ranking(report["ranking"]) if report["ranking"] else None,
            "utilities": _utilities(pairs),
            "agreement": _agreement(report["agreement"], by_template, pairs) if report["agreement"] else None,
            "length": _length(each),
            "grading": _grading(each),
        }
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": _number, "share": _share, "interval": _interval, "p": p_text, "short": _short}
    environment.filters |= {"reading": _reading, "weight": lambda value: "< 0.001" if value < 0.001 else f"{value:.3f}"}
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        report=report,
        plots=plots,
        metrics={metric: _METRIC_NAMES[metric] for metric in METRICS},
        thresholds=THRESHOLDS,
        texts={row["passage_id"]: passages[row["passage_id"]] for row in _example_rows(report)},
    )


def _example_rows(report: dict):
    return (row for examples in report["examples"].values() for example in examples for row in example["passages"])


def _ranking(ranking: dict) -> Markup:
    figure, axes = _canvas("", "mean over questions")
    places = np.arange(len(METRICS))
    for offset, system, colour, name in ((-0.19, "utility", _UTILITY, "labels"), (0.19, "base", _BASE, "base encoder")):
        estimates = [ranking["metrics"][metric][system] for metric in METRICS]
        means = np.array([estimate["mean"] for estimate in estimates])
        reach = [means - [e["low"] for e in estimates], [e["high"] for e in estimates] - means]
        axes.bar(places + offset, means, 0.36, color=colour, label=name)
        # rounding can put an end of the interval past the mean by a hair, which matplotlib refuses
        axes.errorbar(places + offset, means, np.maximum(reach, 0), fmt="none", ecolor="#1f2933", elinewidth=1.2, capsize=3)
    chance = [ranking["metrics"][metric]["chance"] for metric in METRICS]
    axes.hlines(chance, places - 0.42, places + 0.42, colors="#1f2933", linestyles="dotted", label="random order")
    axes.set_xticks(places, [_METRIC_NAMES[metric] for metric in METRICS])
    axes.set_ylim(0, 1.02)
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return _svg(figure)


def _utilities(pairs: pd.DataFrame) -> Markup:
    figure, axes = _canvas("utility (nats per answer token)", "share of the pairs")
    low, high = _bulk(pairs["utility"])
    bins = np.linspace(low, high, 41)
    groups = [(pairs["utility"], _UTILITY, "all passages")]
    if pairs["gold"].any():
        is_gold = pairs["gold"]
        groups = [(pairs["utility"][~is_gold], _OTHER, "other passages"), (pairs["utility"][is_gold], _GOLD, "evidence")]
    for values, colour, name in groups:
        if len(values):
            weights = np.full(len(values), 1 / len(values))
            axes.hist(values.clip(low, high), bins, weights=weights, color=colour, alpha=0.6, label=f"{name} ({len(values)})")
    axes.axvline(0, color="#1f2933", linewidth=0.9)  # right of it, the passage helped
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return _svg(figure)


def _agreement(agreement: dict, by_template: pd.DataFrame, pairs: pd.DataFrame) -> Markup:
    """The comparison that rests on most questions."""
    shown = max(agreement["pairs"], key=lambda comparison: comparison["questions"])
    readings = by_template.merge(pairs[["question_id", "passage_id"]])
    columns = [
        readings[(readings["teacher"] == side["teacher"]) & (readings["template"] == side["template"])]
        for side in (shown["a"], shown["b"])
    ]
    both = columns[0].merge(columns[1], on=["question_id", "passage_id"], suffixes=("_a", "_b"))
    names = [_reading(shown[side], shown["kind"]) for side in "ab"]
    figure, axes = _canvas(f"utility by {names[0]}", f"utility by {names[1]}", 5.2, 4.8)
    low, high = _bulk(pd.concat([both["utility_a"], both["utility_b"]]))
    # rasterised: a hundred thousand points would make the page too heavy to open
    axes.scatter(
        both["utility_a"].clip(low, high), both["utility_b"].clip(low, high), s=9, color=_UTILITY, alpha=0.45, rasterized=True
    )
    axes.plot([low, high], [low, high], color="#1f2933", linewidth=0.9, linestyle="dotted")
    axes.set_aspect("equal")
    if shown["spearman"]:
        axes.set_title(f"mean rank correlation within a question: {shown['spearman']['mean']:.2f}", fontsize=10, loc="left")
    return _svg(figure)


def _length(each: pd.DataFrame) -> Markup:
    figure, axes = _canvas("answer length (tokens)", "best utility of the question")
    low, high = _bulk(each["best"])
    axes.scatter(each["tokens"], each["best"].clip(low, high), s=12, color=_UTILITY, alpha=0.5, rasterized=True)
    axes.axhline(0, color="#1f2933", linewidth=0.9)
    if each["tokens"].max() > 10 * each["tokens"].median() and each["tokens"].min() > 0:
        axes.set_xscale("log")
    return _svg(figure)


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
    return _svg(figure)


def _canvas(x_label: str, y_label: str, width: float = 7.2, height: float = 3.2) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")  # not pyplot: it keeps figures in a global
    axes = figure.subplots()
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    return figure, axes


def _bulk(values: pd.Series) -> tuple[float, float]:
    """Where all but the outermost half percent on either side lie; one wild value must not squeeze the rest into a bar."""
    low, high = values.quantile([0.005, 0.995])
    return (float(low), float(high)) if high > low else (float(low) - 0.5, float(high) + 0.5)


def _svg(figure: Figure) -> Markup:
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", dpi=150, metadata=nothing)
    text = buffer.getvalue()
    # In HTML an <svg> needs neither a prolog nor namespaces: without them the page names no address at all.
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text[text.index("<svg") :], count=2)
    return Markup(re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1))  # the width is the page's choice


def _reading(side: Mapping[str, str], kind: str) -> str:
    """What sets a reading apart from the one it is compared with: a template, a teacher, or both."""
    parts = {"templates": ("template",), "teachers": ("teacher",)}.get(kind, ("teacher", "template"))
    return ", ".join(f"{part} {_HASH.sub(lambda found: found[0][:8], side[part])}" for part in parts)


def _or_dash(form: Callable[[float], str]) -> Callable[[float | None], str]:
    return lambda value: "–" if value is None else form(value)


_number = _or_dash(lambda value: f"{value:.3g}" if abs(value) >= 1000 or 0 < abs(value) < 0.001 else f"{value:.2f}")
_share = _or_dash(lambda value: f"{value:.1%}" if 0 < value < 0.1 else f"{value:.0%}")


def _interval(estimate: Mapping | None, form: Callable[[float | None], str] = _number) -> str:
    return "–" if estimate is None else f"{form(estimate['mean'])} [{form(estimate['low'])}, {form(estimate['high'])}]"


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _CHARACTERS else f"{text[:_CHARACTERS].rsplit(' ', 1)[0]} …"
