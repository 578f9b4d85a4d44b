"""Which questions of two splits are the same, and which copies are left out."""

import pandas as pd
import pytest

from uae.corpus.repeated_questions import RepeatedQuestions, RepeatRule, told
from uae.io.errors import InputError
from uae.io.tables import PASSAGES, QUESTIONS

DROP = RepeatRule(drop=True, scope="corpus", near_duplicate=0.8)


def repeated(*rows, scope="corpus", near_duplicate=0.8):
    """Of questions given as (id, split, text)."""
    empty = {"answers": [], "doc_id": "", "evidence": [], "origin": "human"}
    table = [empty | {"question_id": name, "split": split, "text": text, "source": f"line {name}"} for name, split, text in rows]
    questions = pd.DataFrame(table, columns=QUESTIONS.names)
    return RepeatedQuestions(questions, pd.DataFrame(columns=PASSAGES.names), scope, near_duplicate)


def ids(known, places):
    return [known.rows[place]["question_id"] for place in places]


def dropped(known):
    return {known.rows[place]["question_id"]: known.rows[kept]["question_id"] for place, kept in known.copies().items()}


LONG = "Which seal does the Halden freezer need after its door stood open overnight?"
NEARLY = LONG.replace("overnight", "unattended")


def test_all_groups_are_named_at_once_with_copies_hidden_behind_others():
    known = repeated(
        *(("a", "train", "What is rime?"), ("b", "train", "what is rime"), ("c", "test", "What is rime?!")),
        *(("d", "train", LONG), ("e", "validation", NEARLY)),
        *(("f", "train", "Who reads the gauge?"), ("g", "train", "Who reads the gauge?"), ("h", "test", "What is frost?")),
    )
    assert [ids(known, group) for group in known.groups()] == [["c", "a", "b"], ["e", "d"]]
    said = told(known.listed())
    for part in ("test       c  line c: What is rime?!", "train      b  line b: what is rime", "validation e", "train      d"):
        assert part in said
    assert "gauge" not in said
    assert told(known.listed(), most=1).endswith("\n\n  and 1 more")


def test_where_no_report_is_written_the_error_names_all_of_very_many(write_corpus, run_ingest):
    documents = [{"id": "lamp", "title": "Lamp", "text": "The lamp stands by the door."}]
    asked = {"document": "lamp", "answers": ["by the door"]}
    rows = [asked | {"question": f"Where is number {n}?", "split": split} for n in range(120) for split in ("train", "test")]
    with pytest.raises(InputError) as refused:
        run_ingest(write_corpus(documents, rows))
    assert all(f"Where is number {n}?" in str(refused.value) for n in range(120))


def test_the_training_copies_go_then_those_of_validation_and_test_keeps_its_own():
    known = repeated(("a", "train", LONG), ("b", "validation", LONG), ("c", "test", NEARLY), ("d", "train", LONG))
    assert dropped(known) == {"a": "c", "b": "c", "d": "c"}


def test_a_copy_in_validation_stays_where_only_train_repeats_it():
    assert dropped(repeated(("a", "train", LONG), ("b", "validation", LONG))) == {"a": "b"}


def test_no_question_goes_for_one_that_goes_itself():
    """The chain train - validation - test: each is like the next, but the first is unlike the last."""
    words = [f"w{n}" for n in range(20)]
    first, last = words.copy(), words.copy()
    first[0], last[-1] = "otherwise", "elsewhere"
    texts = [" ".join(text) for text in (first, words, last)]
    rows = [("a", "train", texts[0]), ("b", "validation", texts[1]), ("c", "test", texts[2])]
    assert dropped(repeated(*rows, near_duplicate=0.85)) == {"b": "c"}
    assert dropped(repeated(*rows, near_duplicate=0.7)) == {"a": "c", "b": "c"}


def test_nothing_repeats_within_one_split():
    known = repeated(("a", "train", LONG), ("b", "train", LONG))
    assert known.groups() == []
    assert known.copies() == {}


@pytest.mark.parametrize("scope", ["document", "corpus"])
def test_what_is_left_has_no_repeats(scope):
    rows = [(f"{n}", ("train", "validation", "test")[n % 3], f"{LONG} {' '.join('abcdefgh'[: n % 8])}") for n in range(60)]
    known = repeated(*rows, scope=scope)
    copies = known.copies()
    left = [(row["question_id"], row["split"], row["text"]) for n, row in enumerate(known.rows) if n not in copies]
    assert len(left) + len(copies) == 60
    assert repeated(*left, scope=scope).alike == []
    assert {split for _, split, _ in left} >= {"test"}


def test_ingest_leaves_the_training_copy_out_and_says_so(write_corpus, run_ingest, caplog):
    documents = [{"id": name, "title": name, "text": f"The {name} stands by the door."} for name in ("lamp", "log", "oar", "net")]
    rows = [
        {"question": "Where does it stand?", "document": "lamp", "answers": ["by the door"], "split": "train"},
        {"question": "Where does it stand?", "document": "log", "answers": ["by the door"], "split": "test"},
        {"question": "where does it stand", "document": "oar", "answers": ["by the door"], "split": "validation"},
        {"question": "Who oils it every month?", "document": "net", "answers": ["nobody"], "split": "train"},
        {"question": "Who oils it every month?", "document": "net", "answers": ["nobody"], "split": "test"},
        {"question": "What is a lamp?", "document": "lamp", "answers": ["a light"], "split": "train"},
    ]
    found = run_ingest(write_corpus(documents, rows), repeated=DROP)
    assert found.questions[["split", "text"]].sort_values("text").to_numpy().tolist() == [
        ["train", "What is a lamp?"],
        ["test", "Where does it stand?"],
        ["test", "Who oils it every month?"],
    ]
    assert found.summary["repeated_questions_dropped"] == {"train": 2, "validation": 1}
    told_of = {(row["split"], row["source"][-6:], row["kept"]["source"][-6:]) for row in found.report["dropped_questions"]}
    assert told_of == {("train", "line 1", "line 2"), ("validation", "line 3", "line 2"), ("train", "line 4", "line 5")}
    assert {part["reason"]: part["count"] for part in found.report["left_out"]} == {
        "train question that repeats one of a later split": 2,
        "validation question that repeats one of a later split": 1,
    }
    assert "2 x train question" in caplog.text
