"""Every figure is worked out by hand in a comment."""

import math

import pytest

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
