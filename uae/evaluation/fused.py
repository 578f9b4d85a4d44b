"""Encoders joined with BM25: the strongest system that needs no training, and the promoted one.

For the untrained encoder form and weight are chosen here, on the train and the validation questions: it was trained on neither.
For the promoted system the release says them; ``uae.training.fusion`` chose them.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from uae.measures.best_fusion import average_precision, best_fusion
from uae.measures.fusion import Fusion, Rankings, aligned, aligned_rows, fuse
from uae.measures.ranking import strings
from uae.measures.row_rankings import RowRankings

CONVEX = "convex_base"
_CHOSEN_ON = ("train", "validation")


def choosing_questions(questions: pd.DataFrame) -> pd.DataFrame:
    """The questions with evidence that choose how BM25 joins the untrained encoder."""
    return questions[(questions["evidence"].str.len() > 0) & questions["split"].isin(_CHOSEN_ON)]


def strongest_untrained(
    base: Rankings, bm25: Rankings, chosen_on: pd.DataFrame, tested: Sequence[str]
) -> tuple[Rankings, dict[str, Any]]:
    """Rankings of the tested questions by the untrained encoder with BM25, and how that came about.

    Args:
        base, bm25: rankings of the tested questions and of those in ``chosen_on``.
        chosen_on: as ``choosing_questions`` gives it, at least one.
        tested: question_ids.

    Returns:
        The rankings, and ``{"form", "weight", "map", "questions", "splits"}``: the chosen fusion, the MAP of its rankings on the
        questions that chose it, and which these are.
    """
    asked = list(chosen_on["question_id"])
    evidence = dict(zip(asked, chosen_on["evidence"], strict=True))
    quality, on, beside = average_precision(evidence), only(base, asked), only(bm25, asked)
    if isinstance(on, RowRankings) and isinstance(beside, RowRankings):
        ids = on.table.ids
        chosen = best_fusion(
            aligned_rows(on, beside),
            lambda ranked: quality({key: strings(ids[np.asarray(rows, np.intp)]) for key, rows in ranked.items()}),
        )
    else:
        chosen = best_fusion(aligned(on, beside), quality)
    facts = chosen.fusion._asdict() | {"map": chosen.quality, "questions": chosen.questions, "splits": list(_CHOSEN_ON)}
    return fuse(only(base, tested), only(bm25, tested), chosen.fusion), facts


def as_released(dense: Rankings, bm25: Rankings, fusion: Fusion) -> Rankings:
    """The promoted system's rankings: the dense leg's alone where BM25 has no weight."""
    return fuse(dense, bm25, fusion) if fusion.weight else dense


def only(rankings: Rankings, questions: Sequence[str]) -> Rankings:
    """The rankings of some questions."""
    if isinstance(rankings, RowRankings):
        return rankings.only(questions)
    return {question_id: rankings[question_id] for question_id in questions}
