import pandas as pd
import pytest

from uae.candidates.mine import MINERS, pick
from uae.candidates.miner import Amounts, Pool
from uae.measures.ranking import Ranking

RANKED = [f"p{n:02}" for n in range(20)]  # best first
SCORES = [1 - n / 20 for n in range(20)]


def choose(evidence=(), top_k=3, random=0, question_id="q", seed=13, ranked=RANKED):
    passages = pd.DataFrame({"passage_id": ranked, "doc_id": "d", "text": [f"text {name}" for name in ranked]})
    questions = pd.DataFrame({"question_id": [question_id], "doc_id": ["d"], "text": [f"question {question_id}"]})
    pool = Pool(
        questions,
        passages,
        list(passages["text"]),
        list(passages["text"]),
        "corpus",
        Amounts(top_k, 0, 0, random, gold=True),
        seed,
    )
    ranking = Ranking(question_id, ranked, SCORES[: len(ranked)], range(1, len(ranked) + 1))
    return pick(ranking, list(evidence), {source: opened(pool) for source, opened in MINERS.items()})


def by_source(rows, source):
    return [row["passage_id"] for row in rows if row["source"] == source]


def test_the_best_k_come_with_rank_and_score():
    assert choose(top_k=2) == [
        {"question_id": "q", "passage_id": "p00", "source": "dense", "rank": 1, "score": 1.0},
        {"question_id": "q", "passage_id": "p01", "source": "dense", "rank": 2, "score": 0.95},
    ]


def test_evidence_joins_under_its_own_rank_and_score():
    (gold,) = (row for row in choose(["p09"]) if row["source"] == "gold")
    assert (gold["passage_id"], gold["rank"], gold["score"]) == ("p09", 10, SCORES[9])


def test_evidence_among_the_best_k_stays_dense_and_enters_once():
    rows = choose(["p01", "p09", "p09"])
    assert by_source(rows, "dense") == RANKED[:3]
    assert by_source(rows, "gold") == ["p09"]


def test_evidence_outside_the_scope_is_left_out():
    assert by_source(choose(["elsewhere"]), "gold") == []


def test_random_ones_are_drawn_from_the_rest_and_no_passage_enters_twice():
    rows = choose(["p05"], random=16)
    ids = [row["passage_id"] for row in rows]
    assert sorted(ids) == RANKED
    assert len(by_source(rows, "random")) == 16
    assert "p05" in by_source(rows, "gold")


def test_rows_come_in_order_of_rank():
    ranks = [row["rank"] for row in choose(["p19", "p05"], random=5)]
    assert ranks == sorted(ranks)
    assert len(ranks) == 10


def test_the_draw_is_the_same_again_and_another_for_other_questions_and_seeds():
    draws = {(q, s): tuple(by_source(choose(random=5, question_id=q, seed=s), "random")) for q in "abcd" for s in range(4)}
    assert draws[("a", 0)] == tuple(by_source(choose(random=5, question_id="a", seed=0), "random"))
    assert len(set(draws.values())) == len(draws)


def test_every_passage_of_the_rest_can_be_drawn():
    drawn = {row for n in range(300) for row in by_source(choose(random=2, question_id=f"q{n}"), "random")}
    assert drawn == set(RANKED[3:])


@pytest.mark.parametrize(("top_k", "random"), [(30, 0), (30, 5), (18, 5)])
def test_fewer_passages_than_asked_for_are_all_taken_once(top_k, random):
    assert [row["passage_id"] for row in choose(["p19"], top_k, random)] == RANKED


def test_a_document_of_one_passage():
    assert by_source(choose(["p00"], random=2, ranked=["p00"]), "dense") == ["p00"]


def test_no_passages_give_no_candidates():
    assert choose(["p00"], random=2, ranked=[]) == []
