"""The expectation suites, one a table, and running them over data frames in memory."""

from __future__ import annotations

import contextlib
import io
import os
from itertools import groupby
from typing import TYPE_CHECKING, Any

import pandas as pd

os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")  # a library must not call home from a user's data pipeline

if TYPE_CHECKING:
    from great_expectations.expectations import Expectation

_SHOWN_ROWS = 20
_SHOWN_LENGTH = 400  # characters of a value: a leak is told in a sentence that names the other side


def document_suite() -> list[Expectation]:
    import great_expectations.expectations as gxe

    return [
        gxe.ExpectTableRowCountToBeBetween(min_value=1),
        gxe.ExpectColumnValuesToBeUnique(column="doc_id"),
        gxe.ExpectColumnValuesToMatchRegex(column="text", regex=r"\S"),
        gxe.ExpectColumnValuesToBeBetween(column="n_passages", min_value=1),
    ]


def passage_suite(min_words: int) -> list[Expectation]:
    import great_expectations.expectations as gxe

    return [
        gxe.ExpectTableRowCountToBeBetween(min_value=2),
        gxe.ExpectColumnValuesToBeUnique(column="passage_id"),
        gxe.ExpectColumnValuesToBeInSet(column="document_known", value_set=[True]),
        gxe.ExpectColumnValuesToBeInSet(column="named_as_document", value_set=[True]),
        gxe.ExpectColumnValuesToBeInSet(column="text_stands_in_document", value_set=[True]),
        gxe.ExpectColumnValuesToBeBetween(column="n_words", min_value=min_words, mostly=0.9),
        gxe.ExpectColumnValuesToBeBetween(column="n_words", min_value=1),
    ]


def question_suite(minimum: dict[str, int], scope: str, require_answers: bool) -> list[Expectation]:
    import great_expectations.expectations as gxe
    from great_expectations.expectations.row_conditions import Column

    suite: list[Expectation] = [
        gxe.ExpectColumnValuesToBeUnique(column="question_id"),
        gxe.ExpectColumnValuesToMatchRegex(column="text", regex=r"\S"),
        gxe.ExpectColumnValuesToBeInSet(column="split", value_set=["train", "validation", "test"]),
        gxe.ExpectColumnValuesToBeInSet(column="answers_filled", value_set=[True]),
        gxe.ExpectColumnValuesToBeInSet(column="document_known", value_set=[True]),
        gxe.ExpectColumnValuesToBeInSet(column="evidence_known", value_set=[True]),
    ]
    if require_answers:  # a question that is trained on needs one for the teacher to judge by
        suite.append(gxe.ExpectColumnValuesToBeBetween(column="n_answers", min_value=1, row_condition=Column("split") != "test"))
    if scope == "document":
        suite.append(gxe.ExpectColumnValuesToMatchRegex(column="doc_id", regex=r"\S"))
        suite.append(gxe.ExpectColumnValuesToBeBetween(column="n_splits_of_document", max_value=1))
    for split, count in minimum.items():
        usable = f"n_{split}_usable"
        suite.append(gxe.ExpectColumnMaxToBeBetween(column=usable, min_value=count))
    return suite


def label_suite() -> list[Expectation]:
    import great_expectations.expectations as gxe

    return [
        gxe.ExpectTableRowCountToBeBetween(min_value=1),
        gxe.ExpectCompoundColumnsToBeUnique(column_list=["question", "passage", "answer_id", "template", "teacher"]),
        gxe.ExpectColumnValuesToNotBeNull(column="nll_sum"),
        gxe.ExpectColumnValuesToBeBetween(column="nll_sum", min_value=0, max_value=1e6),
        gxe.ExpectColumnValuesToBeBetween(column="n_tokens", min_value=1),
    ]


def leakage_suite() -> list[Expectation]:
    import great_expectations.expectations as gxe

    return [
        gxe.ExpectColumnValuesToBeNull(column="repeated_question"),
        gxe.ExpectColumnValuesToBeNull(column="repeated_evidence"),
        gxe.ExpectColumnValuesToBeNull(column="copied_document"),
        gxe.ExpectColumnSumToBeBetween(column="repeated_passage", min_value=0),  # stops nothing: the count is to be seen
    ]


def run_suite(name: str, table: pd.DataFrame, suite: list[Expectation], id_column: str) -> dict[str, Any]:
    """Run a suite over a table.

    Returns:
        ``{"suite", "rows", "success", "expectations": [{"expectation", "column", "limits", "success", "observed", "unexpected",
        "rows", "error"}]}``, where ``rows`` are up to 20 failing rows as ``{id_column, "source", "value"}``.
    """
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    expectations: list[dict[str, Any]] = []
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):  # its progress bars
        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = ProgressBarsConfig(globally=False, metric_calculations=False)
        asset = context.data_sources.add_pandas(name).add_dataframe_asset(name)
        whole = asset.add_batch_definition_whole_dataframe("all")
        # It copies what it looks at, several times, and keeps the copies for each expectation of a run: so it sees one column.
        for columns, group in groupby(suite, _columns):
            batch = whole.get_batch({"dataframe": table[list(columns)] if columns else table})
            wanted = gx.ExpectationSuite(name=name, expectations=list(group))
            result = batch.validate(wanted, result_format={"result_format": "COMPLETE"})
            expectations += [_outcome(outcome, table, id_column) for outcome in result.results]
    return {
        "suite": name,
        "rows": len(table),
        "success": all(outcome["success"] for outcome in expectations),
        "expectations": expectations,
    }


def _columns(expectation: Expectation) -> tuple[str, ...]:
    """What an expectation looks at; empty: maybe everything."""
    if getattr(expectation, "row_condition", None) is not None:
        return ()
    column = getattr(expectation, "column", None)
    return (column,) if column else tuple(getattr(expectation, "column_list", None) or ())


def _outcome(outcome: Any, table: pd.DataFrame, id_column: str) -> dict[str, Any]:
    config, found = outcome.expectation_config, outcome.to_json_dict()["result"] or {}
    column = config.kwargs.get("column") or ", ".join(config.kwargs.get("column_list", []))
    places = [] if outcome.success else list(found.get("unexpected_index_list") or [])
    rows = []
    for place in places[:_SHOWN_ROWS]:
        row = table.iloc[place]
        value = row.get(column) if column in table else None
        rows.append({id_column: str(row[id_column]), "source": str(row.get("source", "")), "value": str(value)[:_SHOWN_LENGTH]})
    error = next(iter((outcome.exception_info or {}).values()), None) if not outcome.success and not found else None
    limits = {k: v for k, v in config.kwargs.items() if k in ("min_value", "max_value", "value_set", "regex") and v is not None}
    return {
        "expectation": config.type,
        "column": column,
        "limits": limits,
        "success": bool(outcome.success),
        "observed": found.get("observed_value"),
        "unexpected": len(places) or int(found.get("unexpected_count") or 0),
        "rows": rows,
        "error": str(error)[:300] if error else None,
    }
