"""The project's own questions.jsonl, shared by the ``jsonl`` and ``folder`` formats.

One JSON object a line. ``question`` and ``document`` (an id, or a file's path in the folder) must be there. ``answers``
(list of strings), ``evidence`` (verbatim quotes from the document), ``split`` and ``origin`` are optional. Validation says
whether answers are needed.
"""

import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from uae.corpus.reading import find_quotes, optional_strings, read_jsonl, refuse_unknown, want
from uae.corpus.records import SEPARATOR, RawDocument, RawQuestion, Section, Source, Span
from uae.io.errors import InputError

_FIELDS = {"id", "question", "answers", "document", "evidence", "split", "origin"}
_SPLITS = ("train", "validation", "test")
_SHOWN = 100  # questions in one message
_ORIGINS = ("human", "feedback", "synthetic")


def read_questions(path: Path, source: Source) -> list[RawQuestion]:
    """Read questions over the documents of ``source``. Those about a document without text are counted there.

    Raises:
        InputError: a field is missing or misspelt, an id is used twice, a document is unknown, or a quote is not in it.
    """
    documents = source.documents
    # Unicode can spell the same name in two ways, and a file system may turn one into the other (macOS does).
    spelt = {unicodedata.normalize("NFC", key): key for key in (*source.empty, *documents.keys())}
    spelt |= {key: key for key in (*source.empty, *documents.keys())}  # two documents may be told apart by the spelling alone
    questions: list[RawQuestion] = []
    ids: dict[str | int, str] = {}
    unknown: list[str] = []
    for where, row in read_jsonl(path):
        refuse_unknown(row, _FIELDS, where)
        _check_id(row, ids, where)
        name = row.get("document")
        key = _document(name, spelt)
        if key is None and name is not None:
            unknown.append(f"{where}: there is no document {name!r}")
            continue
        if key in source.empty:
            source.skipped.add("question about a document without text", where)
            continue
        quotes = optional_strings(row, "evidence", where)
        if quotes and key is None:
            raise InputError(f"{where}: evidence is given, but the field 'document' that it quotes is missing")
        questions.append(
            RawQuestion(
                text=want(row, "question", str, where).strip(),
                answers=_answers(row, where),
                document=key,
                evidence=_located(quotes, documents.of(key), where) if quotes and key is not None else (),
                where=where,
                split=_choice(row, "split", _SPLITS, None, where),
                origin=_choice(row, "origin", _ORIGINS, "human", where) or "human",
            )
        )
    _refuse(unknown)
    return questions


def _check_id(row: dict[str, Any], ids: dict[str | int, str], where: str) -> None:
    if "id" not in row:
        return
    if not isinstance(row["id"], str | int):
        raise InputError(f"{where}: the id must be a string or a whole number, not {row['id']!r}")
    if row["id"] in ids:
        raise InputError(f"{where}: the id {row['id']!r} is used already in {ids[row['id']]}")
    ids[row["id"]] = where


def _document(name: object, spelt: dict[str, str]) -> str | None:
    return spelt.get(name, spelt.get(unicodedata.normalize("NFC", name))) if isinstance(name, str) else None


def _refuse(unknown: list[str]) -> None:
    """All at once: a deleted document takes many questions with it."""
    if not unknown:
        return
    many = len(unknown) > 1
    what_to_do = f"correct {'each' if many else 'it'}, or remove the question: a deleted document's questions have to go, too"
    if not many:
        raise InputError(f"{unknown[0]}; {what_to_do}")
    said = f"{len(unknown)} questions name no document that is there; {what_to_do}"
    more = [f"and {len(unknown) - _SHOWN} more"] if len(unknown) > _SHOWN else []
    raise InputError("\n  ".join([said, *unknown[:_SHOWN], *more]))


def _answers(row: dict[str, Any], where: str) -> tuple[str, ...]:
    answers = optional_strings(row, "answers", where)
    if any(not answer.strip() for answer in answers):
        raise InputError(f"{where}: one of the 'answers' is empty; write [] where there is none")
    return tuple(answer.strip() for answer in answers)


def _located(quotes: Sequence[str], document: RawDocument, where: str) -> tuple[Span, ...]:
    return tuple(_locate(quote, document, where) for quote in quotes)


def _locate(quote: str, document: RawDocument, where: str) -> Span:
    """The place of a quote in a section's text, or in a heading or the title: those count for the first text below them."""
    places = find_quotes(document.text, quote)
    for start, end in places:
        if any(section.start < end and start < section.end for section in document.sections):
            return Span(document.key, start, end)
    for section in document.sections:
        if places and section.start >= places[0][1]:
            return _beginning(document, section)
    for section in document.sections:
        if any(find_quotes(heading, quote) for heading in (section.title, *section.title.split(SEPARATOR))):
            return _beginning(document, section)
    if document.sections and find_quotes(document.title, quote):
        return _beginning(document, document.sections[0])
    raise InputError(f"{where}: this evidence is not in the document {document.key!r}: {quote[:80]!r}")


def _beginning(document: RawDocument, section: Section) -> Span:
    """The first character that is no white space: passages begin with one."""
    text = document.text[section.start : section.end]
    start = section.start + len(text) - len(text.lstrip())
    return Span(document.key, start, start + 1)


def _choice(row: dict[str, Any], name: str, allowed: tuple[str, ...], default: str | None, where: str) -> str | None:
    value = row.get(name, default)
    if value is not None and value not in allowed:
        raise InputError(f"{where}: {name} must be one of {', '.join(allowed)}, not {value!r}")
    return value
