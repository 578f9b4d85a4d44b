"""Filters on documents: which rows of the passages a search may find.

    {"year": 2024}                        equal
    {"source": ["manual.md", "faq.md"]}   any of these
    {"date": {"gte": "2024-05-01"}}       a range, ends included: gte, lte or both

A field is ``doc_id``, ``source`` or a top-level key of the documents' metadata. The first two name the document itself: metadata
keys of these names cannot be filtered by. An id or a source that no document has is an error, because it is a mistake.

Of several fields all must hold. A document whose value is a list (of tags, say) passes if any of its elements does. A document
without the field does not pass. Numbers compare with numbers, strings with strings by their code points (which orders ISO dates),
and true is not 1.
"""

import json
import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from uae.io.errors import ArtefactError, InputError

DOC_ID, SOURCE = "doc_id", "source"
_ENDS = ("gte", "lte")
# Up to so many documents, their rows are looked up one document after the other; then all rows are gone through.
_FEW = 64

Rows = npt.NDArray[np.int64]


class DocumentFilter:
    """Finds the documents that pass, and the passages' rows of these.

    Values are sorted once, by the first call of ``rows``; after that a condition costs a search among them and what it finds,
    and no Python for each document.
    """

    def __init__(self, doc_ids: Sequence[str], sources: Sequence[str], metadata: Sequence[str], passage_documents: Rows):
        """
        Args:
            doc_ids: of each document, all different.
            sources: of each document: the file or id that its user knows it by.
            metadata: of each document, a JSON object as text.
            passage_documents: each passage's document as a position in ``doc_ids``, shape (rows,).
        """
        self._doc_ids, self._sources, self._metadata = doc_ids, sources, metadata
        self._fields: _Fields | None = None
        self._documents = passage_documents
        # All rows sorted by document: those of one lie together, and are found without looking at the others.
        self._sorted = np.argsort(passage_documents, kind="stable")
        self._starts = np.searchsorted(passage_documents[self._sorted], np.arange(len(doc_ids) + 1))

    def rows(self, filters: Mapping[str, Any]) -> Rows | None:
        """Row numbers of the passages that may be found, ascending; None: all, for there is no filter.

        Raises:
            InputError: there is no such document or field, or a condition is none of the three forms.
            ArtefactError: a document's metadata are no JSON object.
        """
        if not isinstance(filters, Mapping):
            raise InputError(f"filters: expected an object of fields and conditions, not {type(filters).__name__}")
        if self._fields is None:
            self._fields = _by_field(self._doc_ids, self._sources, self._metadata)
        passing: Rows | None = None
        for field, condition in filters.items():
            found = _documents_passing(self._fields, field, condition)
            passing = found if passing is None else passing[self._marked(found)[passing]]
        return None if passing is None else self._rows_of(np.unique(passing))

    def _rows_of(self, documents: Rows) -> Rows:
        if len(documents) <= _FEW:
            parts = [self._sorted[self._starts[position] : self._starts[position + 1]] for position in documents]
            return np.sort(np.concatenate(parts)) if parts else np.empty(0, dtype=np.int64)
        return np.flatnonzero(self._marked(documents)[self._documents])

    def _marked(self, documents: Rows) -> npt.NDArray[np.bool_]:
        marks = np.zeros(len(self._doc_ids), dtype=bool)
        marks[documents] = True
        return marks


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

    def within(self, least: Any, most: Any) -> Rows:
        """Positions of the documents with a value from ``least`` to ``most``; None: no such end."""
        first = 0 if least is None else bisect_left(self._distinct, least)
        after = len(self._distinct) if most is None else bisect_right(self._distinct, most)
        return self._documents[self._starts[first] : self._starts[max(first, after)]]

    def equal(self, value: Any) -> Rows:
        return self.within(value, value)


class _Null:
    """The documents whose value is null, which has no order."""

    def __init__(self, documents: Sequence[int]):
        self._documents = np.asarray(documents, dtype=np.int64)

    def within(self, least: Any, most: Any) -> Rows:
        return self._documents[:0]

    def equal(self, _: Any) -> Rows:
        return self._documents


_Fields = dict[str, dict[str, _Values | _Null]]  # field -> kind of value -> the values and their documents


def _by_field(doc_ids: Sequence[str], sources: Sequence[str], metadata: Sequence[str]) -> _Fields:
    gathered: dict[str, dict[str, tuple[list[Any], list[int]]]] = {}
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
    # Last, so that they stand in the place of metadata keys of the same names.
    for field, names in ((DOC_ID, doc_ids), (SOURCE, sources)):
        gathered[field] = {_kind(""): (list(names), list(range(len(doc_ids))))}
    return {
        field: {
            kind: _Null(documents) if kind == _kind(None) else _Values(values, documents)
            for kind, (values, documents) in kinds.items()
        }
        for field, kinds in gathered.items()
    }


def _documents_passing(fields: _Fields, field: str, condition: Any) -> Rows:
    """Positions of the documents that pass one field's condition."""
    asked = _asked(field, condition)
    if field not in fields:
        known = ", ".join([DOC_ID, SOURCE, *sorted(fields.keys() - {DOC_ID, SOURCE})][:20])
        raise InputError(f"filters: no document has a field {_shown(field)} in its metadata; there is {known}")
    if field in (DOC_ID, SOURCE) and not isinstance(asked, _Range):
        for value in asked:
            if not len(_passing(fields[field], [value])):
                named = f"document {_shown(value)}" if field == DOC_ID else f"document from the source {_shown(value)}"
                raise InputError(f"there is no {named}")
    return _passing(fields[field], asked)


def _passing(kinds: Mapping[str, _Values | _Null], asked: "_Range | list[Any]") -> Rows:
    nobody = np.empty(0, dtype=np.int64)
    if isinstance(asked, _Range):
        found = None if asked.kind is None else kinds.get(asked.kind)
        return nobody if found is None else found.within(asked.least, asked.most)
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
