"""The project's own JSONL: a folder with documents.jsonl and questions.jsonl.

A document is ``{"id", "title", "text"}`` or ``{"id", "title", "sections": [{"title", "text"}]}``, optionally with ``version``
and ``metadata``. Questions: see ``questions_file``.
"""

from pathlib import Path

from uae.corpus.questions_file import read_questions
from uae.corpus.reading import read_jsonl, want
from uae.corpus.records import RawDocument, Source, join_sections
from uae.errors import InputError


def read(path: str) -> Source:
    folder = Path(path)
    documents: dict[str, RawDocument] = {}
    for where, row in read_jsonl(folder / "documents.jsonl"):
        key = want(row, "id", str, where)
        if key in documents:
            raise InputError(f"{where}: the id {key!r} is used already in {documents[key].where}")
        if "sections" in row:
            parts = [(str(part.get("title", "")), want(part, "text", str, where)) for part in want(row, "sections", list, where)]
        else:
            parts = [("", want(row, "text", str, where))]
        text, sections = join_sections(parts)
        documents[key] = RawDocument(
            key=key,
            title=str(row.get("title", "")),
            text=text,
            sections=sections,
            where=where,
            version=str(row.get("version", "")),
            metadata=row.get("metadata") or {},
        )
    return Source(list(documents.values()), read_questions(folder / "questions.jsonl", documents))
