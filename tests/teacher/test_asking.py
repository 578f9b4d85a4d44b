"""What a teacher is asked about: under each method, in which order, and which questions it cannot be asked."""

import random

import pandas as pd
import pytest
from labelling import TEMPLATE

from uae.io.errors import InputError
from uae.teacher.asking import Asked, sample, scored_texts, wanted
from uae.teacher.keys import answer_id, text_key
from uae.teacher.prompts import Template
from uae.teacher.protocol import Pair

ALONE = Template("{passage}\n", "A question about it:", " {answer}")
PASSAGES = {"pa": "Lamps burn oil.", "pb": "The keeper trims the wick."}
QUESTIONS = pd.DataFrame(
    {
        "question_id": ["q1", "q2", "q3"],
        "text": ["What burns?", "Who trims?", "Not asked?"],
        "answers": [["oil", "lamp oil", "oil"], ["the keeper"], []],
        "source": ["a.jsonl, line 1", "a.jsonl, line 2", "a.jsonl, line 3"],
    }
).set_index("question_id", drop=False)
CANDIDATES = pd.DataFrame(
    [("q2", "pb"), ("q2", "pa"), ("q1", "pb"), ("q1", "pa")], columns=["question_id", "passage_id"], index=[7, 3, 5, 1]
)


KEYS = {"": ""} | {id: text_key(text) for id, text in PASSAGES.items()}
KEYS |= {id: text_key(text) for id, text in zip(QUESTIONS["question_id"], QUESTIONS["text"], strict=True)}
IDS = {key: id for id, key in KEYS.items()}


def asking(method: str, grades: tuple[str, ...] = (), template: Template = TEMPLATE) -> Asked:
    return Asked("main", "T", method, grades, 1.0, (template,), (), lambda: None)


def pairs(asked: Asked, answers_per_question: int = 1, questions: pd.DataFrame = QUESTIONS) -> list[Pair]:
    return list(wanted(asked, asked.templates[0], CANDIDATES, questions, PASSAGES, answers_per_question))


def shape(asked: list[Pair]) -> list[tuple]:
    return [(IDS[pair.key[1]], IDS[pair.key[0]], pair.answer) for pair in asked]


def test_answers_are_asked_first_without_a_passage_then_passage_by_passage():
    got = pairs(asking("answer_likelihood"), 2)
    assert shape(got) == [
        ("", "q1", "oil"), ("", "q1", "lamp oil"), ("", "q2", "the keeper"),
        ("pa", "q1", "oil"), ("pa", "q1", "lamp oil"), ("pa", "q2", "the keeper"),
        ("pb", "q1", "oil"), ("pb", "q1", "lamp oil"), ("pb", "q2", "the keeper"),
    ]  # fmt: skip
    assert got[1] == Pair((KEYS["q1"], "", answer_id("lamp oil"), TEMPLATE.hash, "T"), "What burns?", "lamp oil", None)
    assert got[8] == Pair(
        (KEYS["q2"], KEYS["pb"], answer_id("the keeper"), TEMPLATE.hash, "T"), "Who trims?", "the keeper", PASSAGES["pb"]
    )


def test_the_question_is_asked_for_without_being_told():
    got = pairs(asking("query_likelihood", template=ALONE))
    assert shape(got) == [(p, q, QUESTIONS.at[q, "text"]) for p in ("", "pa", "pb") for q in ("q1", "q2")]
    assert {pair.question for pair in got} == {""}
    assert got[0].key[2] == answer_id("What burns?")


def test_a_judgement_has_no_reading_without_a_passage():
    got = pairs(asking("judgement", (" No", " Yes")))
    assert shape(got) == [(p, q, grade) for p in ("pa", "pb") for q in ("q1", "q2") for grade in (" No", " Yes")]
    assert got[0].question == "What burns?"


@pytest.mark.parametrize(("method", "grades"), [("answer_likelihood", ()), ("query_likelihood", ()), ("judgement", ("a", "b"))])
def test_the_order_of_candidates_and_questions_changes_nothing(method, grades):
    asked = asking(method, grades)
    expected = pairs(asked, 3)
    table, questions = CANDIDATES.sample(frac=1, random_state=1), QUESTIONS.iloc[::-1]
    assert list(wanted(asked, TEMPLATE, table, questions, PASSAGES, 3)) == expected
    assert len({pair.key for pair in expected}) == len(expected)


def test_what_is_asked_depends_on_texts_and_not_on_ids():
    """A passage that stands twice is asked about once, and so is a question; a renamed one has the reading that it had."""
    asked = asking("answer_likelihood")
    passages = {"pa": "Oil burns.", "pb": "Oil burns.", "pc": "The keeper trims."}
    questions = pd.concat(
        [QUESTIONS.loc[["q1", "q2"]], QUESTIONS.loc[["q1"]].assign(question_id="q9").rename(index={"q1": "q9"})]
    )
    table = pd.DataFrame(
        [("q1", "pa"), ("q1", "pb"), ("q1", "pc"), ("q2", "pa"), ("q9", "pa")], columns=["question_id", "passage_id"]
    )
    got = list(wanted(asked, TEMPLATE, table, questions, passages, 1))
    assert [(pair.question, pair.passage) for pair in got] == [
        ("What burns?", None), ("Who trims?", None), ("What burns?", "Oil burns."), ("Who trims?", "Oil burns."),
        ("What burns?", "The keeper trims."),
    ]  # fmt: skip
    renamed = {f"moved-{id}": text for id, text in passages.items()}
    moved = table.assign(passage_id="moved-" + table["passage_id"])
    assert {pair.key for pair in wanted(asked, TEMPLATE, moved, questions, renamed, 1)} == {pair.key for pair in got}


def test_a_method_scores_its_texts_each_once():
    assert scored_texts("answer_likelihood", (), "Q?", ["a", "b", "a", "c"], 3) == ["a", "b"]
    assert scored_texts("query_likelihood", (), "Q?", [], 3) == ["Q?"]
    assert scored_texts("judgement", ("no", "yes"), "Q?", [], 1) == ["no", "yes"]


@pytest.mark.parametrize("answers", [[], ["  "], ["oil", "\n"]], ids=["none", "blank", "one of two blank"])
def test_a_question_without_an_answer_is_named_with_its_source(answers):
    questions = QUESTIONS.copy()
    questions.at["q1", "answers"] = answers
    with pytest.raises(InputError) as caught:
        pairs(asking("answer_likelihood"), 2, questions)
    assert "1 questions have no answer, or a blank one" in str(caught.value)
    assert "'What burns?' (a.jsonl, line 1)" in str(caught.value)
    assert "query_likelihood" in str(caught.value)  # what to do
    assert "Who trims?" not in str(caught.value)


def test_of_many_faulty_questions_some_are_named_and_all_counted():
    number = 40
    ids = [f"q{n:02}" for n in range(number)]
    questions = pd.DataFrame({"text": [f"Why {n}?" for n in range(number)], "answers": [[]] * number,
                              "source": [f"line {n}" for n in range(number)]}, index=ids)  # fmt: skip
    table = pd.DataFrame({"question_id": ids, "passage_id": "pa"})
    with pytest.raises(InputError) as caught:
        list(wanted(asking("answer_likelihood"), TEMPLATE, table, questions, PASSAGES, 1))
    assert str(caught.value).startswith("40 questions have no answer")
    assert str(caught.value).count("line") == 5


@pytest.mark.parametrize(("method", "grades"), [("query_likelihood", ()), ("judgement", ("no", "yes"))])
def test_other_methods_need_no_answers(method, grades):
    questions = QUESTIONS.assign(answers=[[]] * 3)
    assert pairs(asking(method, grades), 1, questions) == pairs(asking(method, grades))


def test_answers_are_told_apart_by_content():
    assert answer_id("oil") == answer_id("oil") != answer_id("Oil")
    assert len(answer_id("oil")) == 16


def questions_of(number: int) -> pd.DataFrame:
    rows = [(f"q{n:03}", f"p{p}") for n in range(number) for p in range(3)]
    random.Random(number).shuffle(rows)
    return pd.DataFrame(rows, columns=["question_id", "passage_id"])


def test_a_sample_is_whole_questions_and_always_the_same():
    table = questions_of(30)
    chosen = sample(table, 10)
    assert chosen["question_id"].nunique() == 10
    assert len(chosen) == 30
    shuffled = sample(table.sample(frac=1, random_state=2), 10)
    assert set(shuffled["question_id"]) == set(chosen["question_id"])
    assert list(chosen.index) == sorted(chosen.index)  # in the candidates' order


def test_a_larger_sample_holds_the_smaller_one():
    table = questions_of(30)
    assert set(sample(table, 10)["question_id"]) < set(sample(table, 11)["question_id"])
    assert len(sample(table, 0)) == 0
    assert len(sample(table, 1000)) == len(table)


def test_most_of_a_sample_stays_when_questions_come_and_go():
    """Else each new document would have the check template read nearly everything anew."""
    table = questions_of(30)
    chosen = set(sample(table, 10)["question_id"])
    gone = min(chosen)
    assert set(sample(table[table["question_id"] != gone], 10)["question_id"]) >= chosen - {gone}
