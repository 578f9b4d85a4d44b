"""DVC and Dagster tell one story, on a copy of the project with tiny models: what one made, the other finds made."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
import yaml

from dagster_project.definitions import build
from uae.pipeline.settings import dump_settings, load_settings

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def project(tmp_path_factory, small_chain) -> Path:
    root = tmp_path_factory.mktemp("project")
    for name in ("uae", "deploy", "dagster_project", ".dvc", "data/sample"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "cache", "tmp", "config.local"))
    for name in ("dvc.yaml", ".dvcignore", ".gitignore", "pyproject.toml"):
        shutil.copy(ROOT / name, root / name)
    overrides = [o for o in small_chain if not o.startswith("ingest.path")]  # the copy's own sample, by its relative path
    settings = load_settings(ROOT / "params.yaml", overrides)
    (root / "params.yaml").write_text(yaml.safe_dump(dump_settings(settings), sort_keys=False))
    for command in (["init", "-q"], ["add", "-A"], ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "copy"]):
        subprocess.run(["git", *command], cwd=root, check=True)
    return root


def dvc(project: Path, *words: str) -> str:
    # the copy's `uae` commands run the interpreter's own environment
    path = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "DVC_NO_ANALYTICS": "1", "HOME": str(project.parent)}
    path |= {name: value for name, value in os.environ.items() if name == "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *words], cwd=project, capture_output=True, text=True, check=False, env=path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def materialise(project: Path, selection: list[str] | None = None) -> dg.ExecuteInProcessResult:
    definitions = build(project)
    job = definitions.resolve_job_def("whole_chain")
    keys = [dg.AssetKey(name) for name in selection] if selection else None
    return job.execute_in_process(asset_selection=keys)


def test_after_dagster_dvc_is_clean_and_runs_nothing(project):
    result = materialise(project)
    assert result.success
    assert "up to date" in dvc(project, "status")
    reproduced = dvc(project, "repro")
    assert "Running stage" not in reproduced
    assert "up to date" in reproduced
    materialised = {event.asset_key.to_user_string() for event in result.get_asset_materialization_events()}
    assert materialised == {
        "ingest",
        "validate",
        "candidates",
        "label",
        "train",
        "fuse",
        "index",
        "evaluate",
        "promote",
        "package",
    }
    checks = {e.check_name: e.passed for e in result.get_asset_check_evaluations()}
    verdict = json.loads((project / "reports" / "labels.json").read_text(encoding="utf-8"))["verdict"]
    # What random weights are worth is chance; that it is said is not.
    assert checks.pop("label_quality") == (verdict == "worth it")
    assert checks == dict.fromkeys(("documents", "passages", "questions", "leakage", "labels", "gate"), True)


def test_after_dvc_dagster_materialises_a_single_asset(project):
    """A changed parameter, reproduced by DVC; then one asset alone from what is on disk, and DVC is still clean."""
    params = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(params.replace("reader_questions: 8", "reader_questions: 6"))
    reproduced = dvc(project, "repro")
    assert "Running stage 'evaluate'" in reproduced
    assert "Running stage 'train'" not in reproduced
    assert materialise(project, ["evaluate"]).success
    assert "up to date" in dvc(project, "status")
