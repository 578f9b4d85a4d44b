"""A candidate beside what it would replace, question by question: what can be said about their difference."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from uae.evaluation.comparison import ONE_DOCUMENT, independent_units
from uae.measures.paired import Difference, paired_difference

FROZEN, RECENT, ANSWERED, SHARED = "frozen test set", "recent test set", "answered questions", "questions that both can answer"


@dataclass(frozen=True)
class QuestionSet:
    """Metrics of the same questions by two systems.

    Args:
        name: for people.
        candidate, reference: a metric a column, by question_id; missing where a question was not asked.
        documents: question_id -> doc_id; "" where it belongs to none.
    """

    name: str
    candidate: pd.DataFrame
    reference: pd.DataFrame
    documents: pd.Series

    def units(self) -> int:
        """How many independent documents (or questions) there are."""
        return len(set(_units(self.documents[self.candidate.index])))


def pooled(sets: Sequence[QuestionSet]) -> QuestionSet:
    """All questions of several sets that share none, as one set."""
    return QuestionSet(
        "all test questions",
        pd.concat([each.candidate for each in sets]),
        pd.concat([each.reference for each in sets]),
        pd.concat([each.documents for each in sets]),
    )


class Finding(NamedTuple):
    """One metric on one set of questions."""

    on: str
    metric: str
    questions: int
    units: int
    candidate: float
    reference: float
    difference: float
    low: float  # the true difference is above it with the gate's confidence
    margin: float  # that may be lost
    kept: bool
    unchanged: bool  # every question has the same value by both
    one_document: bool  # all questions belong to it
    p_value: float | None  # one-sided, of no gain beyond the least one; None: the metric is only guarded
    detectable: float | None  # the smallest true gain that this look finds in 80 % of repetitions

    def numbers(self) -> dict[str, Any]:
        """As JSON holds it: what is infinite or not a number is null."""
        return {name: _finite(value) for name, value in self._asdict().items()}


class Compared(NamedTuple):
    """One metric of both systems, on the questions of one set where it is known of both."""

    on: str
    difference: Difference
    candidate: float
    reference: float
    questions: int
    unchanged: bool  # as ``Finding`` has them
    one_document: bool


def compare(sets: Sequence[QuestionSet], metric: str) -> list[Compared]:
    """Of each set where the metric is known of both."""
    found = []
    for each in sets:
        if metric not in each.candidate or metric not in each.reference:
            continue
        pair = pd.concat([each.candidate[metric], each.reference[metric]], axis=1).dropna().astype(np.float64)
        if pair.empty:
            continue
        ours, theirs = pair.iloc[:, 0], pair.iloc[:, 1]
        documents = each.documents[pair.index]
        found.append(
            Compared(
                on=each.name,
                difference=paired_difference(ours.to_numpy(), theirs.to_numpy(), _units(documents)),
                candidate=float(ours.mean()),
                reference=float(theirs.mean()),
                questions=len(pair),
                unchanged=bool((ours == theirs).all()),
                one_document=independent_units(documents).why == ONE_DOCUMENT,
            )
        )
    return found


def _units(documents: pd.Series) -> list[str]:
    """What is independent: documents where the rule of evaluation says so, else the questions themselves."""
    return list(documents) if independent_units(documents).over == "documents" else list(documents.index)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value
