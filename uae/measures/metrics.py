"""Per-question retrieval metrics by ir-measures (trec_eval's definitions)."""

from collections.abc import Iterator, Mapping, Sequence

import ir_measures
import pandas as pd
from ir_measures import AP, RR, Measure, Qrel, R, ScoredDoc, nDCG

_AT_ONCE = 64  # questions whose rankings are objects of ir-measures together


def retrieval_metric_names(cutoffs: Sequence[int]) -> list[str]:
    """The columns of ``retrieval_metrics``."""
    return list(_measures(cutoffs).values())


def _measures(cutoffs: Sequence[int]) -> dict[Measure, str]:
    return {R @ k: f"recall@{k}" for k in cutoffs} | {AP: "map", RR: "mrr", nDCG @ 10: "ndcg@10"}


def retrieval_metrics(
    rankings: Mapping[str, Sequence[str]], evidence: Mapping[str, Sequence[str]], cutoffs: Sequence[int]
) -> pd.DataFrame:
    """Metrics of each question, one row a question_id.

    Columns: ``recall@k`` (share of the evidence passages among the first k), ``map``, ``mrr``, ``ndcg@10``.

    Args:
        rankings: question_id -> passage_ids, best first. The order is taken as it is: ties are already broken. Each is asked
            for once.
        evidence: question_id -> relevant passage_ids, at least one.
        cutoffs: the k of recall@k.
    """
    names = _measures(cutoffs)
    asked = list(evidence)
    found = [
        (metric.query_id, names[metric.measure], metric.value)
        for start in range(0, len(asked), _AT_ONCE)
        for metric in _measured(rankings, evidence, asked[start : start + _AT_ONCE], list(names))
    ]
    values = pd.DataFrame(found, columns=["question_id", "metric", "value"])
    return values.pivot(index="question_id", columns="metric", values="value")[list(names.values())]


def _measured(
    rankings: Mapping[str, Sequence[str]], evidence: Mapping[str, Sequence[str]], asked: Sequence[str], measures: list[Measure]
) -> Iterator[ir_measures.Metric]:
    qrels = [Qrel(question, passage, 1) for question in asked for passage in evidence[question]]
    run = [
        ScoredDoc(question, passage, float(-place))
        for question in asked
        for place, passage in enumerate(_to_last(rankings[question], set(evidence[question])))
    ]
    yield from ir_measures.iter_calc(measures, qrels, run)


def _to_last(ranked: Sequence[str], relevant: set[str]) -> Sequence[str]:
    """A ranking to its last relevant passage: no measure above tells what stands behind that. At least its first one."""
    places = [place for place, passage in enumerate(ranked) if passage in relevant]
    return ranked[: (places or [0])[-1] + 1]
