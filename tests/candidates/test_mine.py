"""The whole stage, with an encoder that counts words in place of a model."""

import numpy as np
import pytest

from uae.candidates import mine as stage
from uae.candidates.miner import Amounts
from uae.io.errors import ArtefactError
from uae.io.tables import CANDIDATES, PASSAGES, QUESTIONS, read_table, write_table
from uae.retrievers import cosine
from uae.text.passage_template import PassageTemplate

WORDS = ["oil", "wick", "horn", "bell", "rope", "clock", "glass", "storm"]


def encode(encoder, texts, kind, progress=""):
    counts = np.array([[text.split().count(word) for word in WORDS] for text in texts], dtype=np.float32)
    counts = counts.reshape(len(texts), len(WORDS)) + 0.01
    return counts / np.linalg.norm(counts, axis=1, keepdims=True)


def passage(doc, position, text):
    start = 100 * position
    place = {"title": "", "source": doc, "position": position, "section": "", "start": start, "end": start + len(text)}
    return {"passage_id": f"{doc}-{position}", "doc_id": doc, "text": text} | place


def question(number, doc, text, split="train", answers=("yes",), evidence=()):
    return {"question_id": f"q{number}", "text": text, "answers": list(answers), "doc_id": doc, "evidence": list(evidence)} | {
        "split": split,
        "origin": "human",
        "source": f"line {number}",
    }


PASSAGE_ROWS = [passage(doc, n, word) for doc in ("d1", "d2") for n, word in enumerate(WORDS)]
QUESTION_ROWS = [
    question(1, "d1", "oil wick", evidence=["d1-5"]),
    question(2, "d2", "bell", split="validation", evidence=["d2-3"]),
    question(3, "d1", "horn", split="test", evidence=["d1-2"]),
    question(4, "d1", "rope", split="test", answers=(), evidence=["d1-4"]),
]


@pytest.fixture
def mine(tmp_path, monkeypatch):
    monkeypatch.setattr(cosine, "encode", encode)
    monkeypatch.setattr(stage, "open_dense", lambda folder, device, vectors: cosine.Dense(None))

    def run(questions=QUESTION_ROWS, scope="document", top_k=2, random=2, gold=True, holding=0, bm25=0, **more):
        passages = more.pop("passages", PASSAGE_ROWS)
        paths = [tmp_path / f"{name}.parquet" for name in ("passages", "questions", "candidates")]
        write_table(paths[0], PASSAGES, passages)
        write_table(paths[1], QUESTIONS, questions)
        summary = stage.mine(*paths, tmp_path, scope, Amounts(top_k, bm25, holding, random, gold), "cpu", 13, **more)
        return summary, read_table(paths[2], CANDIDATES)

    return run


def chosen(table, question_id, source):
    return table.query("question_id == @question_id and source == @source")["passage_id"].tolist()


def test_a_question_without_answers_gets_candidates_too(mine):
    """A query-likelihood teacher needs no answers; where answers are needed, validate has stopped the chain before."""
    _, table = mine([*QUESTION_ROWS, question(5, "d1", "rope", answers=())])
    assert "q5" in set(table["question_id"])


def test_train_and_validation_questions_get_candidates_of_their_document(mine):
    summary, table = mine()
    assert table["question_id"].unique().tolist() == ["q1", "q2"]
    assert sorted(chosen(table, "q1", "dense")) == ["d1-0", "d1-1"]
    assert chosen(table, "q2", "dense")[0] == "d2-3"
    assert all(p.startswith("d1") for p in table[table["question_id"] == "q1"]["passage_id"])
    assert summary["questions"] == 2
    assert summary["candidates"] == len(table) == 9
    assert summary["candidates_by_source"] == {"dense": 4, "random": 4, "gold": 1}


def test_what_bm25_finds_joins_after_what_the_encoder_found(mine):
    """The encoder counts eight words; BM25 knows the others, too. A passage without any of the question's words never joins."""
    asked = [question(1, "d1", "oil lantern")]
    more = [passage("d1", 8, "a lantern hangs here"), passage("d2", 8, "lantern")]
    summary, table = mine(asked, top_k=1, random=0, gold=False, passages=PASSAGE_ROWS + more, bm25=5)
    assert chosen(table, "q1", "dense") == ["d1-0"]
    assert chosen(table, "q1", "bm25") == ["d1-8"]
    assert summary["candidates_by_source"] == {"dense": 1, "bm25": 1}
    over = mine(asked, top_k=1, random=0, gold=False, passages=PASSAGE_ROWS + more, bm25=5, scope="corpus")[1]
    assert sorted(chosen(over, "q1", "bm25")) == ["d1-8", "d2-0", "d2-8"]


def test_bm25_reads_what_models_read(mine):
    rows = [row | {"section": "Lantern"} if row["passage_id"] == "d1-6" else row for row in PASSAGE_ROWS]
    asked = [question(1, "d1", "oil lantern")]
    _, table = mine(asked, top_k=1, random=0, gold=False, bm25=2, passages=rows, read_as=PassageTemplate("{section}\n{text}"))
    assert chosen(table, "q1", "bm25") == ["d1-6"]


def test_gold_joins_only_when_asked_for(mine):
    assert chosen(mine()[1], "q1", "gold") == ["d1-5"]
    _, without = mine(gold=False, random=0)
    assert set(without["source"]) == {"dense"}
    assert "d1-5" not in without["passage_id"].tolist()


def test_what_holds_an_answer_joins_whether_anybody_marked_it_or_not(mine):
    """The passage "d1-8" holds the answer; nobody marked it, and the base encoder finds others nearer."""
    asked = [question(1, "d1", "oil wick", answers=["no", "The blue locker."])]
    more = [passage("d1", 8, "storm lamps lie in the Blue  Locker"), passage("d2", 8, "blue locker")]
    for holding, expected in ((0, []), (2, ["d1-8"])):
        assert chosen(mine(asked, passages=PASSAGE_ROWS + more, holding=holding)[1], "q1", "answer") == expected
    both = mine(asked, passages=PASSAGE_ROWS + more, holding=2, scope="corpus", random=0)[1]
    assert sorted(chosen(both, "q1", "answer")) == ["d1-8", "d2-8"]
    assert len(chosen(mine(asked, passages=PASSAGE_ROWS + more, holding=1, scope="corpus")[1], "q1", "answer")) == 1


def test_one_short_word_or_an_answer_that_stands_everywhere_brings_nothing(mine):
    everywhere = [passage("d1", n, f"lamp {n}: see the blue locker") for n in range(8, 30)]
    for answer in ("storm", "blue locker"):
        _, table = mine([question(1, "d1", "oil", answers=[answer])], passages=PASSAGE_ROWS + everywhere, holding=9)
        assert chosen(table, "q1", "answer") == []


def test_no_pair_is_there_twice(mine):
    _, table = mine(top_k=5, random=3)
    assert not table.duplicated(["question_id", "passage_id"]).any()


def test_corpus_scope_draws_from_all_documents(mine):
    _, table = mine(scope="corpus", top_k=1, random=15)
    assert table.groupby("question_id")["passage_id"].nunique().tolist() == [16, 16]


def test_more_questions_change_no_other_questions_pairs(mine):
    _, before = mine()
    extra = [question(n, "d1", WORDS[n % 8]) for n in range(10, 20)]
    _, after = mine([*extra, *QUESTION_ROWS[::-1]])
    kept = after[after["question_id"].isin(["q1", "q2"])]
    order = ["question_id", "rank"]
    assert before.sort_values(order).to_dict("records") == kept.sort_values(order).to_dict("records")
    assert after["question_id"].nunique() == 12


@pytest.mark.parametrize("questions", [[], QUESTION_ROWS[2:]], ids=["none", "test only"])
def test_nothing_to_label_is_said(mine, questions):
    with pytest.raises(ArtefactError, match=r"questions\.parquet: no question is in the split train or validation"):
        mine(questions)


def test_the_encoder_reads_headings_and_answers_are_looked_for_in_the_text_alone(mine):
    rows = [row | {"text": f"It holds {n}.", "section": f"The {row['text']}"} for n, row in enumerate(PASSAGE_ROWS)]
    asked = [question(1, "d1", "bell", answers=["the bell"])]
    read_as = PassageTemplate("{section}\n{text}")
    _, table = mine(asked, top_k=1, random=0, gold=False, holding=9, passages=rows, read_as=read_as)
    assert table[["passage_id", "source"]].to_numpy().tolist() == [["d1-3", "dense"]]


@pytest.mark.parametrize("scope", ["document", "corpus"])
def test_every_count_at_its_smallest_gives_one_candidate_a_question(mine, scope):
    summary, table = mine(scope=scope, top_k=1, random=0, gold=False, holding=0)
    assert table.groupby("question_id").size().tolist() == [1, 1]
    assert (summary["candidates"], summary["candidates_by_source"]) == (2, {"dense": 2})
    only, table = mine(scope=scope, top_k=1, random=1, holding=1, questions=QUESTION_ROWS[:1], passages=PASSAGE_ROWS[:1])
    assert table["passage_id"].tolist() == ["d1-0"]
    assert only["candidates_per_question"] == 1


def test_questions_without_any_passage_in_their_scope_are_a_clear_error(mine):
    with pytest.raises(ArtefactError, match="no question has a passage in its scope"):
        mine([question(1, "d9", "oil")])
