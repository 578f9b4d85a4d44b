"""Utilities against the plain way, a store that an interrupted evaluation goes on with, and figures worked out by hand."""

import math
from dataclasses import replace

import pandas as pd
import pytest
import torch

from uae.evaluation.passage_utility import agreement, ceiling, passage_utilities, ranked_pairs, top_passage_utility
from uae.evaluation.rerank import rerank_by_query_likelihood
from uae.io.errors import ArtefactError, InputError, ModelError
from uae.measures.reranking import reorder
from uae.teacher.asking import Asked
from uae.teacher.engines.local import CausalTeacher, load_causal_lm
from uae.teacher.keys import text_key
from uae.teacher.prompts import Template
from uae.teacher.store import LabelStore

TEMPLATE = Template("Passage: {passage}\n\n", "Question: {question}\nAnswer:", " {answer}")
OTHER = Template("{passage}\n\n", "Q: {question}\nA:", " {answer}")
GENERATING = Template("Passage: {passage}\n\n", "A question that it answers:", " {answer}")
PASSAGES = pd.DataFrame(
    {
        "passage_id": ["p3", "p1", "p2", "p4", "p5"],
        "text": [
            "The lift is serviced in May.",
            "Only the caretaker may start the pump, and he writes down the hour.",
            "The pump stands in the cellar behind a grey door.",
            "In May the garden is open to visitors.",
            "A grey door hides the stairs.",
        ],
    }
)
QUESTIONS = pd.DataFrame(
    [
        ("q1", "Where is the pump?", ["in the cellar", "behind a grey door"], "line 1"),
        ("q2", "When is the lift serviced?", ["in May"], "line 2"),
        ("q3", "Who may start the pump?", [], "line 3"),
    ],
    columns=["question_id", "text", "answers", "source"],
)
PAIRS = pd.DataFrame(
    [("q2", "p3"), ("q1", "p3"), ("q1", "p1"), ("q2", "p4"), ("q1", "p2")], columns=["question_id", "passage_id"]
)
# key in the label store -> id
IDS = {"": ""} | {text_key(row.text): row.passage_id for row in PASSAGES.itertuples()}
IDS |= {text_key(row.text): row.question_id for row in QUESTIONS.itertuples()}


class Counting(CausalTeacher):
    """Remembers what it was asked, and can break down."""

    batches_left = math.inf

    def read(self, batch):
        if self.batches_left == 0:
            raise ModelError("the machine was needed elsewhere")
        self.batches_left -= 1
        self.asked = [*getattr(self, "asked", []), *(tuple(IDS.get(key, key) for key in pair.key[:2]) for pair in batch.pairs)]
        return super().read(batch)


@pytest.fixture(scope="module")
def loaded(tiny_lm):
    return load_causal_lm(tiny_lm, "cpu", "float32")


@pytest.fixture
def make(loaded):
    def make(fingerprint: str = "f" * 64, batch_tokens: int = 512) -> Counting:
        teacher = Counting(*loaded, fingerprint, batch_tokens, 1024, compile=False)
        teacher.asked, teacher.workers = [], 1  # the probe's pairs do not count
        return teacher

    return make


def asking(teacher: CausalTeacher, **changes) -> Asked:
    usual = Asked("judge", teacher.fingerprint, "answer_likelihood", (), 0.5, (TEMPLATE,), (OTHER,), lambda: teacher)
    return replace(usual, **changes)


def utility_of(asked: Asked, store, pairs: pd.DataFrame = PAIRS, answers_per_question: int = 1) -> pd.DataFrame:
    return passage_utilities(asked, pairs, QUESTIONS, PASSAGES, answers_per_question, "mean", "mean", store, 20)


def plain_nll(model, tokenizer, prompt: str, text: str) -> float:
    """Nats per token."""
    start, whole = len(tokenizer(prompt)["input_ids"]), tokenizer(prompt + text)["input_ids"]
    with torch.inference_mode():
        logs = model(torch.tensor([whole])).logits[0].log_softmax(-1)
    return -sum(logs[n - 1, whole[n]].item() for n in range(start, len(whole))) / (len(whole) - start)


def plain_utility(loaded, question_id: str, passage_id: str, answers_per_question: int = 1) -> float:
    text = PASSAGES.set_index("passage_id")["text"][passage_id]
    row = QUESTIONS.set_index("question_id").loc[question_id]
    alone = f"Question: {row['text']}\nAnswer:"
    differences = [
        plain_nll(*loaded, alone, f" {answer}") - plain_nll(*loaded, f"Passage: {text}\n\n{alone}", f" {answer}")
        for answer in row["answers"][:answers_per_question]
    ]
    return sum(differences) / len(differences)


# Utilities


@pytest.mark.parametrize("answers_per_question", [1, 2])
def test_utilities_equal_the_plain_way(loaded, make, tmp_path, answers_per_question):
    found = utility_of(asking(make()), tmp_path / "store", PAIRS, answers_per_question)
    assert found[["question_id", "passage_id"]].equals(PAIRS)
    plain = [plain_utility(loaded, *pair, answers_per_question) for pair in PAIRS.itertuples(index=False)]
    assert found["utility"].tolist() == pytest.approx(plain, abs=1e-5)
    assert found["utility"].nunique() == len(PAIRS)


def test_equal_pairs_are_never_asked_twice(make, tmp_path):
    first, second = make(), make()
    before = utility_of(asking(first), tmp_path / "store", PAIRS.iloc[:3])
    more = utility_of(asking(second), tmp_path / "store")
    assert sorted(first.asked) == [("q1", ""), ("q1", "p1"), ("q1", "p3"), ("q2", ""), ("q2", "p3")]
    assert sorted(second.asked) == [("q1", "p2"), ("q2", "p4")]
    assert more["utility"][:3].tolist() == before["utility"].tolist()

    def load():
        raise AssertionError("there was nothing to ask")

    pd.testing.assert_frame_equal(utility_of(asking(first, open=load), tmp_path / "store"), more)


def test_an_interrupted_evaluation_goes_on(make, tmp_path):
    expected = utility_of(asking(make(batch_tokens=60)), tmp_path / "whole")
    broken, second = make(batch_tokens=60), make(batch_tokens=60)
    broken.batches_left = 3
    with pytest.raises(ModelError, match="needed elsewhere"):
        utility_of(asking(broken), tmp_path / "store")
    held = LabelStore(tmp_path / "store").read()[["question", "passage"]].itertuples(index=False, name=None)
    assert {(IDS[question], IDS[passage]) for question, passage in held} == set(broken.asked) != set()
    found = utility_of(asking(second), tmp_path / "store")
    assert sorted(broken.asked + second.asked) == sorted([("q1", ""), ("q2", ""), *PAIRS.itertuples(index=False, name=None)])
    pd.testing.assert_frame_equal(found, expected)


def test_two_llms_and_two_prompts_share_a_store_and_do_not_mix(make, tmp_path):
    first, second = make("a" * 64), make("b" * 64)
    one = utility_of(asking(first), tmp_path / "store")
    both = utility_of(asking(first, templates=(TEMPLATE, OTHER)), tmp_path / "store")
    other = utility_of(asking(first, templates=(OTHER,)), tmp_path / "store")
    assert both["utility"].tolist() == pytest.approx(((one["utility"] + other["utility"]) / 2).tolist())
    assert sorted(first.asked) == sorted([("q1", ""), ("q2", ""), *PAIRS.itertuples(index=False, name=None)] * 2)
    again = utility_of(asking(second), tmp_path / "store")
    assert len(second.asked) == len(PAIRS) + 2
    assert again["utility"].tolist() == pytest.approx(one["utility"].tolist(), abs=1e-5)


def test_query_likelihood_from_a_store_orders_as_asked_at_once(make, tmp_path):
    rankings = {"q1": (["p5", "p4", "p3", "p2", "p1"], [5.0, 4.0, 3.0, 2.0, 1.0]), "q3": (["p2", "p4"], [1.0, 0.0])}
    asked = asking(make(), method="query_likelihood", templates=(GENERATING,))
    found = utility_of(asked, tmp_path / "store", ranked_pairs([rankings], 4))  # q3 has no answer, and needs none
    values = found.set_index(["question_id", "passage_id"])["utility"].to_dict()
    stored = reorder(rankings, values, 4)
    at_once = rerank_by_query_likelihood(rankings, QUESTIONS, PASSAGES, make(), GENERATING, 4)
    assert {q: ids for q, (ids, _) in stored.items()} == {q: ids for q, (ids, _) in at_once.items()}
    assert stored["q1"][0] != rankings["q1"][0]


def test_a_question_without_an_answer_is_named(make, tmp_path):
    with pytest.raises(InputError, match=r"1 questions have no answer.*'Who may start the pump\?' \(line 3\)"):
        utility_of(asking(make()), tmp_path / "store", pd.DataFrame([("q3", "p1")], columns=PAIRS.columns))


def test_no_pairs_open_no_teacher_and_no_store(tmp_path):
    idle = Asked("judge", "f" * 64, "answer_likelihood", (), 1.0, (TEMPLATE,), (), lambda: 1 / 0)
    found = utility_of(idle, tmp_path / "store", PAIRS.iloc[:0])
    assert list(found) == ["question_id", "passage_id", "utility"]
    assert found.empty
    assert not (tmp_path / "store").exists()


# What is made of them

RANKINGS = {"q1": (["a", "b", "c"], [3.0, 2.0, 1.0]), "q2": (["c", "a"], [1.0, 0.0]), "q3": (["b"], [1.0])}


def table(**questions: dict[str, float]) -> pd.DataFrame:
    rows = [(question, passage, value) for question, values in questions.items() for passage, value in values.items()]
    return pd.DataFrame(rows, columns=["question_id", "passage_id", "utility"])


def test_the_pairs_of_several_rankings_each_once():
    other = {"q1": (["d", "a"], [1.0, 0.0]), "q4": ([], [])}
    assert ranked_pairs([RANKINGS, other], 2).to_dict("records") == [
        {"question_id": question, "passage_id": passage}
        for question, passage in (("q1", "a"), ("q1", "b"), ("q1", "d"), ("q2", "a"), ("q2", "c"), ("q3", "b"))
    ]
    assert list(ranked_pairs([], 2)) == ["question_id", "passage_id"]


def test_the_ceiling_reorders_the_top_by_utility():
    utilities = table(q1={"a": -0.5, "b": 0.75, "c": 9}, q2={"a": 1, "c": 1})
    found = ceiling(RANKINGS, utilities, 2)
    assert found["q1"][0] == ["b", "a", "c"]
    assert found["q2"][0] == ["a", "c"]  # a tie
    assert set(found) == {"q1", "q2"}  # nothing is known of q3
    assert ceiling(RANKINGS, utilities, 20)["q1"][0] == ["c", "b", "a"]


def test_the_utility_of_what_stands_first():
    utilities = table(q1={"a": -0.5, "b": 0.75}, q2={"c": 0.25, "x": 8}, q4={"a": 1})
    found = top_passage_utility(RANKINGS | {"q4": ([], [])}, utilities)
    assert found.to_dict() == {"q1": -0.5, "q2": 0.25}
    assert (found.name, found.index.name) == ("top_utility", "question_id")
    assert top_passage_utility({}, utilities).empty


@pytest.mark.parametrize("work", [lambda utilities: ceiling(RANKINGS, utilities, 2), lambda u: top_passage_utility(RANKINGS, u)])
def test_a_passage_without_a_utility_is_named(work):
    with pytest.raises(ArtefactError, match=r"question q1: 1 of the passages .* first a"):
        work(table(q1={"b": 1, "c": 2}))


def test_agreement_by_hand():
    """1 - 6 sum of squared differences of places / (n (n^2 - 1)): 1, -1, and 1 - 6 * 2 / 24."""
    first = table(
        q1={"a": 1, "b": 2, "c": 3},
        q2={"a": 1, "b": 2, "c": 3, "d": 4},
        q3={"a": 1, "b": 2, "c": 3, "only": 9},
        q4={"a": 1, "b": 2},  # two passages: would be 1 or -1 whatever they are
        q5={"a": 1, "b": 1, "c": 1},  # all alike
        q6={"a": 1, "b": 2, "c": 3},
    )
    second = table(
        q1={"a": -5, "b": 0, "c": 70},
        q2={"a": 4, "b": 3, "c": 2, "d": 1},
        q3={"c": 0.3, "a": 0.2, "b": 0.1, "other": 5},
        q4={"a": 1, "b": 2},
        q5={"a": 1, "b": 2, "c": 3},
        q7={"a": 1, "b": 2, "c": 3},
    )
    found = agreement(first, second, 0.95, 500, 1)
    assert found["spearman"]["mean"] == pytest.approx((1 - 1 + 0.5) / 3)
    assert found["spearman"]["low"] < found["spearman"]["mean"] < found["spearman"]["high"]
    assert (found["questions"], found["undefined"]) == (3, 1)
    assert agreement(second, first, 0.95, 500, 1) == found


def test_agreement_of_nothing_in_common():
    first = table(q1={"a": 1, "b": 2, "c": 3})
    assert agreement(first, table(q2={"a": 1, "b": 2, "c": 3}), 0.95, 100, 1) == {
        "spearman": None, "questions": 0, "undefined": 0,
    }  # fmt: skip


def test_a_pair_that_stands_twice_is_named():
    twice = pd.concat([table(q1={"a": 1}), table(q1={"a": 2})])
    with pytest.raises(ArtefactError, match="'question_id': 'q1', 'passage_id': 'a'"):
        agreement(twice, table(q1={"a": 1}), 0.95, 100, 1)
