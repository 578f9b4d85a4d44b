"""The evaluation as one HTML page: a sentence for whom it must convince, and single questions for whom it must not."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from uae.evaluation.testset import BASE, UAE
from uae.io.errors import ArtefactError
from uae.io.files import write_text
from uae.pages.page import INK, canvas, drawing, interval, or_dash, reach, render, svg


class _System(NamedTuple):
    name: str
    colour: str
    marker: str  # systems are told apart without their colours, too


_SYSTEMS = {
    "bm25": _System("BM25", "#8b929a", "v"),
    BASE: _System("base encoder", "#4b5563", "s"),
    "hybrid": _System("hybrid (BM25 + base)", "#7a5195", "D"),
    "infonce": _System("InfoNCE on evidence", "#b7791f", "^"),
    UAE: _System("UAE", "#17607a", "o"),
    "rerank_query_likelihood": _System("LLM re-ranking, query likelihood", "#b23b2e", "P"),
    "rerank_list": _System("LLM re-ranking, list-wise", "#c2577a", "X"),
    "ceiling": _System("teacher’s ceiling (sees the gold answer)", "#2b7a43", "*"),
}
_METRICS = {
    "map": ("MAP", "how far up all of a question’s evidence stands (mean average precision)."),
    "mrr": ("MRR", "1 divided by the place of the first evidence passage."),
    "ndcg@10": ("nDCG@10", "evidence among the first ten passages, counting less the further down it stands."),
    "token_f1": ("token F1", "words that the reader LLM’s answer shares with a gold answer, compared as SQuAD does."),
    "exact_match": ("exact match", "share of the reader LLM’s answers that equal a gold answer, compared as SQuAD does."),
}
_ANSWERS = ("token_f1", "exact_match")
_LEADS = ("recall@1", "map", "mrr")  # the first that was measured decides the headline
_FEW = 50  # with fewer questions the 95% interval of a share near one half is wider than 14 points to either side
_EXAMPLES = 10  # wins and regressions each
_TOP = 5  # passages shown of a ranking
_CHARACTERS = 320  # of a passage before it is unfolded
_WIDTH = 5.2  # of a plot, inches: its letters are still read on a telephone


def evaluation_page(evaluation: dict, runs: pd.DataFrame, questions: pd.DataFrame, passages: pd.DataFrame, path: Path) -> None:
    """Write the page of an evaluation.

    Raises:
        ArtefactError: ``runs`` do not fit the other tables, or the file cannot be written.
    """
    write_text(path, page(evaluation, runs, questions, passages))


def page(evaluation: dict, runs: pd.DataFrame, questions: pd.DataFrame, passages: pd.DataFrame) -> str:
    """HTML of an evaluation. Parts that ``evaluation`` does not hold are left out.

    Args:
        evaluation: what ``evaluate`` returns: ``systems`` and ``gains`` with "uae", and what else was measured.
        runs: ``tables.RUNS``, one ranking a system and question.
        questions: ``tables.QUESTIONS``, at least those in ``runs``; with the other splits, the page says what training saw.
        passages: ``tables.PASSAGES``, at least those at the head of the rankings.

    Raises:
        ArtefactError: ``runs`` hold a question twice for one system, or name a question or passage that the tables do not hold.
    """
    _check_runs(runs, questions)
    systems, gains = evaluation["systems"], evaluation["gains"]
    metrics = _metrics_of(systems)
    most = {metric: max(table[metric]["questions"] for table in systems.values() if metric in table) for metric in metrics}
    lead = next((metric for metric in (*_LEADS, *metrics) if metric in gains[UAE]), None)
    if lead is None:
        raise ArtefactError("the evaluation holds no gain of UAE over the base encoder: run the evaluate stage again")
    fewer = [system for system in _ordered(systems) if _on_fewer(systems[system], most)]
    examples = _examples(runs, questions, passages)
    with drawing():
        plots = {
            "gains": _draw_gains(gains, metrics),
            "recall": _draw_recall(evaluation["recall_curve"], fewer) if evaluation.get("recall_curve") else None,
            "cost": _draw_cost(evaluation["cost"], systems, lead, fewer) if evaluation.get("cost") else None,
            "training": _draw_training(evaluation["training"]["curve"]) if _has_curve(evaluation) else None,
        }
    optional = ("gains_over", "recall_curve", "cost", "held_out", "readers")
    return render(
        "evaluation/page.html.j2",
        _FILTERS,
        evaluation=evaluation,
        confidence=f"{evaluation['confidence'] * 100:g}%",
        verdict=_verdict(evaluation, lead, runs, questions),
        findings=_findings(evaluation),
        cautions=_cautions(evaluation, lead, fewer, runs, questions),
        systems={system: systems[system] for system in _ordered(systems)},
        metrics=metrics,
        meanings={metric: _meaning(metric) for metric in metrics},
        most=most,
        lead=lead,
        fewer=fewer,
        same_questions=_same_questions(runs, fewer, metrics),
        gains={system: gains[system] for system in _ordered(gains)},
        slower=_slower(evaluation.get("cost") or {}),
        plots=plots,
        examples=examples,
        top=_TOP,
        **{name: evaluation.get(name) for name in optional},
    )


# Words ---------------------------------------------------------------------------------------------------------------


def _label(system: str) -> str:
    return _SYSTEMS[system].name if system in _SYSTEMS else system


def _metric_name(metric: str) -> str:
    return _METRICS[metric][0] if metric in _METRICS else metric.capitalize()


def _meaning(metric: str) -> str | None:
    if metric == "recall@1":
        return "share of a question’s evidence passages that stands first."
    if metric.startswith("recall@"):
        return f"share of a question’s evidence passages that stands among the first {metric.removeprefix('recall@')}."
    return _METRICS[metric][1] if metric in _METRICS else None


def _p(p_value: float) -> str:
    return "<0.001" if p_value < 0.001 else f"{p_value:.3f}"


def _p_words(p_value: float) -> str:
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"


def _gain_words(gain: Mapping, confidence: float) -> str:
    """Such as "+33% (95% interval +22% to +46%, p < 0.001)"; in points of the metric where the base's mean is 0."""
    estimate = gain["relative"] or gain["absolute"]
    relative = "{:+.0%}" if abs(estimate["mean"]) >= 0.1 else "{:+.1%}"
    form = (relative if gain["relative"] else "{:+.3f}").format
    ends = f"{confidence * 100:g}% interval {form(estimate['low'])} to {form(estimate['high'])}"
    return f"{form(estimate['mean'])} ({ends}, {_p_words(gain['p_value'])})"


def _significant(gain: Mapping, confidence: float) -> bool:
    return gain["p_value"] < round(1 - confidence, 12)  # 1 - 0.95 is a hair above 0.05


def _verdict(evaluation: dict, lead: str, runs: pd.DataFrame, questions: pd.DataFrame) -> dict[str, str]:
    """The headline, and the sentence that stands for the whole page. It rests on one metric that is named beforehand."""
    gain, confidence = evaluation["gains"][UAE][lead], evaluation["confidence"]
    uae, base = (evaluation["systems"][system][lead]["mean"] for system in (UAE, BASE))
    evaluated = _evaluated(runs, questions)
    opening = f"On {gain['questions']} questions{_about(evaluation, evaluated, questions)}, "
    if lead != "recall@1":
        compared = f"UAE reaches a {_metric_name(lead)} of {uae:.3f}, the base encoder {base:.3f}"
    elif (evaluated["evidence"].str.len() == 1).all():
        compared = f"UAE puts a right passage first for {uae:.1%} of them, the base encoder for {base:.1%}"
    else:  # with several evidence passages a question, recall@1 is no share of the questions
        compared = f"UAE’s first passage is {uae:.1%} of what there is to find, on average, and the base encoder’s {base:.1%}"
    words = _gain_words(gain, confidence)
    if not _significant(gain, confidence):
        return {
            "style": "unsure",
            "headline": "No significant difference",
            "sentence": f"{opening}{compared}. The difference, {words}, is not significant: it may well be chance.",
        }
    if gain["absolute"]["mean"] < 0:
        return {
            "style": "bad",
            "headline": "UAE finds worse passages than the base encoder",
            "sentence": f"{opening}{compared}: {words}. That is a significant loss: keep the base encoder.",
        }
    return {
        "style": "good",
        "headline": "UAE finds better passages than the base encoder",
        "sentence": f"{opening}{compared}: {words}.",
    }


def _about(evaluation: dict, evaluated: pd.DataFrame, questions: pd.DataFrame) -> str:
    """What the questions are about and whether training saw it, as far as the tables tell."""
    if (evaluated["doc_id"] == "").any():
        return " that training never saw"
    number = evaluation["counts"]["test_documents"]
    about = f" about {number} document{'' if number == 1 else 's'}"
    unseen = (questions["split"] == "train").any() and not _shared_documents(evaluated, questions)
    return f"{about} that training never saw" if unseen else about


def _shared_documents(evaluated: pd.DataFrame, questions: pd.DataFrame) -> int:
    """Documents that questions of other splits are about, too."""
    others = questions.loc[questions["split"] != "test", "doc_id"]
    return len(set(evaluated["doc_id"]) & set(others) - {""})


def _evaluated(runs: pd.DataFrame, questions: pd.DataFrame) -> pd.DataFrame:
    return questions[questions["question_id"].isin(runs["question_id"])]


def _findings(evaluation: dict) -> list[str]:
    """What else a reader in a hurry should know, a sentence each."""
    gains, systems, confidence = evaluation["gains"], evaluation["systems"], evaluation["confidence"]
    found = []
    if gain := gains[UAE].get("token_f1"):
        uae, base = (systems[system]["token_f1"]["mean"] for system in (UAE, BASE))
        found.append(
            f"Answers of a reader LLM: token F1 {uae:.3f} from UAE’s passages, {base:.3f} from the base encoder’s, on "
            f"{gain['questions']} questions: {_gain_words(gain, confidence)}{_unless_significant(gain, confidence)}."
        )
    for other, over in (evaluation.get("gains_over") or {}).items():
        for system in _ordered(over):
            metric = next((metric for metric in _LEADS if metric in over[system]), None)
            if metric:
                gain = over[system][metric]
                found.append(
                    f"{_label(system)} against {_label(other)}, {_metric_name(metric)} on {gain['questions']} questions: "
                    f"{_gain_words(gain, confidence)}{_unless_significant(gain, confidence)}."
                )
    for system, ratio in _slower(evaluation.get("cost") or {}).items():
        if system.startswith("rerank"):
            found.append(f"{_label(system)} takes {_times(ratio)} as long per query as UAE.")
    if held_out := evaluation.get("held_out"):
        others = [teacher for teacher in held_out.get("teachers", ()) if teacher["role"] == "held out" and teacher.get("gain")]
        for teacher in others:
            gain = teacher["gain"]
            found.append(
                f"Judged by “{teacher['name']}”, an LLM without a part in the labels, UAE’s first passage differs in utility "
                f"from the base encoder’s by {gain['absolute']['mean']:+.3f} nats per token "
                f"({_p_words(gain['p_value'])}){_unless_significant(gain, confidence)}."
            )
        if held_out.get("kept") is not None:
            found.append(
                f"An LLM of another family sees {held_out['kept']:.0%} of the relative gain in utility that the teacher sees."
            )
    return found


def _unless_significant(gain: Mapping, confidence: float) -> str:
    return "" if _significant(gain, confidence) else ", not significant"


def _cautions(evaluation: dict, lead: str, fewer: Sequence[str], runs: pd.DataFrame, questions: pd.DataFrame) -> list[str]:
    """What makes the figures weaker than they look."""
    gains, confidence = evaluation["gains"][UAE], evaluation["confidence"]
    found = []
    if gains[lead]["questions"] < _FEW:
        found.append(
            f"Only {gains[lead]['questions']} questions. Below {_FEW}, an interval spans tens of points and one odd question "
            "moves the mean: take this as a first impression, and add test questions."
        )
    few = {metric: gain["questions"] for metric, gain in gains.items() if metric != lead and gain["questions"] < _FEW}
    if few and gains[lead]["questions"] >= _FEW:
        found.append(
            f"Rests on fewer than {_FEW} questions: " + _listed(f"{_metric_name(m)} ({n})" for m, n in few.items()) + "."
        )
    sure = {metric: gain for metric, gain in gains.items() if _significant(gain, confidence)}
    if worse := [metric for metric, gain in sure.items() if gain["absolute"]["mean"] < 0 and metric != lead]:
        found.append(f"Significantly worse than the base encoder: {_listed(map(_metric_name, worse))}.")
    if unsure := [metric for metric in gains if metric not in sure and metric != lead]:
        words = (f"{_metric_name(metric)} ({_p_words(gains[metric]['p_value'])})" for metric in unsure)
        found.append(f"Not significantly different from the base encoder: {_listed(words)}.")
    if fewer:
        found.append(f"Measured on fewer questions than the rest, and not to be compared across: {_listed(map(_label, fewer))}.")
    if shared := _shared_documents(_evaluated(runs, questions), questions):
        found.append(
            f"{shared} of the documents have training or validation questions as well: the model saw them, though not these "
            "questions. Split by document to measure what new documents will bring."
        )
    if len(evaluation["seeds"]) == 1:
        found.append("One seed: trained again with another, the model would give somewhat other figures.")
    return found


def _listed(words: Iterable[str]) -> str:
    return "; ".join(words)  # there are commas within names


def _times(ratio: float) -> str:
    return f"{ratio:,.0f} times" if ratio >= 10 else f"{ratio:.1f} times"


# Tables --------------------------------------------------------------------------------------------------------------


def _ordered(systems: Iterable[str]) -> list[str]:
    """In the order of ``_SYSTEMS``, others last as they come."""
    systems = list(systems)
    return [system for system in _SYSTEMS if system in systems] + [system for system in systems if system not in _SYSTEMS]


def _metrics_of(systems: Mapping[str, Mapping]) -> list[str]:
    found = list(dict.fromkeys(metric for table in systems.values() for metric in table))
    known = [metric for metric in _METRICS if metric in found]
    recalls = sorted((m for m in found if m.startswith("recall@")), key=lambda metric: int(metric.removeprefix("recall@")))
    return [*recalls, *known, *(metric for metric in found if metric not in recalls and metric not in known)]


def _on_fewer(table: Mapping[str, Mapping], most: Mapping[str, int]) -> bool:
    """Whether a system's retrieval was measured on fewer questions than another's (answers are asked of a part in any case)."""
    return any(table[metric]["questions"] < most[metric] for metric in table if metric not in _ANSWERS)


def _same_questions(runs: pd.DataFrame, fewer: Sequence[str], metrics: Sequence[str]) -> list[dict]:
    """Means of base, UAE and the systems measured on fewer questions, on those questions alone: a block a set of questions."""
    asked = {system: frozenset(group["question_id"]) for system, group in runs.groupby("system")}
    blocks: dict[frozenset, list[str]] = {}
    for system in fewer:
        if system in asked and system not in (BASE, UAE):
            blocks.setdefault(asked[system], []).append(system)
    tables = []
    for wanted, members in blocks.items():
        compared = [system for system in (BASE, UAE) if wanted <= asked.get(system, frozenset())]
        part = runs[runs["question_id"].isin(wanted)]
        values = {system: pd.DataFrame(map(dict, part.loc[part["system"] == system, "metrics"])) for system in compared + members}
        shown = [m for m in metrics if all(m in table and table[m].notna().all() for table in values.values())]
        means = {system: table[shown].mean().to_dict() for system, table in values.items()}
        tables.append({"questions": len(wanted), "metrics": shown, "means": means})
    return tables


def _slower(cost: Mapping[str, Mapping]) -> dict[str, float]:
    """Each system's time a query as a multiple of UAE's."""
    uae = cost.get(UAE, {}).get("ms_per_query")
    return {system: cost[system]["ms_per_query"] / uae for system in _ordered(cost)} if uae else {}


# Questions -----------------------------------------------------------------------------------------------------------


def _check_runs(runs: pd.DataFrame, questions: pd.DataFrame) -> None:
    if (twice := runs.duplicated(["system", "question_id"])).any():
        row = runs[twice].iloc[0]
        raise ArtefactError(f"the runs hold question {row['question_id']} twice for system {row['system']}: one ranking each")
    if missing := sorted(set(runs["question_id"]) - set(questions["question_id"])):
        raise ArtefactError(
            f"the runs name question {missing[0]}, which is not among the questions: run the evaluate stage again"
        )


def _examples(runs: pd.DataFrame, questions: pd.DataFrame, passages: pd.DataFrame) -> dict | None:
    """The questions in which UAE's average precision (or reciprocal rank, where there is none) differs most from the base's."""
    rows = {system: group.set_index("question_id") for system, group in runs.groupby("system")}
    if not {BASE, UAE} <= set(rows):
        return None
    values = {system: {q: dict(metrics) for q, metrics in table["metrics"].items()} for system, table in rows.items()}
    common = sorted(set(values[BASE]) & set(values[UAE]))
    metric = next((m for m in ("map", "mrr") if all(m in values[s][q] for s in (BASE, UAE) for q in common)), None)
    if not common or metric is None:
        return None
    gains = {q: values[UAE][q][metric] - values[BASE][q][metric] for q in common}
    wins = sorted((q for q in common if gains[q] > 0), key=lambda q: (-gains[q], q))
    losses = sorted((q for q in common if gains[q] < 0), key=lambda q: (gains[q], q))
    texts = dict(zip(passages["passage_id"], passages["text"], strict=True))
    by_id = questions.set_index("question_id")

    def shown(chosen: list[str]) -> list[dict]:
        return [_example(q, by_id.loc[q], rows, values, texts, metric) for q in chosen[:_EXAMPLES]]

    return {
        "measure": {"map": "average precision", "mrr": "reciprocal rank"}[metric],
        "wins": shown(wins),
        "losses": shown(losses),
        "counts": {"better": len(wins), "worse": len(losses), "equal": len(common) - len(wins) - len(losses)},
    }


def _example(question_id: str, question: pd.Series, rows, values, texts: Mapping[str, str], metric: str) -> dict:
    evidence = set(question["evidence"])
    places = {
        system: _places(table.loc[question_id, "passage_ids"], evidence)
        for system, table in rows.items()
        if question_id in table.index
    }
    answers = _answer_pattern(question["answers"])
    return {
        "id": question_id,
        "question": question["text"],
        "answers": list(question["answers"]),
        "values": {system: values[system][question_id][metric] for system in (BASE, UAE)},
        "sides": {
            system: {
                "places": places[system],
                "passages": _side(rows[system].loc[question_id], evidence, texts, answers),
                "asked": "token_f1" in values[system][question_id],
                "answer": rows[system].loc[question_id, "answer"],
                "token_f1": values[system][question_id].get("token_f1"),
            }
            for system in (BASE, UAE)
        },
        "others": {system: places[system] for system in _ordered(places) if system not in (BASE, UAE)},
    }


def _places(ranking: Sequence[str], evidence: set[str]) -> str:
    """Where the evidence stands in a stored ranking, which may end before it."""
    found = [str(place) for place, passage_id in enumerate(ranking, start=1) if passage_id in evidence]
    if not found:
        return f"not in the first {len(ranking)}"
    return f"{'place' if len(found) == 1 else 'places'} {', '.join(found)}"


def _side(run: pd.Series, evidence: set[str], texts: Mapping[str, str], answers: re.Pattern | None) -> list[dict]:
    found = []
    for passage_id, score in list(zip(run["passage_ids"], run["scores"], strict=True))[:_TOP]:
        if passage_id not in texts:
            raise ArtefactError(
                f"the runs name passage {passage_id}, which is not among the passages: run the evaluate stage again"
            )
        found.append({"id": passage_id, "score": score, "evidence": passage_id in evidence} | _marked(texts[passage_id], answers))
    return found


def _answer_pattern(answers: Iterable[str]) -> re.Pattern | None:
    """Finds an answer as whole words, case aside; the longest where several begin at one place."""
    words = sorted({" ".join(answer.split()) for answer in answers} - {""}, key=lambda answer: (-len(answer), answer))
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, words))})(?!\w)", re.IGNORECASE) if words else None


def _marked(text: str, answers: re.Pattern | None) -> dict:
    """A passage with the answers in it marked: ``excerpt`` around the first of them, ``whole`` where that is more."""
    text = " ".join(text.split())
    spans = [found.span() for found in answers.finditer(text)] if answers else []
    if len(text) <= _CHARACTERS:
        return {"excerpt": _with_marks(text, spans, 0, len(text)), "whole": None}
    start = 0
    if spans and spans[0][1] > _CHARACTERS:  # the answer is seen after some words of what leads to it
        start = text.find(" ", max(0, min(spans[0][0] - _CHARACTERS // 3, len(text) - _CHARACTERS))) + 1
    end = (
        len(text) if start + _CHARACTERS >= len(text) else max(text.rfind(" ", 0, start + _CHARACTERS), start + _CHARACTERS // 2)
    )
    excerpt = Markup("{}{}{}").format(
        "… " if start else "", _with_marks(text, spans, start, end), " …" if end < len(text) else ""
    )
    return {"excerpt": excerpt, "whole": _with_marks(text, spans, 0, len(text))}


def _with_marks(text: str, spans: Iterable[tuple[int, int]], start: int, end: int) -> Markup:
    """``text[start:end]``, escaped, with what ``spans`` cover of it in <mark>."""
    pieces, position = [], start
    for low, high in spans:
        low, high = max(low, start), min(high, end)
        if low < high:
            pieces += [escape(text[position:low]), Markup("<mark>{}</mark>").format(text[low:high])]
            position = high
    return Markup("").join([*pieces, escape(text[position:end])])


# Plots ---------------------------------------------------------------------------------------------------------------


def _look(system: str) -> dict:
    found = _SYSTEMS.get(system, _System(system, "#5f7f95", "h"))
    return {"color": found.colour, "marker": found.marker, "label": found.name.replace("$", r"\$")}  # else matplotlib's formulas


def _legend(figure: Figure, axes: Axes) -> None:
    columns = 1 if max(len(text) for text in axes.get_legend_handles_labels()[1]) > 30 else 2
    figure.legend(loc="outside upper left", ncols=columns, frameon=False, fontsize=9)


def _draw_gains(gains: Mapping[str, Mapping], metrics: Sequence[str]) -> Markup | None:
    """Relative gains of the trained encoders over the base, with intervals."""
    trained = [system for system in (UAE, "infonce") if system in gains]
    shown = [metric for metric in metrics if any(gains[system].get(metric, {}).get("relative") for system in trained)]
    if not shown:
        return None
    figure, axes = canvas("gain over the base encoder (%)", "", _WIDTH, 0.9 + 0.45 * len(shown))
    for number, system in enumerate(trained):
        rows = [
            (place, gains[system][m]["relative"]) for place, m in enumerate(shown) if gains[system].get(m, {}).get("relative")
        ]
        estimates = [{end: 100 * estimate[end] for end in ("mean", "low", "high")} for _, estimate in rows]
        heights = np.array([place for place, _ in rows]) + (0.24 * number - 0.12 * (len(trained) - 1))
        means = [estimate["mean"] for estimate in estimates]
        axes.errorbar(means, heights, xerr=reach(estimates), fmt="none", ecolor=INK, elinewidth=1.2, capsize=3)
        axes.plot(means, heights, linestyle="none", markersize=7, **_look(system))
    axes.axvline(0, color=INK, linewidth=0.9)
    axes.set_yticks(range(len(shown)), [_metric_name(metric).replace("$", r"\$") for metric in shown])
    axes.set_ylim(len(shown) - 0.5, -0.5)  # the first metric on top
    if len(trained) > 1:
        _legend(figure, axes)
    return svg(figure)


def _draw_recall(curves: Mapping[str, Sequence[float]], fewer: Sequence[str]) -> Markup:
    """Recall over k; dashed where fewer questions were asked."""
    figure, axes = canvas("first k passages", "recall", _WIDTH, 4.6)
    for system in _ordered(curves):
        line = {"linestyle": "dashed" if system in fewer else "solid", "linewidth": 1.6, "markersize": 5}
        axes.plot(range(1, len(curves[system]) + 1), curves[system], **line, **_look(system))
    axes.set_xticks(range(1, max(map(len, curves.values())) + 1))
    axes.set_ylim(0, 1.02)
    axes.grid(axis="y", color="#d9dee3", linewidth=0.7)
    _legend(figure, axes)
    return svg(figure)


def _draw_cost(cost: Mapping[str, Mapping], systems: Mapping[str, Mapping], lead: str, fewer: Sequence[str]) -> Markup | None:
    """Quality against time, time in powers of ten; hollow where fewer questions were asked."""
    shown = [system for system in _ordered(cost) if lead in systems.get(system, {}) and cost[system]["ms_per_query"] > 0]
    if not shown:
        return None
    figure, axes = canvas("time per query (ms)", _metric_name(lead), _WIDTH, 4.6)
    for system in shown:
        estimate, time = systems[system][lead], cost[system]["ms_per_query"]
        look = _look(system)
        face = "#ffffff" if system in fewer else look["color"]
        axes.errorbar(
            [time], [estimate["mean"]], yerr=reach([estimate]), fmt="none", ecolor=look["color"], elinewidth=1, capsize=3
        )
        axes.plot([time], [estimate["mean"]], linestyle="none", markersize=9, markerfacecolor=face, markeredgewidth=1.6, **look)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axes.set_ylim(0, 1.02)
    axes.grid(color="#d9dee3", linewidth=0.7)
    _legend(figure, axes)
    return svg(figure)


def _has_curve(evaluation: dict) -> bool:
    return bool((evaluation.get("training") or {}).get("curve"))


def _draw_training(curve: Sequence[Mapping[str, float | None]]) -> Markup:
    axis = "step" if "step" in curve[0] else "epoch"
    drawn = [(name, label) for name, label in (("loss", "training loss"), ("validation", "validation score"))
             if any(row.get(name) is not None for row in curve)]  # fmt: skip
    figure = Figure(figsize=(_WIDTH, 2.6), layout="constrained")
    for axes, (name, label) in zip(np.atleast_1d(figure.subplots(1, max(len(drawn), 1))), drawn, strict=False):
        points = [(row[axis], row[name]) for row in curve if row.get(name) is not None]
        axes.plot(*zip(*points, strict=True), color=_SYSTEMS[UAE].colour, marker="o" if len(points) < 30 else None, markersize=4)
        axes.set_xlabel(axis)
        axes.set_ylabel(label)
    return svg(figure)


_score = "{:.3f}".format
_FILTERS = {
    "label": _label,
    "metric": _metric_name,
    "p": _p,
    "score": or_dash(_score),
    "points": lambda estimate: interval(estimate, "{:+.3f}".format),
    "percent": lambda estimate: interval(estimate, "{:+.1%}".format),
    "spread": lambda estimate: f"[{_score(estimate['low'])}, {_score(estimate['high'])}]",
    "interval": lambda estimate: interval(estimate, _score),
    "share": "{:.0%}".format,
    "milliseconds": lambda value: f"{value:,.0f}" if value >= 100 else f"{value:.3g}",
    "times": lambda ratio: "1" if ratio == 1 else _times(ratio).removesuffix(" times"),
}
