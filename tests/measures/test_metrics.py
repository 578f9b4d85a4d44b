"""Every figure is worked out by hand in a comment."""

import math

import ir_measures
import pytest
from ir_measures import AP, RR, Qrel, R, ScoredDoc, nDCG

from uae.measures.metrics import retrieval_metrics

RANKINGS = {"q1": ["a", "b", "c", "d"], "q2": ["c", "d", "a", "b"], "q3": ["b", "a"]}
EVIDENCE = {"q1": ["a"], "q2": ["a", "d"], "q3": ["z"]}


def test_retrieval_metrics():
    table = retrieval_metrics(RANKINGS, EVIDENCE, [1, 2])
    q1, q2, q3 = (table.loc[q] for q in ("q1", "q2", "q3"))
    assert (q1["recall@1"], q1["map"], q1["mrr"], q1["ndcg@10"]) == (1, 1, 1, 1)
    # q2: relevant at places 2 and 3
    assert (q2["recall@1"], q2["recall@2"]) == (0, 0.5)
    assert q2["map"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert q2["mrr"] == pytest.approx(1 / 2)
    ideal = 1 + 1 / math.log2(3)
    assert q2["ndcg@10"] == pytest.approx((1 / math.log2(3) + 1 / math.log2(4)) / ideal)
    assert q3.tolist() == [0] * 5  # its evidence was not retrieved at all


def test_order_is_taken_as_given_however_many_there_are():
    ids = [f"p{n}" for n in range(300)]
    table = retrieval_metrics({"q": ids}, {"q": ["p299"]}, [299, 300])
    assert table.loc["q", ["recall@299", "recall@300"]].tolist() == [0, 1]
    assert table.loc["q", "mrr"] == pytest.approx(1 / 300)


def test_what_stands_behind_the_last_evidence_changes_no_figure():
    """``ir_measures`` itself, given whole rankings."""
    ids = [f"p{n}" for n in range(40)]
    evidence = {"first": ["p0"], "some": ["p3", "p17", "p9", "elsewhere"], "last": ["p39", "p1"], "none": ["elsewhere"]}
    measures = {R @ 5: "recall@5", R @ 30: "recall@30", AP: "map", RR: "mrr", nDCG @ 10: "ndcg@10"}
    qrels = [Qrel(question, passage, 1) for question, known in evidence.items() for passage in known]
    run = [ScoredDoc(question, passage, -float(place)) for question in evidence for place, passage in enumerate(ids)]
    table = retrieval_metrics(dict.fromkeys(evidence, ids), evidence, [5, 30])
    found = {(metric.query_id, measures[metric.measure]): metric.value for metric in ir_measures.iter_calc(measures, qrels, run)}
    assert {key: table.loc[key] for key in found} == found
