"""Single questions: the passages that base and UAE rank first, side by side."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from markupsafe import Markup, escape

from uae.evaluation.page.names import ordered
from uae.evaluation.testset import BASE, UAE
from uae.io.errors import ArtefactError

TOP = 5  # passages shown of a ranking
_EXAMPLES = 10  # wins and regressions each
_CHARACTERS = 320  # of a passage before it is unfolded


def check_runs(runs: pd.DataFrame, questions: pd.DataFrame) -> None:
    if (twice := runs.duplicated(["system", "question_id"])).any():
        row = runs[twice].iloc[0]
        raise ArtefactError(f"the runs hold question {row['question_id']} twice for system {row['system']}: one ranking each")
    if missing := sorted(set(runs["question_id"]) - set(questions["question_id"])):
        raise ArtefactError(
            f"the runs name question {missing[0]}, which is not among the questions: run the evaluate stage again"
        )


def examples(runs: pd.DataFrame, questions: pd.DataFrame, passages: pd.DataFrame) -> dict[str, Any] | None:
    """The questions in which UAE's average precision (or reciprocal rank, where there is none) differs most from the base's."""
    rows = {str(system): group.set_index("question_id") for system, group in runs.groupby("system")}
    if not {BASE, UAE} <= set(rows):
        return None
    values = {system: {str(q): dict(metrics) for q, metrics in table["metrics"].items()} for system, table in rows.items()}
    common = sorted(set(values[BASE]) & set(values[UAE]))
    metric = next((m for m in ("map", "mrr") if all(m in values[s][q] for s in (BASE, UAE) for q in common)), None)
    if not common or metric is None:
        return None
    gains = {q: values[UAE][q][metric] - values[BASE][q][metric] for q in common}
    wins = sorted((q for q in common if gains[q] > 0), key=lambda q: (-gains[q], q))
    losses = sorted((q for q in common if gains[q] < 0), key=lambda q: (gains[q], q))
    texts = dict(zip(passages["passage_id"], passages["text"], strict=True))
    by_id = questions.set_index("question_id")

    def shown(chosen: list[str]) -> list[dict[str, Any]]:
        return [_example(q, pd.Series(by_id.loc[q]), rows, values, texts, metric) for q in chosen[:_EXAMPLES]]

    return {
        "measure": {"map": "average precision", "mrr": "reciprocal rank"}[metric],
        "wins": shown(wins),
        "losses": shown(losses),
        "counts": {"better": len(wins), "worse": len(losses), "equal": len(common) - len(wins) - len(losses)},
    }


def _example(
    question_id: str,
    question: pd.Series,
    rows: Mapping[str, pd.DataFrame],
    values: Mapping[str, Mapping[str, Mapping[str, float]]],
    texts: Mapping[str, str],
    metric: str,
) -> dict[str, Any]:
    evidence = set(question["evidence"])
    places = {
        system: _places(list(table["passage_ids"][question_id]), evidence)
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
                "passages": _side(pd.Series(rows[system].loc[question_id]), evidence, texts, answers),
                "asked": "token_f1" in values[system][question_id],
                "answer": rows[system].loc[question_id, "answer"],
                "token_f1": values[system][question_id].get("token_f1"),
            }
            for system in (BASE, UAE)
        },
        "others": {system: places[system] for system in ordered(places) if system not in (BASE, UAE)},
    }


def _places(ranking: Sequence[str], evidence: set[str]) -> str:
    """Where the evidence stands in a stored ranking, which may end before it."""
    found = [str(place) for place, passage_id in enumerate(ranking, start=1) if passage_id in evidence]
    if not found:
        return f"not in the first {len(ranking)}"
    return f"{'place' if len(found) == 1 else 'places'} {', '.join(found)}"


def _side(run: pd.Series, evidence: set[str], texts: Mapping[str, str], answers: re.Pattern[str] | None) -> list[dict[str, Any]]:
    found = []
    for passage_id, score in list(zip(run["passage_ids"], run["scores"], strict=True))[:TOP]:
        if passage_id not in texts:
            raise ArtefactError(
                f"the runs name passage {passage_id}, which is not among the passages: run the evaluate stage again"
            )
        found.append({"id": passage_id, "score": score, "evidence": passage_id in evidence} | _marked(texts[passage_id], answers))
    return found


def _answer_pattern(answers: Iterable[str]) -> re.Pattern[str] | None:
    """Finds an answer as whole words, case aside; the longest where several begin at one place."""
    words = sorted({" ".join(answer.split()) for answer in answers} - {""}, key=lambda answer: (-len(answer), answer))
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, words))})(?!\w)", re.IGNORECASE) if words else None


def _marked(text: str, answers: re.Pattern[str] | None) -> dict[str, Any]:
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
