"""Encoders fused with BM25 by their scores: the strongest systems that a user could deploy without, and with, training.

The weight is chosen on questions that nothing is measured on. For the untrained encoder these are the train and the validation
questions; for the trained one the validation questions alone, for it knows the train questions too well.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from uae.evaluation.testset import BASE, UAE
from uae.measures.fusion import Rankings, best_weight, score_fusion

CONVEX = {BASE: "convex_base", UAE: "convex_uae"}
_CHOSEN_ON = {BASE: ("train", "validation"), UAE: ("validation",)}


def choosing_questions(questions: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """encoder -> the questions with evidence that its weight is chosen on. An encoder without any is left out."""
    known = questions[questions["evidence"].str.len() > 0]
    found = {system: known[known["split"].isin(splits)] for system, splits in _CHOSEN_ON.items()}
    return {system: table for system, table in found.items() if len(table)}


def fused_with_bm25(
    rankings: Mapping[str, Rankings], bm25: Rankings, chosen_on: Mapping[str, pd.DataFrame], tested: Sequence[str]
) -> tuple[dict[str, Rankings], dict[str, dict[str, Any]]]:
    """Rankings of the tested questions by each encoder with BM25, and how their weights came about.

    Args:
        rankings: encoder -> its rankings of the tested questions and of those in ``chosen_on``.
        bm25: BM25's, of all these questions.
        chosen_on: as ``choosing_questions`` gives it.
        tested: question_ids.

    Returns:
        Rankings by name of the fused system, and by the same name ``{"weight", "map", "questions", "splits"}``: the weight of
        BM25's scaled scores beside cosines, the MAP of the fused ranking on the questions that chose it, and which these are.
    """
    fused: dict[str, Rankings] = {}
    weights: dict[str, dict[str, Any]] = {}
    for encoder, questions in chosen_on.items():
        name, asked = CONVEX[encoder], list(questions["question_id"])
        evidence = dict(zip(asked, questions["evidence"], strict=True))
        chosen = best_weight(_only(rankings[encoder], asked), _only(bm25, asked), evidence)
        fused[name] = score_fusion(_only(rankings[encoder], tested), _only(bm25, tested), chosen.weight)
        weights[name] = chosen._asdict() | {"splits": list(_CHOSEN_ON[encoder])}
    return fused, weights


def _only(rankings: Rankings, questions: Sequence[str]) -> dict[str, tuple[list[str], list[float]]]:
    return {question_id: rankings[question_id] for question_id in questions}
