"""Passages that stand in another document too, exactly or nearly, wherever that document's own passages are cut."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from uae.text.words import words

MIN_WORDS = 8  # in a passage: fewer cannot tell a copy from a turn of phrase
MOST_COPIES = 8  # looked up for one passage: text that stands in as many documents is boilerplate
_RUN = 5  # words: rare enough to name a place, short enough to survive small edits
_LISTED = 32  # documents a run of words: common runs cannot tell which document was copied
_PART_SHIFT = np.uint64(60)
_PARTS = 16  # one for each value of the bits that are left
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no word is lost in the product

Numbers = npt.NDArray[Any]  # of hashes (uint64) or of places (int64)


class Copy(NamedTuple):
    passage_id: str
    doc_id: str  # another document that it stands in
    copy_id: str  # the passage there that holds most of it
    share: float  # of the passage's runs of words that stand in doc_id


@dataclass(frozen=True)
class _Document:
    doc_id: str
    group: str
    passage_ids: list[str]  # in their order
    runs: Numbers  # (number of words - 4,) uint64: a hash for the run of words that starts at each word
    starts: Numbers  # (number of passages,): each passage's first word
    ends: Numbers

    def runs_of(self, place: int) -> Numbers:
        """The runs that lie within one passage; none for a passage too short to be judged."""
        start, end = self.starts[place], self.ends[place]
        return self.runs[start : end - _RUN + 1] if end - start >= MIN_WORDS else self.runs[:0]


def find_copies(passages: pd.DataFrame, groups: Mapping[str, str], threshold: float) -> list[Copy]:
    """For each passage, the documents of other groups that hold at least ``threshold`` of its runs of five words.

    This is containment (Broder 1997: On the resemblance and containment of documents) of a passage in a whole document. The
    similarity of two passages would not do: a copy with a new first paragraph is cut at other places, and no two passages need be
    alike. Runs are looked up exactly, by 64-bit hashes; there is no sampling, and so nothing that chance could miss. Time
    and memory grow with the number of words (8 bytes each), not with the number of pairs.

    ``groups`` gives each document's group by id (a split, or the document itself); passages of other documents are left out.
    A passage of fewer than ``MIN_WORDS`` words has no copies, and of one with many the ``MOST_COPIES`` nearest are given.
    The result does not depend on the order of the rows.
    """
    documents = _read(passages, groups)
    shared = _standing_in_two_groups(documents)
    suspects = [
        (document, place)
        for document in documents
        for place in _mostly_within(document, shared, threshold)  # only these can stand in one other document
    ]
    if not suspects:
        return []
    listed = _Listing(documents, _distinct(np.concatenate([document.runs_of(place) for document, place in suspects])))
    found = []
    for document, place in suspects:
        runs = document.runs_of(place)
        copies = []
        for other in listed.nearest(runs, document.group):
            share, copy_id = _compared(runs, other)
            if share >= threshold:
                copies.append(Copy(document.passage_ids[place], other.doc_id, copy_id, share))
            if len(copies) == MOST_COPIES:
                break
        found += copies
    return found


def _read(passages: pd.DataFrame, groups: Mapping[str, str]) -> list[_Document]:
    known = passages[passages["doc_id"].isin(set(groups))].sort_values(["doc_id", "position", "passage_id"])
    documents = []
    for doc_id, rows in known.groupby("doc_id", sort=True):
        parts = [words(text) for text in rows["text"]]
        ends = np.cumsum([len(part) for part in parts])
        starts = np.concatenate([[0], ends[:-1]])
        runs = _hashed([word for part in parts for word in part])
        documents.append(_Document(str(doc_id), groups[str(doc_id)], rows["passage_id"].tolist(), runs, starts, ends))
    return documents


def _hashed(sequence: list[str]) -> Numbers:
    if len(sequence) < _RUN:
        return np.zeros(0, dtype=np.uint64)
    hashes = pd.util.hash_array(np.array(sequence, dtype=object))
    windows = np.lib.stride_tricks.sliding_window_view(hashes, _RUN)
    runs = np.zeros(len(windows), dtype=np.uint64)
    for place in range(_RUN):
        runs = runs * _FACTOR + windows[:, place]
    return runs


def _standing_in_two_groups(documents: list[_Document]) -> Numbers:
    by_group: dict[str, list[Numbers]] = {}
    for document in documents:
        by_group.setdefault(document.group, []).append(document.runs)
    if len(by_group) < 2:
        return np.zeros(0, dtype=np.uint64)
    shared = []
    for part in range(_PARTS):  # of the range of hashes: sorting all at once would take several times the memory of the rest
        distinct = [
            _distinct(np.concatenate([each[each >> _PART_SHIFT == part] for each in of_group])) for of_group in by_group.values()
        ]
        runs = np.sort(np.concatenate(distinct))
        shared.append(_distinct(runs[1:][runs[1:] == runs[:-1]]))
    return np.concatenate(shared)


def _distinct(values: Numbers) -> Numbers:
    """As np.unique, which hashes since NumPy 2.3. Sorting is several times faster here."""
    ordered = np.sort(values)
    return ordered[np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(ordered)])]


def _mostly_within(document: _Document, shared: Numbers, threshold: float) -> list[int]:
    if not len(shared):
        return []
    inside = np.concatenate([[0], np.cumsum(_position(document.runs, shared) >= 0)])
    places = []
    for place, (start, end) in enumerate(zip(document.starts, document.ends, strict=True)):
        number = end - start - _RUN + 1
        if end - start >= MIN_WORDS and inside[start + number] - inside[start] >= threshold * number:
            places.append(place)
    return places


def _position(values: Numbers, ordered: Numbers) -> Numbers:
    """Where each value stands in ``ordered``; -1 for those that do not."""
    places = np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)
    return np.where(ordered[places] == values, places, -1)


def _compared(runs: Numbers, other: _Document) -> tuple[float, str]:
    """The share of the runs that stand in ``other``, and its passage in which most of them begin, the first of several."""
    ordered = _distinct(runs)
    places = _position(other.runs, ordered)
    begun = np.flatnonzero(places >= 0)
    held = np.zeros(len(ordered), dtype=bool)
    held[places[begun]] = True
    passages = np.searchsorted(other.ends, begun, side="right")
    return float(held[np.searchsorted(ordered, runs)].mean()), other.passage_ids[int(np.bincount(passages).argmax())]


class _Listing:
    """Run -> the documents that hold it. Of a run that stands in many, some of every group."""

    def __init__(self, documents: list[_Document], runs: Numbers):
        self.documents, self.runs = documents, runs
        numbers = {group: number for number, group in enumerate(sorted({document.group for document in documents}))}
        self.groups = np.array([numbers[document.group] for document in documents])
        self.numbers = numbers
        held = [_distinct(_position(document.runs, runs)) for document in documents]
        held = [places[places >= 0] for places in held]
        rows = pd.DataFrame(
            {"run": np.concatenate(held), "document": np.repeat(np.arange(len(documents)), [len(places) for places in held])}
        )
        rows["group"] = self.groups[rows["document"]]
        rows["turn"] = rows.groupby(["run", "group"]).cumcount()
        rows = rows.sort_values(["run", "turn", "group"], kind="stable").groupby("run", sort=True).head(_LISTED)
        self.listed = rows["document"].to_numpy()
        self.edges = np.searchsorted(rows["run"].to_numpy(), np.arange(len(runs) + 1))

    def nearest(self, runs: Numbers, group: str) -> list[_Document]:
        """Documents of other groups that hold some of the runs, those with most of them first."""
        places = _distinct(_position(runs, self.runs))
        found = np.concatenate([self.listed[self.edges[place] : self.edges[place + 1]] for place in places])
        found = found[self.groups[found] != self.numbers[group]]
        documents, counts = np.unique(found, return_counts=True)
        order = np.lexsort((documents, -counts))[: 2 * MOST_COPIES]  # twice: common runs are not listed for all
        return [self.documents[number] for number in documents[order]]
