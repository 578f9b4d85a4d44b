"""The report of a validation, and the tables that it is about."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from uae.io.errors import ArtefactError
from uae.io.files import read_json, sha256_tree
from uae.io.tables import made_from

Report = dict[str, Any]  # {"success", "tables": {name: hash}, "suites": [...]} and more of questions, as written


def table_hashes(tables: Mapping[str, Path]) -> dict[str, str]:
    """The hash of each table, by name. A table may be a file or a folder of files."""
    return {name: sha256_tree(path) for name, path in tables.items()}


def require_validated(report_path: Path, tables: Mapping[str, Path], stage: str | None = None, scope: str | None = None) -> None:
    """Check that the report is of these very tables. Stages call it before they read what validation has to vouch for.

    Args:
        tables: name -> file, with the names that the report uses.
        stage: that writes the report; None: label for labels, else validate.
        scope: of retrieval now, where the stage goes by it: leakage is another thing over the whole corpus. None: no matter.

    Raises:
        ArtefactError: there is no report, it names no such table, a table was changed after it was validated, or it was
            validated for another scope.
    """
    report = read_json(report_path)
    stage = stage or ("label" if "labels" in tables else "validate")
    again = _again(stage)
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
    if scope is not None and report.get("scope") != scope:
        said = f"is about scope {report['scope']}" if "scope" in report else "does not say which scope it is about"
        raise ArtefactError(f"{report_path} {said}, and scope is {scope} now: leakage is another thing there; {again}")


def require_made_from(table: Path, sources: Mapping[str, Path], stage: str) -> None:
    """Check that a table was made from these very files, by what it says of itself.

    Args:
        sources: name -> file, with the names that the table uses.
        stage: that makes the table.

    Raises:
        ArtefactError: it was made from others, or does not say from which.
    """
    known = made_from(table)
    for name, path in sources.items():
        if known.get(name) != sha256_tree(path):
            said = (
                f"was made from another {name} table than {path}"
                if name in known
                else f"does not say from which {name} it was made"
            )
            raise ArtefactError(f"{table} {said}: {_again(stage)}")


def _again(stage: str) -> str:
    return f"run the stage {stage} again (uae {stage}), and those after it; for a folder of uae run, uae run with its --out"
