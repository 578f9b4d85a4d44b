"""Utilities derived from raw readings, in nats. How they are brought together is a parameter; the readings stay as they are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import logsumexp

from uae.io.errors import ArtefactError
from uae.teacher.asking import scored_texts
from uae.teacher.keys import answer_id
from uae.teacher.noise import Noise, noise_of

if TYPE_CHECKING:
    from pandas.core.groupby import SeriesGroupBy

    _Grouped = SeriesGroupBy[Any, Any]


@dataclass(frozen=True)
class Source:
    """Readings that count: of one teacher, asked in one way. As the label manifest has it."""

    name: str
    fingerprint: str
    method: str
    grades: tuple[str, ...]
    weight: float
    templates: tuple[str, ...]  # hashes
    check_templates: tuple[str, ...]
    number_formats: tuple[str, ...] = ("float32",)  # that the readings were made in

    @classmethod
    def from_manifest(cls, entry: Mapping[str, Any]) -> "Source":
        tuples = {name: tuple(entry[name]) for name in ("grades", "templates", "check_templates", "number_formats")}
        return cls(**{name: entry[name] for name in ("name", "fingerprint", "method", "weight")} | tuples)

    @property
    def noise(self) -> Noise:
        return noise_of(self.number_formats)


def utilities(
    labels: pd.DataFrame,
    candidates: pd.DataFrame,
    questions: pd.DataFrame,
    sources: Sequence[Source],
    answers_per_question: int,
    answers: str,
    templates: str,
    teachers: str,
) -> pd.DataFrame:
    """Utility of each candidate pair, by all teachers together. The tables are of their schemas.

    Args:
        labels: readings by question_id and passage_id (``uae.teacher.keys.by_ids``).
        answers: over a question's answers, ``mean`` or ``best``: the answer that the passage helps most.
        templates: ``mean`` or ``median`` over a teacher's prompt templates.
        teachers: before the weighted mean over teachers, each one's utilities are taken as they are (``none``), standardised
            (``zscore``) or spread over 0 to 1 (``minmax``) within each question. The last two give up the unit and the zero:
            nats no longer, and no passage is said to help or to mislead. A teacher whose utilities of a question differ by no
            more than its number format's error (``noise``) says nothing there: scaled up, the error would be all that it says.

    Returns:
        columns question_id, passage_id, utility (nats per token), in the candidates' order.

    Raises:
        ArtefactError: a candidate pair lacks a reading.
    """
    total = pd.Series(0.0, index=range(len(candidates)))
    for source in sources:
        each = [
            template_utilities(labels, candidates, questions, source, template, answers_per_question, answers)["utility"]
            for template in source.templates
        ]
        of_teacher = pd.concat(each, axis=1).agg(templates, axis=1)
        grouped = of_teacher.groupby(candidates["question_id"].to_numpy())
        total = total + source.weight * _NORMALISED[teachers](grouped, of_teacher, source.noise.spread)
    weight = sum(source.weight for source in sources)
    return candidates[["question_id", "passage_id"]].reset_index(drop=True).assign(utility=total / weight)


def template_utilities(
    labels: pd.DataFrame,
    candidates: pd.DataFrame,
    questions: pd.DataFrame,
    source: Source,
    template: str,
    answers_per_question: int,
    answers: str,
) -> pd.DataFrame:
    """As ``utilities``, of one teacher under one template.

    Answer and query likelihood: ``u(q, d) = NLL(a | q) - NLL(a | q, d)`` in nats per token of ``a``. Judgement: the log-odds of
    the expected grade, ``log sum_g g p_g - log sum_g (G - 1 - g) p_g`` over grades 0 .. G - 1, for two grades the log-odds of
    the better one.
    """
    pairs = _readings(labels, candidates, questions, source, template, answers_per_question)
    table = candidates[["question_id", "passage_id"]].reset_index(drop=True)
    if source.method == "judgement":
        _require(pairs["nll_sum"])
        by_grade = pairs.pivot(index="row", columns="place", values="nll_sum").to_numpy()
        values = pd.Series(_log_odds(by_grade), index=sorted(pairs["row"].unique()))
    else:
        pairs["utility"] = pairs["alone"] - pairs["nll"]
        _require(pairs["utility"])
        values = pairs.groupby("row")["utility"].agg({"mean": "mean", "best": "max"}[answers])
    return table.assign(utility=values.to_numpy())


def has_readings(
    labels: pd.DataFrame,
    candidates: pd.DataFrame,
    questions: pd.DataFrame,
    source: Source,
    template: str,
    answers_per_question: int,
) -> pd.Series:
    """Whether each candidate pair has all readings of one teacher under one template, by the candidates' index."""
    pairs = _readings(labels, candidates, questions, source, template, answers_per_question)
    needed = ["nll_sum"] if source.method == "judgement" else ["nll", "alone"]
    found = pairs[needed].notna().all(axis=1).groupby(pairs["row"]).all()
    return pd.Series(found.to_numpy(), index=candidates.index)


def _readings(
    labels: pd.DataFrame,
    candidates: pd.DataFrame,
    questions: pd.DataFrame,
    source: Source,
    template: str,
    answers_per_question: int,
) -> pd.DataFrame:
    """A row for each reading that is asked for, with NaN where it is missing. ``row`` is the candidate's place, ``place`` the
    answer's; ``alone`` is the NLL per token without any passage, where the method asks for it."""
    asked = pd.DataFrame(
        [
            (question_id, answer_id(text), place)
            for question_id, question, gold in zip(questions["question_id"], questions["text"], questions["answers"], strict=True)
            for place, text in enumerate(scored_texts(source.method, source.grades, question, gold, answers_per_question))
        ],
        columns=["question_id", "answer_id", "place"],
    )
    read = labels[(labels["teacher"] == source.fingerprint) & (labels["template"] == template)]
    table = candidates[["question_id", "passage_id"]].reset_index(drop=True)
    pairs = table.reset_index(names="row").merge(asked, on="question_id", how="left")  # a question not asked about is missing
    columns = ["question_id", "passage_id", "answer_id", "nll_sum", "n_tokens"]
    pairs = pairs.merge(read[columns], on=columns[:3], how="left")
    if source.method != "judgement":
        pairs["nll"] = pairs["nll_sum"] / pairs["n_tokens"]
        alone = read[read["passage_id"] == ""]
        alone = alone.assign(alone=alone["nll_sum"] / alone["n_tokens"])[["question_id", "answer_id", "alone"]]
        pairs = pairs.merge(alone, on=["question_id", "answer_id"], how="left")
    return pairs


def _log_odds(nll: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Of the expected grade, from the grades' NLLs of shape (pairs, grades). In log space: no grade falls to exact zero."""
    grades = np.arange(nll.shape[1])
    with np.errstate(divide="ignore"):  # the extreme grades have weight 0 on one side
        up, down = np.log(grades), np.log(grades[::-1])
    odds: npt.NDArray[np.float64] = logsumexp(up - nll, axis=1) - logsumexp(down - nll, axis=1)
    return odds


def _require(readings: pd.Series) -> None:
    if missing := int(readings.isna().sum()):
        raise ArtefactError(
            f"{missing} of {len(readings)} readings are missing for this teacher and template: "
            "run the label stage again, it labels only what is missing"
        )


def _as_they_are(grouped: "_Grouped", values: pd.Series, noise: float) -> pd.Series:
    return values


def _zscore(grouped: "_Grouped", values: pd.Series, noise: float) -> pd.Series:
    scores = (values - grouped.transform("mean")) / grouped.transform("std", ddof=0)
    return scores.where(_spread(grouped) > noise, 0.0)


def _minmax(grouped: "_Grouped", values: pd.Series, noise: float) -> pd.Series:
    spread = _spread(grouped)
    return ((values - grouped.transform("min")) / spread).where(spread > noise, 0.0)


def _spread(grouped: "_Grouped") -> pd.Series:
    return grouped.transform("max") - grouped.transform("min")


_NORMALISED = {"none": _as_they_are, "zscore": _zscore, "minmax": _minmax}
