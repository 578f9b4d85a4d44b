"""Layers point one way: a room imports only from rooms above it in one table. ``uae`` knows no orchestrator and no server."""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "uae").rglob("*.py"))
# The rooms of uae/ in their order. A room imports only from rooms that stand before it.
ROOMS = (
    "io", "execution", "text", "measures", "vectors", "retrievers", "pages", "corpus", "candidates", "teacher", "validation",
    "training", "index", "release", "evaluation", "registry", "serving", "drift", "pipeline", "experiments", "cli",
)  # fmt: skip
OUTER = {"pipeline", "experiments", "cli"}  # they alone know params.yaml

each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT).as_posix())


def imports(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names} if node.module == "uae" else {node.module or ""}
    return names


def room(file: Path) -> str:
    """The folder of uae/ that the file lies in; none of the root's one file."""
    return file.relative_to(ROOT / "uae").parts[0].removesuffix(".py")


def test_the_root_holds_nothing_but_rooms():
    assert {path.name for path in (ROOT / "uae").iterdir()} - {"__pycache__"} == {*ROOMS, "__init__.py"}


@each_file
def test_a_room_imports_only_from_rooms_before_it(file):
    own = room(file)
    may = set(ROOMS[: ROOMS.index(own) + 1]) if own in ROOMS else set()
    used = {name.split(".")[1] for name in imports(file) if name.startswith("uae.")}
    assert used & set(ROOMS) <= may


@each_file
def test_uae_imports_no_orchestrator_and_no_server(file):
    roots = {name.split(".")[0] for name in imports(file)}
    assert not roots & {"dagster", "dvc", "dvc_data", "bentoml", "dagster_project", "deploy"}


@pytest.mark.parametrize(
    "file", [file for file in FILES if room(file) not in OUTER], ids=lambda file: file.relative_to(ROOT).as_posix()
)
def test_rooms_take_plain_arguments_not_settings(file):
    assert not {name for name in imports(file) if name.startswith("uae.") and name.split(".")[1] in OUTER}


@each_file
def test_nothing_is_unpickled(file):
    assert not imports(file) & {"pickle", "dill", "cloudpickle", "joblib"}


def test_the_docs_show_the_rooms_in_this_order():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert tuple(re.findall(r"^\| `uae/(\w+)/` \|", text, flags=re.MULTILINE)) == ROOMS


def test_no_two_files_of_tests_have_one_name():
    """pytest imports them by their names alone, so helpers beside them can be imported. It would not collect the second one."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name, number in names.items() if number > 1] == []
