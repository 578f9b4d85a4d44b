"""A validation's report vouches for the tables that it was made of, and for no others."""

import pytest

from uae.io.errors import ArtefactError
from uae.io.files import write_json
from uae.validation.report import require_validated, table_hashes

NAMES = ("documents", "passages", "questions")


@pytest.fixture
def tables(tmp_path):
    for name in NAMES:
        (tmp_path / f"{name}.parquet").write_text(f"rows of {name}")
    return {name: tmp_path / f"{name}.parquet" for name in NAMES}


@pytest.fixture
def report(tmp_path, tables):
    write_json(tmp_path / "validation.json", {"success": True, "tables": table_hashes(tables), "suites": []})
    return tmp_path / "validation.json"


def test_the_tables_of_the_report_pass_all_together_or_some_of_them(report, tables):
    require_validated(report, tables)
    require_validated(report, {"passages": tables["passages"]})


def test_the_same_table_may_lie_elsewhere(report, tables, tmp_path):
    require_validated(report, {"passages": tables["passages"].rename(tmp_path / "moved.parquet")})


@pytest.mark.parametrize("name", NAMES)
def test_a_table_that_was_changed_later_is_named(report, tables, name):
    tables[name].write_text("other rows")
    with pytest.raises(ArtefactError, match=rf"{name}\.parquet was changed after it was validated.*uae validate"):
        require_validated(report, tables)


def test_a_folder_of_readings_is_checked_file_by_file(tmp_path):
    store = tmp_path / "labels"
    store.mkdir()
    (store / "part-1.parquet").write_text("one")
    write_json(tmp_path / "report.json", {"tables": table_hashes({"labels": store})})
    require_validated(tmp_path / "report.json", {"labels": store})
    (store / "part-2.parquet").write_text("two")
    with pytest.raises(ArtefactError, match=r"labels was changed after it was validated.*uae label\)"):
        require_validated(tmp_path / "report.json", {"labels": store})


def test_no_report_and_no_table_are_said_so(report, tables, tmp_path):
    with pytest.raises(ArtefactError, match=r"none\.json does not exist"):
        require_validated(tmp_path / "none.json", tables)
    tables["passages"].unlink()
    with pytest.raises(ArtefactError, match=r"passages\.parquet does not exist"):
        require_validated(report, tables)


@pytest.mark.parametrize("content", [{"success": True, "suites": []}, {"tables": None}, [], {"tables": {"documents": "0"}}])
def test_a_report_that_does_not_know_the_table_vouches_for_nothing(tmp_path, tables, content):
    write_json(tmp_path / "old.json", content)
    with pytest.raises(ArtefactError, match=r"old\.json (does not say which|says nothing about).*uae validate"):
        require_validated(tmp_path / "old.json", {"passages": tables["passages"]})
