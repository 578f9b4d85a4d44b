"""Every count of ingest and validate at its smallest legal value ends in tables and a report, or in an error of ours."""

import itertools

import pytest

from uae.io.errors import ValidationFailed
from uae.validation.validate import validate

ONE = {"train": 1, "validation": 1, "test": 1}


@pytest.fixture
def corpus(write_corpus):
    """One document a split, each of one short sentence."""
    documents = [{"id": key, "text": f"The {key} weighs {n} kilos."} for n, key in enumerate(("lamp", "horn", "bell"), 7)]
    questions = [
        {"question": f"What does the {d['id']} weigh?", "answers": ["kilos"], "document": d["id"], "evidence": ["kilos"]}
        for d in documents
    ]
    return write_corpus(documents, questions)


@pytest.mark.parametrize("max_documents", [1, None])
@pytest.mark.parametrize("split", [dict(zip(ONE, shares, strict=True)) for shares in set(itertools.permutations((1, 0, 0)))])
def test_one_document_and_splits_of_nothing(corpus, run_ingest, max_documents, split):
    found = run_ingest(corpus, max_documents=max_documents, passage_words=20, split=split)
    wanted = next(name for name, share in split.items() if share)
    assert set(found.questions["split"]) == {wanted}
    assert len(found.documents) == len(found.passages) == (max_documents or 3)


def test_a_single_passage_can_be_ingested(write_corpus, run_ingest):
    found = run_ingest(write_corpus([{"id": "a", "text": "x"}], [{"question": "?", "document": "a"}]), max_documents=1)
    assert found.passages["text"].tolist() == ["x"]
    assert found.summary["words_per_passage"] == 1


def test_validation_at_its_smallest_values(corpus, run_ingest, tmp_path):
    third = {"train": 0.34, "validation": 0.33, "test": 0.33}
    run_ingest(corpus, split=third)
    tables = [tmp_path / "out" / f"{name}.parquet" for name in ("documents", "passages", "questions")]
    assert validate(*tables, tmp_path / "report.json", "document", 1, ONE, True, 1.0)["success"]


def test_the_smallest_threshold_of_near_duplicates_is_compared_with(corpus, run_ingest, tmp_path):
    """Nearly everything is alike then: a report and a message, no crash."""
    run_ingest(corpus, split={"train": 0.34, "validation": 0.33, "test": 0.33})
    tables = [tmp_path / "out" / f"{name}.parquet" for name in ("documents", "passages", "questions")]
    with pytest.raises(ValidationFailed, match="repeated_question"):
        validate(*tables, tmp_path / "report.json", "corpus", 1, ONE, True, 0.05)


def test_one_document_is_too_little_to_validate_and_that_is_said(corpus, run_ingest, tmp_path):
    run_ingest(corpus, max_documents=1)
    tables = [tmp_path / "out" / f"{name}.parquet" for name in ("documents", "passages", "questions")]
    with pytest.raises(ValidationFailed) as caught:
        validate(*tables, tmp_path / "report.json", "document", 1, ONE, True, 0.8)
    assert "passages.table: expect_table_row_count_to_be_between(min_value=2)" in str(caught.value)
