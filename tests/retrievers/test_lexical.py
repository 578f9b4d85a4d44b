"""BM25 by hand.

idf * tf / (tf + k1 (1 - b + b length / mean length)), where idf = log(1 + (N - n + 0.5) / (n + 0.5))
"""

import math
import unicodedata

import pandas as pd
import pytest

from uae.io.errors import InputError
from uae.retrievers.lexical import rank_bm25
from uae.text.passage_template import PassageTemplate

K1, B = 1.2, 0.75


def corpus(*rows: tuple[str, str, str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["passage_id", "doc_id", "text"])


def ask(*rows: tuple[str, str]) -> pd.DataFrame:
    """Text and document of each question."""
    return pd.DataFrame(
        [(f"q{n}", text, doc_id, f"questions.jsonl, line {n}") for n, (text, doc_id) in enumerate(rows, start=1)],
        columns=["question_id", "text", "doc_id", "source"],
    )


def idf(documents: int, having: int) -> float:
    return math.log(1 + (documents - having + 0.5) / (having + 0.5))


def saturated(count: int, length: int, mean: float) -> float:
    return count / (count + K1 * (1 - B + B * length / mean))


# Words: 3 + 4 + 2 + 3, in the mean 3. "the" is a stop word and counts nowhere.
PASSAGES = corpus(
    ("pd", "d1", "Check the blue seal"),
    ("pa", "d1", "Seal, seal, seal and lamp"),
    ("pc", "d2", "lamp oil"),
    ("pb", "d1", "The green door opens"),
)


def test_scores_worked_out_by_hand():
    found = rank_bm25(ask(("the blue seal", "d1")), PASSAGES, "corpus", None)
    ids, scores = found["q1"]
    assert ids == ["pd", "pa", "pb", "pc"]  # the two without a shared word at the end, by id
    assert scores == pytest.approx(
        [
            idf(4, 1) * saturated(1, 3, 3) + idf(4, 2) * saturated(1, 3, 3),  # blue, seal
            idf(4, 2) * saturated(3, 4, 3),
            0,
            0,
        ],
        abs=1e-8,
    )


def test_a_document_is_ranked_with_the_statistics_of_all_passages():
    everywhere = rank_bm25(ask(("seal or lamp", "")), PASSAGES, "corpus", None)["q1"]
    within = rank_bm25(ask(("seal or lamp", "d1")), PASSAGES, "document", None)["q1"]
    assert within[0] == [passage_id for passage_id in everywhere[0] if passage_id != "pc"]
    assert dict(zip(*within, strict=True)).items() <= dict(zip(*everywhere, strict=True)).items()
    assert within[1][0] == pytest.approx(idf(4, 2) * (saturated(3, 4, 3) + saturated(1, 4, 3)), abs=1e-8)


@pytest.mark.parametrize(("depth", "expected"), [(None, 3), (1, 1), (2, 2), (9, 3)])
def test_depth_keeps_the_best_and_a_small_scope_gives_what_it_has(depth, expected):
    ids, scores = rank_bm25(ask(("seal", "d1")), PASSAGES, "document", depth)["q1"]
    assert ids == ["pa", "pd", "pb"][:expected]
    assert len(scores) == expected


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]])
def test_ties_are_broken_by_id_whatever_the_order_of_rows(order):
    passages = corpus(*(("badc"[n], "d1", "the valve is blue and round" if n else "round, blue: the valve is") for n in order))
    ids, scores = rank_bm25(ask(("round blue valve", "d1")), passages, "document", None)["q1"]
    assert ids == ["a", "b", "c", "d"]
    assert len(set(scores)) == 1


def test_rows_may_have_any_index():
    """As they have after a filter: rows are found by place, not by label."""
    shifted = PASSAGES.set_index(pd.Index([7, 3, 9, 4]))
    assert rank_bm25(ask(("lamp", "d2")), shifted, "document", None) == rank_bm25(ask(("lamp", "d2")), PASSAGES, "document", None)


def test_word_forms_and_single_digits_are_found():
    passages = corpus(("p1", "d", "Shelf 4 was sealed"), ("p2", "d", "Shelf 7 seals are stored"), ("p3", "d", "nothing"))
    assert rank_bm25(ask(("storing the seal of shelf 7", "d")), passages, "document", 1)["q1"][0] == ["p2"]
    assert rank_bm25(ask(("4", "d")), passages, "document", 1)["q1"][0] == ["p1"]


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("Das Kühlgerät steht im Flur", "KÜHLGERÄT?"),
        ("la vérification du joint", unicodedata.normalize("NFD", "VÉRIFICATION")),
        ("Дверь закрыта на ключ", "где ключ"),
        ("पानी की टंकी छत पर है", "टंकी"),
        ("备用钥匙在门房", "钥匙在哪里"),
        ("鍵は事務所にある", "鍵はどこ"),
        ("المفتاح في المكتب", "المفتاح؟"),
    ],
)
def test_other_languages_find_their_words(text, question):
    passages = corpus(("p1", "d", "The first one is plain English"), ("p2", "d", text), ("p3", "d", "еще कुछ 其他 andere"))
    ids, scores = rank_bm25(ask((question, "d")), passages, "document", None)["q1"]
    assert ids[0] == "p2"
    assert scores[0] > 0
    assert scores[0] > scores[1]


def test_a_mark_does_not_cut_a_word():
    """The vowel signs of Devanagari are no letters: cut there, these two words would share their pieces."""
    passages = corpus(("p1", "d", "टंकी"), ("p2", "d", "नल"))
    assert rank_bm25(ask(("टाका", "d")), passages, "document", None)["q1"][1] == [0, 0]


@pytest.mark.parametrize("question", ["", "is it the?", "!?", "zebra"])
def test_a_question_without_a_known_word_gives_the_order_of_ids(question):
    assert rank_bm25(ask((question, "d1")), PASSAGES, "document", None)["q1"] == (["pa", "pb", "pd"], [0, 0, 0])


@pytest.mark.parametrize("texts", [["", "..."], ["the", "is"], ["", "blue seal"]])
def test_passages_without_words_are_ranked_as_well(texts):
    passages = corpus(*((f"p{n}", "d", text) for n, text in enumerate(texts)))
    ids, _ = rank_bm25(ask(("blue", "d")), passages, "document", None)["q1"]
    assert ids == (["p1", "p0"] if "blue" in texts[1] else ["p0", "p1"])


def test_a_document_without_passages_and_a_corpus_without_any():
    assert rank_bm25(ask(("seal", "d9")), PASSAGES, "document", None)["q1"] == ([], [])
    assert rank_bm25(ask(("seal", "")), PASSAGES.iloc[:0], "corpus", 5)["q1"] == ([], [])


def test_a_question_without_a_document_is_named_in_document_scope():
    questions = ask(("seal", "d1"), ("lamp", ""), ("door", ""))
    with pytest.raises(InputError, match=r"questions\.jsonl, line 2.* 1 more.*set scope to corpus"):
        rank_bm25(questions, PASSAGES, "document", None)
    assert set(rank_bm25(questions, PASSAGES, "corpus", 2)) == {"q1", "q2", "q3"}


def test_a_heading_that_holds_the_question_is_found_once_it_is_read():
    things = ["winch", "gauge", "hatch", "siren", "crane"]
    passages = pd.DataFrame(
        [
            {"passage_id": f"p{n}", "doc_id": "d", "title": "Repairs", "section": f"Who repairs the {thing}?"}
            | {"text": f"Call number {n} and ask for the {n}. technician."}
            for n, thing in enumerate(things)
        ]
    )
    questions = ask(*[(f"By whom is the {thing} repaired?", "d") for thing in things])

    def right(read: pd.DataFrame) -> int:
        return sum(ids[0] == f"p{n}" for n, (ids, _) in enumerate(rank_bm25(questions, read, "document", 1).values()))

    assert right(passages) == 1  # nothing tells them apart: the first id wins
    assert right(PassageTemplate("{section}\n{text}").applied(passages)) == 5
