"""Running a suite over a table, whole or part by part: the outcome is the same.

Great Expectations copies what it looks at, several times, and keeps the copies for each expectation of a run. So it sees the
columns of one expectation at a time, and of a table in parts one part at a time. Three kinds of expectations are told apart:

- about each row: judged in each part, and counted;
- that a column has no value twice: values that have a hash alone are different. The rows whose hashes stand twice are judged;
- about the table or a column as a whole: judged when the parts are through. Only what it looks at is kept.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from uae.validation.hashes import Hashes, hashes_of, twice

if TYPE_CHECKING:
    from great_expectations.expectations import Expectation

Parts = Callable[[], Iterator[pd.DataFrame]]  # all rows, some at a time, anew with each call; one part at least

_LIMITS = ("min_value", "max_value", "value_set", "regex")
_SHOWN_ROWS = 20
_SHOWN_LENGTH = 400  # characters of a value: a leak is told in a sentence that names the other side


def run_suite(name: str, table: pd.DataFrame | Parts, suite: Sequence[Expectation], id_column: str) -> dict[str, Any]:
    """Run a suite over a table.

    Args:
        table: whole or by parts. Of parts one is in memory at a time, 8 bytes of each row, and the columns that expectations
            about the whole look at.

    Returns:
        ``{"suite", "rows", "success", "expectations": [{"expectation", "column", "limits", "success", "observed", "unexpected",
        "rows", "error"}]}``, where ``rows`` are up to 20 failing rows as ``{id_column, "source", "value"}``.
    """
    parts: Parts = (lambda: iter([table])) if isinstance(table, pd.DataFrame) else table
    found = [_Found(expectation, id_column) for expectation in suite]
    by_row = [each for each in found if not each.of_whole and not each.of_twice]
    hashes: dict[str, list[Hashes]] = {each.column: [] for each in found if each.of_twice}
    kept: dict[int, list[pd.DataFrame]] = {number: [] for number, each in enumerate(found) if each.of_whole}
    rows = 0
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):  # its progress bars
        judge = _judge(name)
        for part in parts():
            rows += len(part)
            for _, group in groupby(by_row, attrgetter("column")):
                judge(part, list(group))
            for column, numbers in hashes.items():
                numbers.append(hashes_of(part[column]))
            for number, frames in kept.items():
                frames.append(part[found[number].kept(part)])
        for number, each in enumerate(found):
            if each.of_twice:
                judge(_with_hash(parts(), each.column, twice(hashes.pop(each.column))), [each])
            elif each.of_whole:
                judge(pd.concat(kept.pop(number), ignore_index=True), [each])
    expectations = [each.outcome() for each in found]
    return {"suite": name, "rows": rows, "success": all(each["success"] for each in expectations), "expectations": expectations}


class _Found:
    """What is known of an expectation, part after part."""

    def __init__(self, expectation: Expectation, id_column: str):
        self.expectation = expectation
        self.column: str = getattr(expectation, "column", None) or ", ".join(getattr(expectation, "column_list", None) or ())
        self._id_column = id_column
        self._outcomes = self._looked_at = self._unexpected = 0
        self._succeeded = True
        self._rows: list[dict[str, str]] = []
        self._last: dict[str, Any] = {}

    @property
    def of_twice(self) -> bool:
        import great_expectations.expectations as gxe

        return isinstance(self.expectation, gxe.ExpectColumnValuesToBeUnique)

    @property
    def of_whole(self) -> bool:
        from great_expectations.expectations.expectation import ColumnMapExpectation

        return self._of_some_rows or not isinstance(self.expectation, ColumnMapExpectation)

    @property
    def _of_some_rows(self) -> bool:
        return getattr(self.expectation, "row_condition", None) is not None

    def columns(self, table: pd.DataFrame) -> list[str]:
        """What it looks at: none for the number of rows. A condition on rows may be about any column."""
        if self._of_some_rows:
            return table.columns.tolist()
        return list(getattr(self.expectation, "column_list", None) or ([self.column] if self.column else []))

    def kept(self, table: pd.DataFrame) -> list[str]:
        """Columns that are needed of a row to judge it and to show it."""
        shown = [self._id_column, "source"] if hasattr(self.expectation, "mostly") else []
        return list(dict.fromkeys([*self.columns(table), *(column for column in shown if column in table)]))

    def add(self, outcome: Any, table: pd.DataFrame) -> None:
        """
        Args:
            outcome: of Great Expectations, on rows that no outcome was of yet.
            table: those rows.
        """
        config, found = outcome.expectation_config, outcome.to_json_dict()["result"] or {}
        self._outcomes += 1
        self._succeeded &= bool(outcome.success)
        self._looked_at += int(found.get("element_count") or 0) - int(found.get("missing_count") or 0)
        self._unexpected += int(found.get("unexpected_count") or 0)
        for place in (found.get("unexpected_index_list") or [])[: _SHOWN_ROWS - len(self._rows)]:
            row = table.iloc[place]
            value = str(row.get(self.column) if self.column in table else None)[:_SHOWN_LENGTH]
            self._rows.append({self._id_column: str(row[self._id_column]), "source": str(row.get("source", "")), "value": value})
        error = next(iter((outcome.exception_info or {}).values()), None) if not outcome.success and not found else None
        limits = {k: v for k, v in config.kwargs.items() if k in _LIMITS and v is not None}
        self._last = {
            "expectation": config.type,
            "column": self.column,
            "limits": limits,
            "observed": found.get("observed_value"),
            "error": self._last.get("error") or (str(error)[:300] if error else None),
        }

    def outcome(self) -> dict[str, Any]:
        success, mostly = self._succeeded, getattr(self.expectation, "mostly", 1)
        if mostly < 1 and self._outcomes > 1 and self._looked_at and not self._last["error"]:
            success = (self._looked_at - self._unexpected) / self._looked_at >= mostly
        told = {"success": success, "unexpected": self._unexpected, "rows": [] if success else self._rows}
        order = ("expectation", "column", "limits", "success", "observed", "unexpected", "rows", "error")
        return {name: (self._last | told)[name] for name in order}


def _judge(name: str) -> Callable[[pd.DataFrame, list[_Found]], None]:
    """What has expectations about the same columns judged on a table, or on a part of it."""
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False, metric_calculations=False)
    whole = context.data_sources.add_pandas(name).add_dataframe_asset(name).add_batch_definition_whole_dataframe("all")

    def judge(table: pd.DataFrame, group: list[_Found]) -> None:
        batch = whole.get_batch({"dataframe": table[group[0].columns(table)]})
        wanted = gx.ExpectationSuite(name=name, expectations=[each.expectation for each in group])
        results = batch.validate(wanted, result_format={"result_format": "COMPLETE"}).results
        for each, outcome in zip(group, results, strict=True):
            each.add(outcome, table)

    return judge


def _with_hash(parts: Iterable[pd.DataFrame], column: str, hashes: Hashes) -> pd.DataFrame:
    """The rows whose value has one of the hashes."""
    if not len(hashes):
        return next(iter(parts)).iloc[:0]
    return pd.concat([part[np.isin(hashes_of(part[column]), hashes)] for part in parts], ignore_index=True)
