"""Means and gains of per-question metrics with their intervals, and the rule whether these are over questions or documents."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from uae.measures.statistics import (
    Estimate,
    Floats,
    Gain,
    Resampling,
    gain_over_groups,
    mean_over_groups,
    mean_with_interval,
    paired_gain,
)

Measured = dict[str, Any]  # a mean or a gain, as evaluation.json holds it
ONE_DOCUMENT = "all belong to one document: they say nothing about others"


class Independent(NamedTuple):
    """What is resampled for an interval, because only that is independent."""

    over: Literal["documents", "questions"]
    documents: int  # that the questions belong to
    why: str  # a clause


def independent_units(documents: pd.Series) -> Independent:
    """Whether intervals and p-values of these questions are over questions or over documents: the one rule.

    They are over documents if every question belongs to one, and there are at least two documents, but fewer than questions.
    Questions on one document share its difficulty, so intervals over questions would be too narrow.

    Args:
        documents: the doc_id of each question; "" where it belongs to none.
    """
    ids = set(documents)
    known = len(ids - {""})
    if "" in ids or not ids:
        return Independent("questions", known, "not every question belongs to a document")
    if known == 1:
        return Independent("questions", 1, ONE_DOCUMENT)
    if known == len(documents):
        return Independent("questions", known, "each belongs to a document of its own")
    return Independent("documents", known, "questions on one document are not independent")


def interval_words(independent: Mapping[str, Any]) -> str:
    """An ``Independent``, given as a mapping, in words: "over 16 documents: questions on one document are not independent"."""
    units = f"{independent['documents']} documents" if independent["over"] == "documents" else "questions"
    return f"over {units}: {independent['why']}"


def decisive(figure: Measured) -> Measured:
    """The interval and p-value to go by: over documents where there are such, else over questions."""
    found: Measured = figure.get("by_document", figure)
    return found


def summarise(scores: pd.DataFrame, documents: pd.Series, resampling: Resampling) -> dict[str, Measured]:
    """metric -> mean, low, high, questions; and ``by_document`` where the rule says so.

    Args:
        scores: a metric a column, by question_id; missing where a question was not asked.
        documents: question_id -> doc_id.
    """
    columns = {str(metric): scores[metric].dropna().astype(np.float64) for metric in scores}
    return {metric: mean_of(values, documents, resampling) for metric, values in columns.items() if len(values)}


def mean_of(values: pd.Series, documents: pd.Series, resampling: Resampling) -> Measured:
    """As ``summarise``, of one metric without missing values."""
    figure = mean_with_interval(values.to_numpy(), *resampling)._asdict() | {"questions": len(values)}
    groups = _groups(values.index, documents)
    if groups is not None:
        over = mean_over_groups(values.to_numpy(), groups, *resampling)
        figure["by_document"] = over._asdict() | {"documents": len(np.unique(groups))}
    return figure


def gains_over(base: pd.DataFrame, system: pd.DataFrame, documents: pd.Series, resampling: Resampling) -> dict[str, Measured]:
    """Gains of ``system`` over ``base`` by metric, on the questions where both have one.

    Args:
        base, system: a metric a column, by question_id.
        documents: question_id -> doc_id.
    """
    gains = {}
    for metric in system.columns.intersection(base.columns, sort=False):
        pair = pd.concat([base[metric], system[metric]], axis=1).dropna().astype(np.float64)
        if not pair.empty:
            gains[metric] = gain_of(pair.iloc[:, 0], pair.iloc[:, 1], documents, resampling)
    return gains


def gain_of(base: pd.Series, system: pd.Series, documents: pd.Series, resampling: Resampling) -> Measured:
    """absolute, relative (None where the base has 0), p_value, questions; and ``by_document`` where the rule says so.

    Args:
        base, system: one value a question, with the same index of question_ids.
        documents: question_id -> doc_id.
    """
    before: Floats = base.to_numpy()
    after: Floats = system.to_numpy()
    figure = _as_figure(paired_gain(before, after, *resampling)) | {"questions": len(base)}
    groups = _groups(base.index, documents)
    if groups is not None:
        over = _as_figure(gain_over_groups(before, after, groups, *resampling))
        figure["by_document"] = over | {"documents": len(np.unique(groups))}
    return figure


def _groups(question_ids: pd.Index, documents: pd.Series) -> npt.NDArray[Any] | None:
    """The document of each question, where documents are to be resampled."""
    asked = documents[question_ids]
    return asked.to_numpy() if independent_units(asked).over == "documents" else None


def _as_figure(gain: Gain) -> Measured:
    return {"absolute": gain.absolute._asdict(), "relative": _as_dict(gain.relative), "p_value": gain.p_value}


def _as_dict(estimate: Estimate | None) -> Mapping[str, float] | None:
    return estimate._asdict() if estimate else None
