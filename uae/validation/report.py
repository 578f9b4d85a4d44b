"""The report of a validation, and the tables that it is about."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from uae.io.errors import ArtefactError
from uae.io.files import read_json, sha256_tree

Report = dict[str, Any]  # {"success", "tables": {name: hash}, "suites": [...]} and more of questions, as written


def table_hashes(tables: Mapping[str, Path]) -> dict[str, str]:
    """The hash of each table, by name. A table may be a file or a folder of files."""
    return {name: sha256_tree(path) for name, path in tables.items()}


def require_validated(report_path: Path, tables: Mapping[str, Path]) -> None:
    """Check that the report is of these very tables. Stages call it before they read what validation has to vouch for.

    Args:
        tables: name -> file, with the names that the report uses (``documents``, ``passages``, ``questions``, or ``labels``).

    Raises:
        ArtefactError: there is no report, it names no such table, or a table was changed after it was validated.
    """
    report = read_json(report_path)
    stage = "label" if "labels" in tables else "validate"
    again = f"run the stage {stage} again (uae {stage})"
    known = report.get("tables") if isinstance(report, dict) else None
    if not isinstance(known, dict):
        raise ArtefactError(f"{report_path} does not say which tables it is about: {again}")
    for name, path in tables.items():
        if name not in known:
            raise ArtefactError(f"{report_path} says nothing about the table {name} ({path}): {again}")
        if known[name] != sha256_tree(path):
            raise ArtefactError(
                f"{path} was changed after it was validated: {report_path} is about another {name} table; {again}"
            )
