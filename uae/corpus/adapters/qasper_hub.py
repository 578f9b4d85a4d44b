"""QASPER as the hub serves it (``hf:allenai/qasper@REVISION``, or a local .jsonl of such rows).

The hub turned lists of objects into objects of lists. Here they are turned back, and read as the release is.
"""

from typing import Any

from uae.corpus.adapters.qasper import Paper, paper_of, source_of
from uae.corpus.hub import hub_rows
from uae.corpus.reading import want
from uae.corpus.records import Source
from uae.io.errors import InputError


def read(path: str) -> Source:
    return source_of(_from_row(row, split, where) for row, split, where in hub_rows(path))


def _from_row(row: dict[str, Any], split: str | None, where: str) -> Paper:
    key = want(row, "id", str, where)
    sections = _rows(row, "full_text", ("section_name", "paragraphs"), where)
    questions = _rows(row, "qas", ("question", "answers"), where)
    for question in questions:
        answers = want(question["answers"], "answer", list, f"{where}, question {question['question']!r:.60}")
        question["answers"] = [{"answer": answer} for answer in answers]
    return paper_of(key, row | {"full_text": sections, "qas": questions}, where)._replace(split=split)


def _rows(row: dict[str, Any], name: str, columns: tuple[str, str], where: str) -> list[dict[str, Any]]:
    """The list of objects that stands in ``row`` as an object of lists."""
    table: dict[str, Any] = want(row, name, dict, where)
    lists: list[list[Any]] = [want(table, column, list, f"{where}, {name}") for column in columns]
    if len(set(map(len, lists))) > 1:
        raise InputError(f"{where}, {name}: the lists {' and '.join(map(repr, columns))} are of unequal length")
    return [dict(zip(columns, values, strict=True)) for values in zip(*lists, strict=True)]
