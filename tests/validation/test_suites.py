"""Every expectation fails when what it watches breaks, and the report names suite, column and row."""

import pandas as pd
import pytest

from uae.validation.judging import run_suite
from uae.validation.suites import document_suite, label_suite, leakage_suite, passage_suite, question_suite

SUITES = {
    "documents": (document_suite(), "doc_id"),
    "passages": (passage_suite(3), "passage_id"),
    "questions": (question_suite({"train": 2, "validation": 2, "test": 2}, "document", True), "question_id"),
    "leakage": (leakage_suite(), "item"),
    "labels": (label_suite(), "reading"),
}


def good(suite):
    """Twelve rows that fit; row 0 is a test question, so that places in a part of the table differ from those in the whole."""
    number = range(12)
    columns = {
        "documents": {"doc_id": [f"d{n}" for n in number], "text": "Oil burns.", "n_passages": 1},
        "passages": {
            "passage_id": [f"p{n}" for n in number],
            "document_known": True,
            "named_as_document": True,
            "text_stands_in_document": True,
            "n_words": 3,
        },
        "questions": {
            "question_id": [f"q{n}" for n in number],
            "text": "\nWho trims?",
            "doc_id": [f"d{n}" for n in number],
            "split": ["test", "train", "validation"] * 4,
            "n_answers": [0, 1, 1] * 4,
            "answers_filled": True,
            "document_known": True,
            "evidence_known": True,
            "n_splits_of_document": 1,
            "n_train_usable": 2,
            "n_validation_usable": 2,
            "n_test_usable": 2,
        },
        "leakage": {
            "item": [f"i{n}" for n in number],
            "repeated_question": None,
            "repeated_evidence": None,
            "copied_document": None,
            "repeated_passage": 0,
        },
        "labels": {
            "reading": [f"r{n}" for n in number],
            "question": [f"q{n}" for n in number],
            "passage": "p",
            "answer_id": "a",
            "template": "t",
            "teacher": "m",
            "nll_sum": 2.5,
            "n_tokens": 4,
        },
    }[suite]
    return pd.DataFrame(columns, index=number)


def failures(suite, table):
    expectations, id_column = SUITES[suite]
    report = run_suite(suite, table, expectations, id_column)
    failed = [outcome for outcome in report["expectations"] if not outcome["success"]]
    assert report["suite"] == suite
    assert report["rows"] == len(table)
    assert report["success"] == (not failed)
    assert [outcome["error"] for outcome in report["expectations"]] == [None] * len(expectations)
    return failed


@pytest.mark.parametrize("suite", SUITES)
def test_a_good_table_passes(suite):
    assert failures(suite, good(suite)) == []


BROKEN_VALUES = [
    ("documents", "text", " \n\t", "match_regex"),
    ("documents", "n_passages", 0, "be_between"),
    ("passages", "document_known", False, "be_in_set"),
    ("passages", "named_as_document", False, "be_in_set"),
    ("passages", "text_stands_in_document", False, "be_in_set"),
    ("passages", "n_words", 0, "be_between"),
    ("questions", "text", "  ", "match_regex"),
    ("questions", "split", "dev", "be_in_set"),
    ("questions", "n_answers", 0, "be_between"),
    ("questions", "answers_filled", False, "be_in_set"),
    ("questions", "document_known", False, "be_in_set"),
    ("questions", "evidence_known", False, "be_in_set"),
    ("questions", "doc_id", "", "match_regex"),
    ("questions", "n_splits_of_document", 2, "be_between"),
    ("leakage", "repeated_question", "It is asked in train too.", "be_null"),
    ("leakage", "repeated_evidence", "It stands in train too.", "be_null"),
    ("leakage", "copied_document", "It is in train too.", "be_null"),
    ("labels", "nll_sum", -0.001, "be_between"),
    ("labels", "nll_sum", float("nan"), "not_be_null"),
    ("labels", "nll_sum", float("inf"), "be_between"),
    ("labels", "nll_sum", float("-inf"), "be_between"),
    ("labels", "n_tokens", 0, "be_between"),
]


@pytest.mark.parametrize(("suite", "column", "value", "expectation"), BROKEN_VALUES)
def test_one_wrong_value_fails_one_expectation_and_names_the_row(suite, column, value, expectation):
    table = good(suite)
    table.loc[7, column] = value

    (failed,) = failures(suite, table)

    id_column = SUITES[suite][1]
    assert failed["column"] == column
    assert failed["expectation"] == f"expect_column_values_to_{expectation}"
    assert failed["unexpected"] == 1
    assert [(row[id_column], row["value"]) for row in failed["rows"]] == [(table.loc[7, id_column], str(value))]


@pytest.mark.parametrize(("suite", "column"), [("documents", "doc_id"), ("passages", "passage_id"), ("questions", "question_id")])
def test_an_id_used_twice_names_both_rows(suite, column):
    table = good(suite)
    table.loc[7, column] = table.loc[3, column]
    (failed,) = failures(suite, table)
    assert (failed["column"], failed["expectation"]) == (column, "expect_column_values_to_be_unique")
    assert [row[column] for row in failed["rows"]] == [table.loc[3, column]] * 2


def test_the_same_reading_twice_names_both_rows():
    table = good("labels")
    table.loc[7, "question"] = table.loc[3, "question"]
    (failed,) = failures("labels", table)
    assert failed["column"] == "question, passage, answer_id, template, teacher"
    assert [row["reading"] for row in failed["rows"]] == ["r3", "r7"]


@pytest.mark.parametrize("column", ["passage", "answer_id", "template", "teacher"])
def test_readings_that_differ_in_one_part_are_not_the_same(column):
    table = good("labels")
    table["question"] = "q"
    table[column] = [f"x{n}" for n in range(len(table))]
    assert failures("labels", table) == []


@pytest.mark.parametrize(("suite", "rows"), [("documents", 0), ("passages", 1), ("labels", 0)])
def test_a_table_that_is_too_small_fails(suite, rows):
    (failed,) = failures(suite, good(suite).iloc[:rows])
    assert (failed["column"], failed["expectation"]) == ("", "expect_table_row_count_to_be_between")
    assert failed["observed"] == rows


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_too_few_questions_of_a_split_fail(split):
    table = good("questions").assign(**{f"n_{split}_usable": 1})
    (failed,) = failures("questions", table)
    assert failed["column"] == f"n_{split}_usable"
    assert (failed["observed"], failed["limits"]["min_value"]) == (1, 2)


def test_a_tenth_of_the_passages_may_be_short_but_no_more():
    table = pd.concat([good("passages")] * 2, ignore_index=True).iloc[:20]
    table["passage_id"] = [f"p{n}" for n in range(20)]
    table.loc[[4, 9], "n_words"] = 1
    assert failures("passages", table) == []

    table.loc[14, "n_words"] = 2
    (failed,) = failures("passages", table)
    assert (failed["column"], failed["limits"]["min_value"]) == ("n_words", 3)
    assert [row["passage_id"] for row in failed["rows"]] == ["p4", "p9", "p14"]


def test_repeated_passages_that_are_no_leak_are_counted_and_stop_nothing():
    table = good("leakage")
    table.loc[[2, 5, 7], "repeated_passage"] = 1
    report = run_suite("leakage", table, leakage_suite(), "item")
    assert report["success"]
    assert [outcome["observed"] for outcome in report["expectations"] if outcome["column"] == "repeated_passage"] == [3]


def test_a_message_of_a_sentence_is_shown_whole():
    table = good("leakage")
    message = "test question that asks what is asked in train (questions.jsonl, line 1200): " + "which seal does it need, " * 8
    table.loc[7, "repeated_question"] = message
    (failed,) = failures("leakage", table)
    assert failed["rows"][0]["value"] == message


def test_a_question_may_belong_to_no_document_in_corpus_scope():
    table = good("questions").assign(doc_id="", n_splits_of_document=0)
    expectations = question_suite({"train": 1, "validation": 1, "test": 1}, "corpus", True)
    assert run_suite("questions", table, expectations, "question_id")["success"]


def test_of_many_failing_rows_twenty_are_shown_and_all_counted():
    table = pd.concat([good("documents")] * 3, ignore_index=True)
    table["doc_id"] = [f"d{n}" for n in range(36)]
    table.loc[5:, "n_passages"] = 0
    (failed,) = failures("documents", table)
    assert failed["unexpected"] == 31
    assert [row["doc_id"] for row in failed["rows"]] == [f"d{n}" for n in range(5, 25)]


@pytest.mark.parametrize("suite", ["passages", "leakage"])
def test_a_table_that_comes_in_parts_has_the_same_outcome(suite):
    """Ids that stand twice in one part and in two, a share of all rows, more failing rows than are shown, and a sum."""
    table = pd.concat([good(suite)] * 3, ignore_index=True)
    if suite == "passages":
        table["passage_id"] = [f"p{n}" for n in range(36)]
        table.loc[[2, 3, 35], "passage_id"] = "p1"
        table.loc[[5, 30], "n_words"] = [0, 2]
        table.loc[9:33, "document_known"] = False
    else:
        table.loc[[8, 25], "copied_document"] = ["of the first part", "of the third"]
        table.loc[[8, 26], "repeated_passage"] = 1
    expectations, id_column = SUITES[suite]
    parts = [table.iloc[start : start + 12].reset_index(drop=True) for start in (0, 12, 24)]
    whole = run_suite(suite, table, expectations, id_column)
    assert run_suite(suite, lambda: iter(parts), expectations, id_column) == whole
    shown = {outcome["column"]: len(outcome["rows"]) for outcome in whole["expectations"] if not outcome["success"]}
    assert shown == ({"passage_id": 4, "document_known": 20, "n_words": 1} if suite == "passages" else {"copied_document": 2})
