"""The project's own questions.jsonl, shared by the ``jsonl`` and ``folder`` formats.

One JSON object a line: ``question``, ``document`` (an id, or a file's path in the folder), and optionally ``answers`` (list of
strings; whether they are needed is for validation to say), ``evidence`` (verbatim quotes from the document), ``split`` and
``origin``.
"""

from pathlib import Path

from uae.corpus.reading import find_quote, optional_strings, read_jsonl, refuse_unknown, want
from uae.corpus.records import RawDocument, RawQuestion, Span
from uae.io.errors import InputError

_FIELDS = {"id", "question", "answers", "document", "evidence", "split", "origin"}
_SPLITS = ("train", "validation", "test")
_ORIGINS = ("human", "feedback", "synthetic")


def read_questions(path: Path, documents: dict[str, RawDocument]) -> list[RawQuestion]:
    """Read questions over ``documents`` (by key).

    Raises:
        InputError: a field is missing or misspelt, an id is used twice, a document is unknown, or a quote is not in it.
    """
    questions, ids = [], {}
    for where, row in read_jsonl(path):
        refuse_unknown(row, _FIELDS, where)
        if "id" in row:
            if not isinstance(row["id"], str | int):
                raise InputError(f"{where}: the id must be a string or a whole number, not {row['id']!r}")
            if row["id"] in ids:
                raise InputError(f"{where}: the id {row['id']!r} is used already in {ids[row['id']]}")
            ids[row["id"]] = where
        key = row.get("document")
        if key is not None and (not isinstance(key, str) or key not in documents):
            raise InputError(f"{where}: there is no document {key!r}")
        questions.append(
            RawQuestion(
                text=want(row, "question", str, where).strip(),
                answers=_answers(row, where),
                document=key,
                evidence=tuple(_locate(quote, key, documents, where) for quote in optional_strings(row, "evidence", where)),
                where=where,
                split=_choice(row, "split", _SPLITS, None, where),
                origin=_choice(row, "origin", _ORIGINS, "human", where),
            )
        )
    return questions


def _answers(row: dict, where: str) -> tuple[str, ...]:
    answers = optional_strings(row, "answers", where)
    if any(not answer.strip() for answer in answers):
        raise InputError(f"{where}: one of the 'answers' is empty; write [] where there is none")
    return tuple(answer.strip() for answer in answers)


def _locate(quote: str, key: str | None, documents: dict[str, RawDocument], where: str) -> Span:
    if key is None:
        raise InputError(f"{where}: evidence is given, but the field 'document' that it quotes is missing")
    span = find_quote(documents[key].text, quote)
    if span is None:
        raise InputError(f"{where}: this evidence is not in the document {key!r}: {quote[:80]!r}")
    return Span(key, *span)


def _choice(row: dict, name: str, allowed: tuple[str, ...], default: str | None, where: str) -> str | None:
    value = row.get(name, default)
    if value is not None and value not in allowed:
        raise InputError(f"{where}: {name} must be one of {', '.join(allowed)}, not {value!r}")
    return value
