"""The project's own JSONL: a folder with documents.jsonl and questions.jsonl.

A document is ``{"id", "title", "text"}`` or ``{"id", "title", "sections": [{"title", "text"}]}``, optionally with ``version``
and ``metadata``. Questions: see ``questions_file``.
"""

from pathlib import Path

from uae.corpus.adapters.questions_file import read_questions
from uae.corpus.reading import optional, read_jsonl, refuse_unknown, want
from uae.corpus.records import RawDocument, Source, join_sections
from uae.io.errors import InputError

_FIELDS = {"id", "title", "text", "sections", "version", "metadata"}
_SECTION_FIELDS = {"title", "text"}


def read(path: str) -> Source:
    folder = Path(path)
    documents: dict[str, RawDocument] = {}
    for where, row in read_jsonl(folder / "documents.jsonl"):
        refuse_unknown(row, _FIELDS, where)
        key = want(row, "id", str, where)
        if key in documents:
            raise InputError(f"{where}: the id {key!r} is used already in {documents[key].where}")
        if "sections" in row:
            if "text" in row:
                raise InputError(f"{where}: give 'text' or 'sections', not both: only one of them would be read")
            parts = [_section(part, f"{where}, section {n}") for n, part in enumerate(want(row, "sections", list, where), 1)]
        else:
            parts = [("", want(row, "text", str, where))]
        if not parts:
            raise InputError(f"{where}: the field 'sections' is empty")
        text, sections = join_sections(parts)
        documents[key] = RawDocument(
            key=key,
            title=optional(row, "title", str, where),
            text=text,
            sections=sections,
            where=where,
            version=_version(row, where),
            metadata=optional(row, "metadata", dict, where),
        )
    return Source(list(documents.values()), read_questions(folder / "questions.jsonl", documents))


def _section(part: dict, where: str) -> tuple[str, str]:
    title, text = optional(part, "title", str, where), want(part, "text", str, where)
    refuse_unknown(part, _SECTION_FIELDS, where)
    return title, text


def _version(row: dict, where: str) -> str:
    version = row.get("version")
    if isinstance(version, int) and not isinstance(version, bool):
        return str(version)
    return optional(row, "version", str, where)
