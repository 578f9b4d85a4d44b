"""What makes two test sets the same: figures compare only where this is equal."""

import pandas as pd
import pytest

from uae.evaluation.testset import choose_questions
from uae.evaluation.testset import test_set_hash as set_hash
from uae.io.errors import ArtefactError
from uae.io.tables import PASSAGES, read_table, write_table
from uae.text.stored_passages import StoredPassages

QUESTION = {"question_id": "q1", "doc_id": "d", "text": "How long?", "answers": ["a week"], "evidence": ["p1"], "split": "test"}
PASSAGE = {"passage_id": "p1", "doc_id": "d", "section": "Times", "text": "It takes a week."}


def tables(question=(), passage=(), scope="document"):
    second = QUESTION | {"question_id": "q2"}
    other = PASSAGE | {"passage_id": "p2"}
    return pd.DataFrame([QUESTION | dict(question), second]), pd.DataFrame([PASSAGE | dict(passage), other]), scope


@pytest.mark.parametrize(
    "change",
    [
        {"question": {"text": "How  long?"}},
        {"question": {"answers": ["two weeks"]}},
        {"question": {"answers": ["a week", "7 days"]}},
        {"question": {"evidence": ["p2"]}},
        {"question": {"evidence": ["p1", "p2"]}},
        {"question": {"doc_id": "e"}},
        {"passage": {"text": "It takes 7 days."}},
        {"passage": {"section": "Costs"}},
        {"passage": {"passage_id": "p3"}},
        {"scope": "corpus"},
    ],
    ids=str,
)
def test_whatever_a_figure_depends_on_changes_the_hash(change):
    assert set_hash(*tables(**change)) != set_hash(*tables())


def test_what_no_figure_depends_on_does_not():
    questions, passages, scope = tables()
    same = set_hash(questions.assign(origin="human"), passages[::-1].reset_index(drop=True), scope)
    assert same == set_hash(questions, passages, scope)


def test_one_list_of_two_answers_is_not_two_lists_of_one():
    one, two = ({"answers": ["a", "b"]}, {"answers": ["a"]}), ({"answers": ["a"]}, {"answers": ["b", "a"]})
    frames = [pd.DataFrame([QUESTION | first, QUESTION | second]) for first, second in (one, two)]
    hashes = {set_hash(frame, pd.DataFrame([PASSAGE]), "corpus") for frame in frames}
    assert len(hashes) == 2


def test_without_a_question_to_measure_on_the_split_is_named():
    questions, _, _ = tables()
    with pytest.raises(ArtefactError, match="no validation question with evidence"):
        choose_questions(questions, "validation")


def test_passages_that_are_read_from_their_table_have_the_same_hash(tmp_path):
    place = {"title": "Lamp", "source": "a.md", "position": 0, "section": "Times", "start": 0, "end": 4}
    rows = [place | {"passage_id": name, "doc_id": "d", "text": f"It takes {name}."} for name in ("p3", "p1", "p2")]
    path = tmp_path / "passages.parquet"
    write_table(path, PASSAGES, rows)
    questions = pd.DataFrame([QUESTION])
    assert set_hash(questions, StoredPassages(path), "corpus") == set_hash(questions, read_table(path, PASSAGES), "corpus")
