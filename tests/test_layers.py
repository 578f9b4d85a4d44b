"""One-way layers: ``uae`` knows neither the orchestrator, nor DVC, nor the server; inner rooms know no settings."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "uae").rglob("*.py"))
OUTER = {"pipeline", "experiments", "cli"}


def imports(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.relative_to(ROOT).as_posix())
def test_uae_imports_no_orchestrator_and_no_server(file):
    roots = {name.split(".")[0] for name in imports(file)}
    assert not roots & {"dagster", "dvc", "dvc_data", "bentoml", "dagster_project", "deploy"}


@pytest.mark.parametrize(
    "file", [f for f in FILES if f.relative_to(ROOT / "uae").parts[0] not in OUTER], ids=lambda f: f.relative_to(ROOT).as_posix()
)
def test_rooms_take_plain_arguments_not_settings(file):
    assert not imports(file) & {"uae.pipeline.settings", "uae.pipeline.chain", "uae.pipeline.run", "uae.cli.main"}


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.relative_to(ROOT).as_posix())
def test_nothing_is_unpickled(file):
    assert not imports(file) & {"pickle", "dill", "cloudpickle", "joblib"}
