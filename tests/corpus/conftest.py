"""Small helpers of the corpus tests."""

import json
import shutil
from types import SimpleNamespace

import pytest

from uae.corpus.ingest import ingest
from uae.corpus.repeated_questions import RepeatRule
from uae.io.errors import InputError
from uae.io.tables import DOCUMENTS, LEDGER, PASSAGES, QUESTIONS, read_table

STOP = RepeatRule(drop=False, scope="document", near_duplicate=0.8)
_SPLIT = {"train": 0.5, "validation": 0.25, "test": 0.25}


@pytest.fixture
def write_jsonl():
    def write(path, rows):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


@pytest.fixture
def write_corpus(tmp_path, write_jsonl):
    """Write a folder in the project's own JSONL."""

    def write(documents, questions, name="corpus"):
        write_jsonl(tmp_path / name / "documents.jsonl", documents)
        write_jsonl(tmp_path / name / "questions.jsonl", questions)
        return tmp_path / name

    return write


@pytest.fixture
def sections_of():
    """(title, text) of each section of a document."""
    return lambda document: [(s.title, document.text[s.start : s.end]) for s in document.sections]


@pytest.fixture
def evidence_of():
    """The texts that a question's evidence spans cut out of their documents."""

    def cut_out(source, question):
        texts = {document.key: document.text for document in source.documents}
        return [texts[span.document][span.start : span.end] for span in question.evidence]

    return cut_out


@pytest.fixture
def run_ingest(tmp_path):
    """Run the stage and read its tables back. ``again``: with what the run before left."""

    def run(
        path,
        format="jsonl",
        *,
        max_documents=None,
        passage_words=20,
        split=_SPLIT,
        seed=13,
        skip_empty=False,
        repeated=STOP,
        again=False,
    ):
        out = tmp_path / "out"
        if not again:
            shutil.rmtree(out, ignore_errors=True)
        files = [out / f"{name}.parquet" for name in ("documents", "passages", "questions")]
        report, ledger = out / "ingest.json", out / "ledger.parquet"
        summary = ingest(
            str(path), format, *files, ledger, report, max_documents, passage_words, split, seed, repeated, skip_empty
        )
        documents, passages, questions = (
            read_table(file, schema) for file, schema in zip(files, (DOCUMENTS, PASSAGES, QUESTIONS), strict=True)
        )
        return SimpleNamespace(
            summary=summary,
            report=json.loads(report.read_text(encoding="utf-8")),
            documents=documents,
            passages=passages,
            questions=questions,
            ledger=read_table(ledger, LEDGER),
        )

    return run


@pytest.fixture
def refuse(tmp_path, run_ingest):
    """Check that ingest refuses a source, that its message holds every fragment, and that nothing was written."""

    def check(path, format, *fragments):
        with pytest.raises(InputError) as caught:
            run_ingest(path, format)
        for fragment in fragments:
            assert fragment in str(caught.value)
        assert not list((tmp_path / "out").rglob("*"))

    return check
