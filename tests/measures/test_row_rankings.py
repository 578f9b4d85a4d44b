"""Rankings held as rows are those of ids, whatever is made of them."""

import numpy as np
import pandas as pd
import pytest

from uae.evaluation.fused import strongest_untrained
from uae.measures.fusion import RANKS, SCORES, Fusion, aligned_rows, fuse, reciprocal_rank_fusion
from uae.measures.ranking import Table, best_first
from uae.measures.row_rankings import RowRankings, held

PASSAGES = 60
TABLE = Table.of(pd.Series([f"p{n:02}" for n in np.random.default_rng(3).permutation(PASSAGES)]))
QUESTIONS = [f"q{n}" for n in range(5)]


def of(seed, passages, least=0):
    """Rankings with many ties. The rows are not in the order of their ids."""
    rng = np.random.default_rng(seed)
    found = {}
    for question_id in QUESTIONS:
        scores = np.full(PASSAGES, -1.0)
        scores[passages] = rng.integers(least, least + 6, len(passages)) / 8
        order = best_first(scores, TABLE.by_id, len(passages))
        found[question_id] = held(order, scores[order])
    return RowRankings(TABLE, found)


DENSE, WORDS = of(1, np.arange(5, 45), -2), of(2, np.arange(5, 45))


def lists(rankings):
    """The same without rows."""
    return {question_id: rankings[question_id] for question_id in rankings}


def test_they_are_read_as_ids_and_scores():
    ids, scores = DENSE["q1"]
    assert len(DENSE) == len(QUESTIONS)
    assert list(DENSE) == QUESTIONS
    assert [TABLE.ids[row].decode() for row in DENSE.rows("q1")[0]] == ids
    assert sorted(zip(scores, ids, strict=True), key=lambda one: (-one[0], one[1])) == list(zip(scores, ids, strict=True))
    assert DENSE.rows("q1")[0].dtype == np.int32


def test_some_questions_and_first_places():
    assert lists(DENSE.only(["q3", "q0"])) == {question_id: DENSE[question_id] for question_id in ("q3", "q0")}
    assert lists(DENSE.cut(7)) == {question_id: (ids[:7], scores[:7]) for question_id, (ids, scores) in DENSE.items()}
    with pytest.raises(KeyError):
        DENSE.only(["q3"])["q0"]


@pytest.mark.parametrize("fusion", [Fusion(SCORES, 0.5), Fusion(SCORES, 0.0), Fusion(RANKS, 2.0)])
def test_they_fuse_as_ids_do(fusion):
    fused = fuse(DENSE, WORDS, fusion)
    assert isinstance(fused, RowRankings)
    assert lists(fused) == fuse(lists(DENSE), lists(WORDS), fusion)


def test_places_of_other_passages_fuse_as_ids_do():
    others = of(4, np.arange(20, 60))
    fused = reciprocal_rank_fusion([DENSE, others])
    assert isinstance(fused, RowRankings)
    assert lists(fused) == reciprocal_rank_fusion([lists(DENSE), lists(others)])


def test_the_same_fusion_is_chosen():
    chosen_on = pd.DataFrame({"question_id": QUESTIONS[:3], "evidence": [[TABLE.ids[7 + n].decode()] for n in range(3)]})
    ranked, facts = strongest_untrained(DENSE, WORDS, chosen_on, QUESTIONS[3:])
    wanted, of_lists = strongest_untrained(lists(DENSE), lists(WORDS), chosen_on, QUESTIONS[3:])
    assert facts == of_lists
    assert lists(ranked) == lists(wanted)


def test_rows_of_other_passages_or_of_another_table_cannot_be_fused():
    with pytest.raises(ValueError, match="same passages"):
        fuse(DENSE, of(2, np.arange(40)), Fusion(SCORES, 1.0))
    with pytest.raises(ValueError, match="one table"):
        aligned_rows(DENSE, RowRankings(Table(*TABLE), {question_id: WORDS.rows(question_id) for question_id in WORDS}))
