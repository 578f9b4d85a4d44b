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
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from uae.io.errors import ArtefactError, InputError

DOC_ID = "doc_id"
_ENDS = ("gte", "lte")
# Up to so many documents, their rows are looked up one document after the other; then all rows are gone through.
_FEW = 64


class DocumentFilter:
    """Finds the documents that pass, and the passages' rows of these.

    Values are sorted once, by the first call of ``rows``; after that a condition costs a search among them and what it finds,
    and no Python for each document.
    """

    def __init__(self, doc_ids: Sequence[str], metadata: Sequence[str], passage_documents: np.ndarray):
        """
        Args:
            metadata: of each document, a JSON object as text.
            passage_documents: each passage's document as a position in ``doc_ids``, shape (rows,).
        """
        self._positions = {doc_id: position for position, doc_id in enumerate(doc_ids)}
        self._metadata = metadata
        self._fields: dict[str, dict[str, _Values]] | None = None
        self._documents = passage_documents
        # All rows sorted by document: those of one lie together, and are found without looking at the others.
        self._sorted = np.argsort(passage_documents, kind="stable")
        self._starts = np.searchsorted(passage_documents[self._sorted], np.arange(len(self._positions) + 1))

    def rows(self, filters: Mapping[str, Any]) -> np.ndarray | None:
        """Row numbers of the passages that may be found, ascending; None: all, for there is no filter.

        Raises:
            InputError: there is no such document or field, or a condition is none of the three forms.
            ArtefactError: a document's metadata are no JSON object.
        """
        if not isinstance(filters, Mapping):
            raise InputError(f"filters: expected an object of fields and conditions, not {type(filters).__name__}")
        if self._fields is None:
            self._fields = _by_field(self._positions, self._metadata)
        passing = None
        for field, condition in filters.items():
            found = self._named(condition) if field == DOC_ID else self._holding(field, condition)
            passing = found if passing is None else passing[self._marked(found)[passing]]
        return None if passing is None else self._rows_of(np.unique(passing))

    def _rows_of(self, documents: np.ndarray) -> np.ndarray:
        if len(documents) <= _FEW:
            parts = [self._sorted[self._starts[position] : self._starts[position + 1]] for position in documents]
            return np.sort(np.concatenate(parts)) if parts else np.empty(0, dtype=np.int64)
        return np.flatnonzero(self._marked(documents)[self._documents])

    def _marked(self, documents: np.ndarray) -> np.ndarray:
        marks = np.zeros(len(self._positions), dtype=bool)
        marks[documents] = True
        return marks

    def _named(self, condition: Any) -> np.ndarray:
        """Positions of the documents whose ids are asked for. An id that is not there is a mistake, not a document to skip."""
        if isinstance(condition, Mapping):
            return _passing(self._fields[DOC_ID], _asked(DOC_ID, condition))
        names = condition if isinstance(condition, list | tuple) else [condition]
        for name in names:
            if not isinstance(name, str) or name not in self._positions:
                raise InputError(f"there is no document {_shown(name)}")
        return np.array([self._positions[name] for name in names], dtype=np.int64)

    def _holding(self, field: str, condition: Any) -> np.ndarray:
        asked = _asked(field, condition)
        if field not in self._fields:
            known = ", ".join([DOC_ID, *sorted(self._fields.keys() - {DOC_ID})][:20])
            raise InputError(f"filters: no document has a field {_shown(field)} in its metadata; there is {known}")
        return _passing(self._fields[field], asked)


class _Values:
    """One field's values of one kind, sorted, and the documents that have each."""

    def __init__(self, values: Sequence[Any], documents: Sequence[int]):
        """
        Args:
            documents: the position of each value's document.
        """
        # Sorted by Python, which compares integers and floats of any size exactly; NumPy would round them.
        self._distinct = sorted(set(values))
        places = {value: place for place, value in enumerate(self._distinct)}
        of_each = np.fromiter(map(places.__getitem__, values), dtype=np.int64, count=len(values))
        order = np.argsort(of_each, kind="stable")
        self._documents = np.asarray(documents, dtype=np.int64)[order]
        self._starts = np.searchsorted(of_each[order], np.arange(len(self._distinct) + 1))

    def within(self, least: Any, most: Any) -> np.ndarray:
        """Positions of the documents with a value from ``least`` to ``most``; None: no such end."""
        first = 0 if least is None else bisect_left(self._distinct, least)
        after = len(self._distinct) if most is None else bisect_right(self._distinct, most)
        return self._documents[self._starts[first] : self._starts[max(first, after)]]

    def equal(self, value: Any) -> np.ndarray:
        return self.within(value, value)


class _Null:
    """The documents whose value is null, which has no order."""

    def __init__(self, documents: Sequence[int]):
        self._documents = np.asarray(documents, dtype=np.int64)

    def equal(self, _: None) -> np.ndarray:
        return self._documents


def _by_field(doc_ids: Sequence[str], metadata: Sequence[str]) -> dict[str, dict[str, _Values | _Null]]:
    """field -> kind of value -> the values and their documents. The ids are a field, too."""
    gathered: dict[str, dict[str, tuple[list[Any], list[int]]]] = {DOC_ID: {}}
    for position, (doc_id, text) in enumerate(zip(doc_ids, metadata, strict=True)):
        for field, value in read_metadata(doc_id, text).items():
            kinds = gathered.setdefault(field, {})
            for each in value if isinstance(value, list) else [value]:
                # What no condition can name: a value within a value, and NaN, which equals nothing and has no place in an order.
                if isinstance(each, list | dict) or each != each:
                    continue
                values, documents = kinds.setdefault(_kind(each), ([], []))
                values.append(each)
                documents.append(position)
    gathered[DOC_ID] = {_kind(""): (list(doc_ids), range(len(doc_ids)))}  # a key of that name in metadata is out of reach
    return {
        field: {
            kind: _Null(documents) if kind == _kind(None) else _Values(values, documents)
            for kind, (values, documents) in kinds.items()
        }
        for field, kinds in gathered.items()
    }


def _passing(kinds: Mapping[str, _Values | _Null], asked: "_Range | list[Any]") -> np.ndarray:
    nobody = np.empty(0, dtype=np.int64)
    if isinstance(asked, _Range):
        return kinds[asked.kind].within(asked.least, asked.most) if asked.kind in kinds else nobody
    parts = [kinds[_kind(value)].equal(value) for value in asked if _kind(value) in kinds]
    return np.concatenate([nobody, *parts])


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


class _Range(NamedTuple):
    kind: str | None  # None: its ends are of two kinds, and nothing lies between them
    least: Any
    most: Any


def _asked(field: str, condition: Any) -> _Range | list[Any]:
    """A condition, checked: a range, or the values any of which will do."""
    if isinstance(condition, Mapping):
        if not condition or set(condition) - set(_ENDS):
            raise InputError(f"filters.{_plain(field)}: a range has gte, lte or both, and nothing else")
        ends = {name: _scalar(field, end) for name, end in condition.items()}
        if any(not isinstance(end, str | int | float) or isinstance(end, bool) for end in ends.values()):
            raise InputError(f"filters.{_plain(field)}: the ends of a range are numbers or strings")
        kinds = {_kind(end) for end in ends.values()}
        return _Range(kinds.pop() if len(kinds) == 1 else None, ends.get("gte"), ends.get("lte"))
    wanted = condition if isinstance(condition, list | tuple) else [condition]
    return [_scalar(field, value) for value in wanted]


def _scalar(field: str, value: Any) -> Any:
    if value is not None and not isinstance(value, str | int | float):
        raise InputError(f"filters.{_plain(field)}: expected a string, a number, true, false or null, not {type(value).__name__}")
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"filters.{_plain(field)}: {value} is no number to compare with")
    return value


def _kind(value: Any) -> str:
    """Values of one kind compare: 1 and 1.0 are equal, 1 and true are not."""
    return "bool" if isinstance(value, bool) else "number" if isinstance(value, int | float) else type(value).__name__


def _shown(value: Any) -> str:
    """A caller's value in a message: in one line, without what a terminal or an encoder would stumble over, and not long."""
    text = ascii(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _plain(field: str) -> str:
    return _shown(field).strip("'\"")
