"""The evaluation as one HTML page: a verdict for readers in a hurry, single questions for those who want to check it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from uae.evaluation.comparison import Measured, decisive, interval_words
from uae.evaluation.page.names import ORDERS, label, meaning, metric_name, metrics_of, ordered
from uae.evaluation.page.plots import draw_cost, draw_gains, draw_recall, draw_training
from uae.evaluation.page.questions import TOP, check_runs, examples
from uae.evaluation.page.tables import on_fewer, same_questions, slower
from uae.evaluation.page.words import LEADS, cautions, findings, p, times, verdict
from uae.evaluation.testset import UAE
from uae.io.errors import ArtefactError
from uae.io.files import write_text
from uae.measures.answers import ANSWER_METRICS
from uae.pages.page import drawing, interval, or_dash, render


def evaluation_page(
    evaluation: Mapping[str, Any], runs: pd.DataFrame, questions: pd.DataFrame, passages: pd.DataFrame, path: Path
) -> None:
    """Write the page of an evaluation.

    Raises:
        ArtefactError: ``runs`` do not fit the other tables, or the file cannot be written.
    """
    write_text(path, page(evaluation, runs, questions, passages))


def page(evaluation: Mapping[str, Any], runs: pd.DataFrame, questions: pd.DataFrame, passages: pd.DataFrame) -> str:
    """HTML of an evaluation. Parts that ``evaluation`` does not hold are left out.

    Args:
        evaluation: what ``evaluate`` returns: ``systems`` and ``gains`` with "uae", and what else was measured.
        runs: ``tables.RUNS``, one ranking a system and question.
        questions: ``tables.QUESTIONS``, at least those in ``runs``; with the other splits, the page says what training saw.
        passages: ``tables.PASSAGES``, at least those at the head of the rankings.

    Raises:
        ArtefactError: ``runs`` hold a question twice for one system, or name a question or passage that the tables do not hold.
    """
    check_runs(runs, questions)
    systems, gains = evaluation["systems"], evaluation["gains"]
    metrics = metrics_of(systems)
    most = {metric: max(table[metric]["questions"] for table in systems.values() if metric in table) for metric in metrics}
    lead = next((metric for metric in (*LEADS, *metrics) if metric in gains[UAE]), None)
    if lead is None:
        raise ArtefactError("the evaluation holds no gain of UAE over the base encoder: run the evaluate stage again")
    fewer = [system for system in ordered(systems) if on_fewer(systems[system], most)]
    shown = examples(runs, questions, passages)
    with drawing():
        plots = {
            "gains": draw_gains(gains, metrics),
            "recall": draw_recall(evaluation["recall_curve"], fewer) if evaluation.get("recall_curve") else None,
            "cost": draw_cost(evaluation["cost"], systems, lead, fewer) if evaluation.get("cost") else None,
            "training": draw_training(evaluation["training"]["curve"]) if _has_curve(evaluation) else None,
        }
    optional = ("also", "gains_over", "recall_curve", "cost", "held_out", "readers", "reader_contexts")
    return render(
        "evaluation/page/page.html.j2",
        _FILTERS,
        evaluation=evaluation,
        confidence=f"{evaluation['confidence'] * 100:g}%",
        intervals=interval_words(evaluation["intervals"]) if "intervals" in evaluation else "over questions",
        verdict=verdict(evaluation, lead, runs, questions),
        findings=findings(evaluation),
        cautions=cautions(evaluation, lead, fewer, runs, questions),
        systems={system: systems[system] for system in ordered(systems)},
        metrics=metrics,
        meanings={metric: meaning(metric) for metric in metrics},
        most=most,
        lead=lead,
        answer_metrics=ANSWER_METRICS,
        orders=ORDERS,
        fewer=fewer,
        same_questions=same_questions(runs, fewer, metrics),
        gains={system: gains[system] for system in ordered(gains)},
        slower=slower(evaluation.get("cost") or {}),
        plots=plots,
        examples=shown,
        top=TOP,
        **{name: evaluation.get(name) for name in optional},
    )


def _has_curve(evaluation: Mapping[str, Any]) -> bool:
    return bool((evaluation.get("training") or {}).get("curve"))


def _spread(estimate: Measured) -> str:
    return f"[{_score(estimate['low'])}, {_score(estimate['high'])}]"


_score = "{:.3f}".format
_FILTERS: dict[str, Callable[..., Any]] = {
    "label": label,
    "metric": metric_name,
    "p": p,
    "score": or_dash(_score),
    "points": lambda estimate: interval(estimate, "{:+.3f}".format),
    "percent": lambda estimate: interval(estimate, "{:+.1%}".format),
    "decisive": decisive,
    "spread": lambda estimate: _spread(decisive(estimate)),
    "interval": lambda estimate: "–" if estimate is None else interval({**estimate, **decisive(estimate)}, _score),
    "share": "{:.0%}".format,
    "milliseconds": lambda value: f"{value:,.0f}" if value >= 100 else f"{value:.3g}",
    "times": lambda ratio: "1" if ratio == 1 else times(ratio).removesuffix(" times"),
}
