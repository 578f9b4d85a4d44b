"""Filters by themselves: they find the same documents as a plain walk over all of them."""

import itertools
import json

import numpy as np
import pytest

import uae.index.filters
from uae.index.filters import DocumentFilter
from uae.io.errors import ArtefactError, InputError

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
        [f"d{n}" for n in range(len(ODD))],
        ["s"] * len(ODD),
        [json.dumps({"field": value}) for value in ODD],
        np.arange(len(ODD)),
    )
    for condition in conditions():
        expected = [row for row, value in enumerate(ODD) if passes(value, condition)]
        assert opened.rows({"field": condition}).tolist() == expected, condition


def test_of_several_fields_all_must_hold_and_rows_come_in_order():
    count = 3000
    metadata = [json.dumps({"year": 2000 + n % 20, "tags": [f"t{n % 3}", f"t{n % 5}"]}) for n in range(count)]
    documents = np.random.default_rng(0).integers(0, count, 2 * count)
    opened = DocumentFilter([f"d{n:04}" for n in range(count)], [f"{n % 1000}.md" for n in range(count)], metadata, documents)
    for filters, holds in (
        ({"year": {"gte": 2010}, "tags": "t0"}, lambda n: n % 20 >= 10 and not (n % 3 and n % 5)),
        ({"tags": ["t0", "t1", "t2"], "year": [2003, 2004]}, lambda n: n % 20 in (3, 4)),
        ({"doc_id": {"gte": "d0100", "lte": "d0103"}, "year": {"lte": 2001}}, lambda n: n in (100, 101)),
        ({"doc_id": ["d0007", "d0005", "d0007"]}, lambda n: n in (5, 7)),
        ({"year": 1999}, lambda n: False),
        ({"source": "7.md"}, lambda n: n % 1000 == 7),
        ({"source": ["7.md", "8.md"], "year": 2007}, lambda n: n % 1000 == 7 and n % 20 == 7),
        ({"source": {"gte": "998.md"}}, lambda n: n % 1000 in (998, 999)),
    ):
        rows = opened.rows(filters)
        assert rows.tolist() == [row for row, document in enumerate(documents) if holds(document)]
        assert rows.dtype == np.int64


def test_documents_are_read_once_for_all_filters(monkeypatch):
    count, read = 2000, []
    one_by_one = uae.index.filters.read_metadata
    monkeypatch.setattr(uae.index.filters, "read_metadata", lambda *of: read.append(of[0]) or one_by_one(*of))
    metadata = [json.dumps({"year": 2000 + n % 20, "kind": f"k{n % 40}"}) for n in range(count)]
    opened = DocumentFilter([f"d{n}" for n in range(count)], ["s"] * count, metadata, np.arange(count))
    assert opened.rows({}) is None  # as warming asks
    assert len(read) == count
    for _ in range(3):
        assert len(opened.rows({"year": {"gte": 2010}, "kind": ["k15", "k16"]})) == count // 20
    assert len(read) == count


def test_broken_metadata_are_found_before_anybody_asks_for_them():
    opened = DocumentFilter(["a", "b"], ["s", "s"], ["{}", "[]"], np.arange(2))
    with pytest.raises(ArtefactError, match="'b' are no JSON object"):
        opened.rows({})


def test_a_source_or_id_that_no_document_has_is_an_error():
    opened = DocumentFilter(["a", "b"], ["faq.md", "log.md"], ['{"source": "elsewhere.md"}', "{}"], np.arange(2))
    assert opened.rows({"source": ["log.md", "faq.md"]}).tolist() == [0, 1]
    # The document's own key of that name does not count.
    with pytest.raises(InputError, match=r"there is no document from the source 'elsewhere\.md'"):
        opened.rows({"source": "elsewhere.md"})
    with pytest.raises(InputError, match="there is no document 'c'"):
        opened.rows({"doc_id": ["a", "c"]})
    with pytest.raises(InputError, match="no document has a field 'page' in its metadata; there is doc_id, source"):
        opened.rows({"page": 3})
