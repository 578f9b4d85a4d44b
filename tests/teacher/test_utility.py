import pandas as pd
import pytest

from uae.errors import ArtefactError
from uae.teacher.utility import answer_id, utilities

QUESTIONS = pd.DataFrame({"question_id": ["q"], "answers": [["four", "4 years"]]})
CANDIDATES = pd.DataFrame({"question_id": ["q", "q"], "passage_id": ["p1", "p2"]})


def reading(passage: str, answer: str, nll: float, tokens: int = 2, template: str = "t", teacher: str = "T") -> dict:
    return {
        "question_id": "q", "passage_id": passage, "answer_id": answer_id(answer), "template": template,
        "teacher": teacher, "nll_sum": nll, "n_tokens": tokens, "truncated": False,
    }  # fmt: skip


LABELS = pd.DataFrame([
    reading("", "four", 6.0), reading("p1", "four", 2.0), reading("p2", "four", 8.0),
    reading("", "4 years", 9.0, 3), reading("p1", "4 years", 3.0, 3), reading("p2", "4 years", 9.0, 3),
])  # fmt: skip


def test_utility_is_nll_without_minus_nll_with_per_token():
    got = utilities(LABELS, CANDIDATES, QUESTIONS, 1, "T", ["t"]).set_index("passage_id")["utility"]
    assert got.to_dict() == {"p1": 3.0 - 1.0, "p2": 3.0 - 4.0}


def test_several_answers_are_averaged():
    got = utilities(LABELS, CANDIDATES, QUESTIONS, 2, "T", ["t"]).set_index("passage_id")["utility"]
    assert got.to_dict() == {"p1": (2.0 + 2.0) / 2, "p2": (-1.0 + 0.0) / 2}


def test_readings_of_others_do_not_count():
    foreign = [
        reading("p1", "four", 99.0, template="u"),
        reading("p1", "four", 99.0, teacher="U"),
        reading("p1", "an old answer", 99.0),
    ]
    got = utilities(pd.concat([LABELS, pd.DataFrame(foreign)]), CANDIDATES, QUESTIONS, 1, "T", ["t"])
    assert got["utility"].tolist() == [2.0, -1.0]


@pytest.mark.parametrize("missing", [0, 1])
def test_missing_reading_is_an_error(missing):
    with pytest.raises(ArtefactError, match="readings are missing"):
        utilities(LABELS.drop(index=missing), CANDIDATES, QUESTIONS, 1, "T", ["t"])
