"""Questions for a person to read: where labels, evidence and base encoder contradict each other most."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from uae.teacher.quality.bootstrap import Figure

_EXAMPLES = 4  # of each kind
_SHOWN = 2  # passages of an example: the first by utility, the first by base score, and the first evidence by utility


def examples(pairs: pd.DataFrame, each: pd.DataFrame, questions: pd.DataFrame) -> Figure:
    """Questions to read: where the teacher contradicts the evidence most, and where it corrects the base encoder most.

    Without any evidence ``corrections`` are the questions where teacher and base encoder differ most in their best passage.
    """
    weights = pairs.assign(weight=np.exp(pairs["log_weight"]))
    best = weights[weights["utility_place"] == 1].set_index("question_id").loc[each.index]
    base = weights[weights["base_place"] == 1].set_index("question_id").loc[each.index]
    judged = each["judged"]
    gap = best["weight"] - base["weight"]
    corrected = judged & best["gold"] & ~base["gold"] if judged.any() else best["passage_id"] != base["passage_id"]
    by_id: dict[str, dict[Any, Any]] = {row["question_id"]: row for row in questions.to_dict("records")}
    chosen = {"disagreements": _largest(best["weight"][judged & ~best["gold"]]), "corrections": _largest(gap[corrected])}
    return {
        kind: [_example(q, by_id[q], weights[weights["question_id"] == q]) for q in question_ids]
        for kind, question_ids in chosen.items()
    }


def _example(question_id: str, question: Mapping[Any, Any], rows: pd.DataFrame) -> Figure:
    by_base = rows.sort_values("base_place")
    first_evidence = rows["gold"] & (rows["gold"].cumsum() == 1)
    shown = rows[(rows["utility_place"] <= _SHOWN) | (rows["base_place"] <= _SHOWN) | first_evidence]
    columns = ["passage_id", "gold", "utility", "weight", "utility_place", "score", "base_place"]
    return {
        "question_id": question_id,
        "question": question["text"],
        "answer": question["answers"][0] if len(question["answers"]) else "",
        "candidates": len(rows),
        "by_utility": rows["passage_id"][:_SHOWN].tolist(),
        "by_base": by_base["passage_id"][:_SHOWN].tolist(),
        "passages": shown[columns].to_dict("records"),
    }


def _largest(values: pd.Series) -> list[str]:
    """The questions of the largest values; ties by question_id, which is the order of ``values``."""
    return values.sort_values(ascending=False, kind="stable").index[:_EXAMPLES].tolist()
