"""The bundled corpus holds what its README says."""

import json
import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest

SAMPLE = Path(__file__).resolve().parent.parent / "data" / "sample"
QUESTIONS = [json.loads(line) for line in (SAMPLE / "questions.jsonl").read_text(encoding="utf-8").splitlines()]
DOCUMENTS = {p.relative_to(SAMPLE).as_posix(): p.read_text(encoding="utf-8") for p in (SAMPLE / "documents").glob("*.md")}


def words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def test_size():
    assert len(DOCUMENTS) == 36
    assert len(QUESTIONS) == 468
    assert Counter(q["split"] for q in QUESTIONS) == {"train": 208, "validation": 52, "test": 208}
    assert all(1500 < len(text.split()) < 2000 for text in DOCUMENTS.values())


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda q: q["id"])
def test_answer_is_in_its_evidence_and_the_evidence_once_in_its_document(question):
    (quote,) = question["evidence"]
    assert DOCUMENTS[question["document"]].count(quote) == 1
    assert f" {words(question['answers'][0])} " in f" {words(quote)} "


def test_no_document_is_in_two_splits():
    splits = defaultdict(set)
    for question in QUESTIONS:
        splits[question["document"]].add(question["split"])
    assert set(splits) == set(DOCUMENTS)
    assert all(len(names) == 1 for names in splits.values())


def test_no_question_is_asked_twice():
    repeated = [text for text, count in Counter(words(q["question"]) for q in QUESTIONS).items() if count > 1]
    assert repeated == []


def test_no_paragraph_stands_twice():
    """Templates would show here: the same paragraph in two documents, or twice in one."""
    paragraphs = Counter(words(p) for text in DOCUMENTS.values() for p in text.split("\n\n") if len(p.split()) > 12)
    assert [p for p, count in paragraphs.items() if count > 1] == []
