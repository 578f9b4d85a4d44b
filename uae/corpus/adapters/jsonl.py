"""The project's own JSONL: a folder with documents.jsonl and questions.jsonl.

A document is ``{"id", "title", "text"}`` or ``{"id", "title", "sections": [{"title", "text"}]}``, optionally with ``version``
and ``metadata``. Questions: see ``questions_file``.
"""

from pathlib import Path
from typing import Any

from uae.corpus.adapters.questions_file import read_questions
from uae.corpus.reading import optional, read_jsonl, refuse_unknown, want
from uae.corpus.records import RawDocument, Source, join_sections
from uae.io.errors import InputError

_FIELDS = {"id", "title", "text", "sections", "version", "metadata"}
_SECTION_FIELDS = {"title", "text"}


def read(path: str) -> Source:
    folder = Path(path)
    source = Source()
    for where, row in read_jsonl(folder / "documents.jsonl"):
        refuse_unknown(row, _FIELDS, where)
        key = want(row, "id", str, where)
        if key in source.documents or key in source.empty:
            known = source.documents.of(key).where if key in source.documents else source.empty[key]
            raise InputError(f"{where}: the id {key!r} is used already in {known}")
        text, sections = join_sections(_parts(row, where))
        document = RawDocument(
            key=key,
            title=optional(row, "title", str, where),
            text=text,
            sections=sections,
            where=where,
            version=_version(row, where),
            metadata=optional(row, "metadata", dict, where),
        )
        if sections:
            source.documents.append(document)
        else:
            source.empty[key] = where
    source.questions = read_questions(folder / "questions.jsonl", source)
    return source


def _parts(row: dict[str, Any], where: str) -> list[tuple[tuple[str, ...], str]]:
    if "sections" not in row:
        return [((), want(row, "text", str, where, blank=True))]
    if "text" in row:
        raise InputError(f"{where}: give 'text' or 'sections', not both: only one of them would be read")
    parts = [_section(part, f"{where}, section {n}") for n, part in enumerate(want(row, "sections", list, where), 1)]
    if not parts:
        raise InputError(f"{where}: the field 'sections' is empty")
    return parts


def _section(part: Any, where: str) -> tuple[tuple[str, ...], str]:
    title, text = optional(part, "title", str, where), want(part, "text", str, where, blank=True)
    refuse_unknown(part, _SECTION_FIELDS, where)
    return (title,) if title.strip() else (), text


def _version(row: dict[str, Any], where: str) -> str:
    version = row.get("version")
    if isinstance(version, int) and not isinstance(version, bool):
        return str(version)
    return str(optional(row, "version", str, where))
