"""The expectation suites, one a table. ``uae.validation.judging`` runs them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from great_expectations.expectations import Expectation


def document_suite() -> list[Expectation]:
    import great_expectations.expectations as gxe

    return [
        gxe.ExpectTableRowCountToBeBetween(min_value=1),
        gxe.ExpectColumnValuesToBeUnique(column="doc_id"),
        gxe.ExpectColumnValuesToMatchRegex(column="text", regex=r"\S"),
        gxe.ExpectColumnValuesToBeBetween(column="n_passages", min_value=1),
    ]


def passage_suite(min_words: int) -> list[Expectation]:
    import great_expectations.expectations as gxe

    return [
        gxe.ExpectTableRowCountToBeBetween(min_value=2),
        gxe.ExpectColumnValuesToBeUnique(column="passage_id"),
        gxe.ExpectColumnValuesToBeInSet(column="document_known", value_set=[True]),
        gxe.ExpectColumnValuesToBeInSet(column="named_as_document", value_set=[True]),
        gxe.ExpectColumnValuesToBeInSet(column="text_stands_in_document", value_set=[True]),
        gxe.ExpectColumnValuesToBeBetween(column="n_words", min_value=min_words, mostly=0.9),
        gxe.ExpectColumnValuesToBeBetween(column="n_words", min_value=1),
    ]


def question_suite(minimum: dict[str, int], scope: str, require_answers: bool) -> list[Expectation]:
    import great_expectations.expectations as gxe
    from great_expectations.expectations.row_conditions import Column

    suite: list[Expectation] = [
        gxe.ExpectColumnValuesToBeUnique(column="question_id"),
        gxe.ExpectColumnValuesToMatchRegex(column="text", regex=r"\S"),
        gxe.ExpectColumnValuesToBeInSet(column="split", value_set=["train", "validation", "test"]),
        gxe.ExpectColumnValuesToBeInSet(column="answers_filled", value_set=[True]),
        gxe.ExpectColumnValuesToBeInSet(column="document_known", value_set=[True]),
        gxe.ExpectColumnValuesToBeInSet(column="evidence_known", value_set=[True]),
    ]
    if require_answers:  # a question that is trained on needs one for the teacher to judge by
        suite.append(gxe.ExpectColumnValuesToBeBetween(column="n_answers", min_value=1, row_condition=Column("split") != "test"))
    if scope == "document":
        suite.append(gxe.ExpectColumnValuesToMatchRegex(column="doc_id", regex=r"\S"))
        suite.append(gxe.ExpectColumnValuesToBeBetween(column="n_splits_of_document", max_value=1))
    for split, count in minimum.items():
        usable = f"n_{split}_usable"
        suite.append(gxe.ExpectColumnMaxToBeBetween(column=usable, min_value=count))
    return suite


def label_suite() -> list[Expectation]:
    import great_expectations.expectations as gxe

    return [
        gxe.ExpectTableRowCountToBeBetween(min_value=1),
        gxe.ExpectCompoundColumnsToBeUnique(column_list=["question", "passage", "answer_id", "template", "teacher"]),
        gxe.ExpectColumnValuesToNotBeNull(column="nll_sum"),
        gxe.ExpectColumnValuesToBeBetween(column="nll_sum", min_value=0, max_value=1e6),
        gxe.ExpectColumnValuesToBeBetween(column="n_tokens", min_value=1),
    ]


def leakage_suite() -> list[Expectation]:
    import great_expectations.expectations as gxe

    return [
        gxe.ExpectColumnValuesToBeNull(column="repeated_question"),
        gxe.ExpectColumnValuesToBeNull(column="repeated_evidence"),
        gxe.ExpectColumnValuesToBeNull(column="copied_document"),
        gxe.ExpectColumnSumToBeBetween(column="repeated_passage", min_value=0),  # stops nothing: the count is to be seen
    ]
