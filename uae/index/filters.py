"""Filters on documents: which rows of the passages a search may find.

    {"year": 2024}                        equal
    {"doc_id": ["a", "b"]}                any of these
    {"date": {"gte": "2024-05-01"}}       a range, ends included: gte, lte or both

A field is ``doc_id`` or a top-level key of the documents' metadata. Of several fields all must hold. A document whose value is a
list (of tags, say) passes if any of its elements does; one without the field does not pass. Numbers compare with numbers, strings
with strings by their code points (which orders ISO dates), and true is not 1.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from uae.errors import ArtefactError, InputError

DOC_ID = "doc_id"
_ENDS = ("gte", "lte")


class DocumentFilter:
    """Finds the documents that pass, and the passages' rows of these."""

    def __init__(self, doc_ids: Sequence[str], metadata: Sequence[str], passage_documents: np.ndarray):
        """
        Args:
            metadata: of each document, a JSON object as text; read when a filter first asks for it.
            passage_documents: each passage's document as a position in ``doc_ids``, shape (rows,).
        """
        self._positions = {doc_id: position for position, doc_id in enumerate(doc_ids)}
        self._metadata = metadata
        self._fields: dict[str, dict[int, Any]] | None = None
        self._documents = passage_documents
        # All rows sorted by document: those of one lie together, and are found without looking at the others.
        self._sorted = np.argsort(passage_documents, kind="stable")
        self._starts = np.searchsorted(passage_documents[self._sorted], np.arange(len(self._positions) + 1))

    def rows(self, filters: Mapping[str, Any]) -> np.ndarray | None:
        """Row numbers of the passages that may be found, ascending; None: all, for there is no filter.

        Raises:
            InputError: there is no such document or field, or a condition is none of the three forms.
        """
        if not isinstance(filters, Mapping):
            raise InputError(f"filters: expected an object of fields and conditions, not {type(filters).__name__}")
        passing = None
        for field, condition in filters.items():
            found = self._named(condition) if field == DOC_ID else self._holding(field, condition)
            passing = found if passing is None else passing & found
        if passing is None:
            return None
        if len(passing) <= 8:
            parts = [self._sorted[self._starts[position] : self._starts[position + 1]] for position in sorted(passing)]
            return np.sort(np.concatenate(parts)) if parts else np.empty(0, dtype=np.int64)
        allowed = np.zeros(len(self._positions), dtype=bool)
        allowed[list(passing)] = True
        return np.flatnonzero(allowed[self._documents])

    def _named(self, condition: Any) -> set[int]:
        """Positions of the documents whose ids are asked for. An id that is not there is a mistake, not a document to skip."""
        if isinstance(condition, Mapping):
            check = _check(DOC_ID, condition)
            return {position for doc_id, position in self._positions.items() if check(doc_id)}
        names = condition if isinstance(condition, list | tuple) else [condition]
        for name in names:
            if not isinstance(name, str) or name not in self._positions:
                raise InputError(f"there is no document {_shown(name)}")
        return {self._positions[name] for name in names}

    def _holding(self, field: str, condition: Any) -> set[int]:
        if self._fields is None:
            self._fields = _by_field(self._positions, self._metadata)
        check = _check(field, condition)
        if field not in self._fields:
            known = ", ".join([DOC_ID, *sorted(self._fields)][:20])
            raise InputError(f"filters: no document has a field {_shown(field)} in its metadata; there is {known}")
        return {
            position
            for position, value in self._fields[field].items()
            if (any(map(check, value)) if isinstance(value, list) else check(value))
        }


def _by_field(doc_ids: Sequence[str], metadata: Sequence[str]) -> dict[str, dict[int, Any]]:
    """field -> position of each document that has it -> its value."""
    fields: dict[str, dict[int, Any]] = {}
    for position, (doc_id, text) in enumerate(zip(doc_ids, metadata, strict=True)):
        for field, value in read_metadata(doc_id, text).items():
            fields.setdefault(field, {})[position] = value
    return fields


def read_metadata(doc_id: str, text: str) -> dict[str, Any]:
    """
    Raises:
        ArtefactError: it is no JSON object.
    """
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ArtefactError(f"the metadata of document {doc_id!r} are no JSON object: run the ingest stage again")
    return value


def _check(field: str, condition: Any) -> Callable[[Any], bool]:
    if isinstance(condition, Mapping):
        if not condition or set(condition) - set(_ENDS):
            raise InputError(f"filters.{_plain(field)}: a range has gte, lte or both, and nothing else")
        ends = {name: _scalar(field, end) for name, end in condition.items()}
        if any(not isinstance(end, str | int | float) or isinstance(end, bool) for end in ends.values()):
            raise InputError(f"filters.{_plain(field)}: the ends of a range are numbers or strings")
        return lambda value: all(_within(value, name, end) for name, end in ends.items())
    wanted = condition if isinstance(condition, list | tuple) else [condition]
    keys = {_key(_scalar(field, value)) for value in wanted}
    return lambda value: not isinstance(value, list | dict) and _key(value) in keys


def _scalar(field: str, value: Any) -> Any:
    if value is not None and not isinstance(value, str | int | float):
        raise InputError(f"filters.{_plain(field)}: expected a string, a number, true, false or null, not {type(value).__name__}")
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"filters.{_plain(field)}: {value} is no number to compare with")
    return value


def _key(value: Any) -> tuple[str, Any]:
    """1 and 1.0 are equal, 1 and true are not."""
    kind = "bool" if isinstance(value, bool) else "number" if isinstance(value, int | float) else type(value).__name__
    return kind, value


def _within(value: Any, name: str, end: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, str | int | float) or isinstance(value, str) != isinstance(end, str):
        return False
    return value >= end if name == "gte" else value <= end


def _shown(value: Any) -> str:
    """A caller's value in a message: in one line, without what a terminal or an encoder would stumble over, and not long."""
    text = ascii(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _plain(field: str) -> str:
    return _shown(field).strip("'\"")
