"""Filters by themselves: the same documents as a plain walk over all of them, and none of its time."""

import itertools
import json
import time

import numpy as np
import pytest

import uae.index.filters
from uae.index.filters import DocumentFilter
from uae.io.errors import ArtefactError

# Values that are easily taken for one another, or lost in an array of floats.
ODD = [
    0, 1, 1.0, True, False, None, 2.5, -0.0, 2**53, 2**53 + 1, float(2**53), 10**30, float("inf"), float("nan"), "", "1", "a",
    "ab", "é", "\ud800", "2024-05-01", {"a": 1}, [], [1, "a"], [[1]], [None, True], [{"a": 1}, 3], [1, 5],
]  # fmt: skip
ASKED = [value for value in ODD if not isinstance(value, list | dict) and value == value and value != float("inf")]


def passes(value, condition) -> bool:
    """One document, read as the module's first lines say it."""
    if isinstance(value, list):
        return any(passes(each, condition) for each in value if not isinstance(each, list))
    if isinstance(condition, dict):
        return all(
            type(value) in ((str,) if isinstance(end, str) else (int, float))
            and (value >= end if name == "gte" else value <= end)
            for name, end in condition.items()
        )
    return any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in condition)


def conditions():
    yield from ([value] for value in ASKED)
    yield from (list(pair) for pair in itertools.pairwise(ASKED))
    ends = [value for value in ASKED if value is not None and not isinstance(value, bool)]
    for least, most in itertools.product(ends, ends):
        yield {"gte": least, "lte": most}
    yield from ({name: end} for end in ends for name in ("gte", "lte"))


def test_odd_values_pass_as_they_do_one_by_one():
    opened = DocumentFilter(
        [f"d{n}" for n in range(len(ODD))], [json.dumps({"field": value}) for value in ODD], np.arange(len(ODD))
    )
    for condition in conditions():
        expected = [row for row, value in enumerate(ODD) if passes(value, condition)]
        assert opened.rows({"field": condition}).tolist() == expected, condition


def test_of_several_fields_all_must_hold_and_rows_come_in_order():
    count = 3000
    metadata = [json.dumps({"year": 2000 + n % 20, "tags": [f"t{n % 3}", f"t{n % 5}"]}) for n in range(count)]
    documents = np.random.default_rng(0).integers(0, count, 2 * count)
    opened = DocumentFilter([f"d{n:04}" for n in range(count)], metadata, documents)
    for filters, holds in (
        ({"year": {"gte": 2010}, "tags": "t0"}, lambda n: n % 20 >= 10 and not (n % 3 and n % 5)),
        ({"tags": ["t0", "t1", "t2"], "year": [2003, 2004]}, lambda n: n % 20 in (3, 4)),
        ({"doc_id": {"gte": "d0100", "lte": "d0103"}, "year": {"lte": 2001}}, lambda n: n in (100, 101)),
        ({"doc_id": ["d0007", "d0005", "d0007"]}, lambda n: n in (5, 7)),
        ({"year": 1999}, lambda n: False),
    ):
        rows = opened.rows(filters)
        assert rows.tolist() == [row for row, document in enumerate(documents) if holds(document)]
        assert rows.dtype == np.int64


def test_documents_are_read_once_and_then_a_filter_takes_no_time_for_each_of_them(monkeypatch):
    count, read = 50_000, []
    one_by_one = uae.index.filters.read_metadata
    monkeypatch.setattr(uae.index.filters, "read_metadata", lambda *of: read.append(of[0]) or one_by_one(*of))
    metadata = [json.dumps({"year": 2000 + n % 20, "kind": f"k{n % 40}"}) for n in range(count)]
    opened = DocumentFilter([f"d{n}" for n in range(count)], metadata, np.arange(count))
    started = time.perf_counter()
    assert opened.rows({}) is None  # as warming asks
    first = time.perf_counter() - started
    assert len(read) == count
    started = time.perf_counter()
    for _ in range(10):
        assert len(opened.rows({"year": {"gte": 2010}, "kind": ["k15", "k16"]})) == count // 20
    assert time.perf_counter() - started < first  # one by one, each of the ten would take about half as long as reading
    assert len(read) == count


def test_broken_metadata_are_found_before_anybody_asks_for_them():
    opened = DocumentFilter(["a", "b"], ["{}", "[]"], np.arange(2))
    with pytest.raises(ArtefactError, match="'b' are no JSON object"):
        opened.rows({})
