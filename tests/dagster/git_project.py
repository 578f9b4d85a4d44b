"""A small DVC project in git, with a git remote and a DVC remote on this disk."""

import subprocess
from pathlib import Path

import pytest
from dvc.repo import Repo


def git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True).stdout.strip()


def git_project(root: Path, patch: pytest.MonkeyPatch, dvc_yaml: str, make: str, ignored: str) -> Path:
    """``root/project`` with dvc.yaml and make.py, nothing committed; beside it ``remote.git`` and the data's ``store``."""
    for name in ("AUTHOR", "COMMITTER"):
        patch.setenv(f"GIT_{name}_NAME", "Ann")
        patch.setenv(f"GIT_{name}_EMAIL", "ann@example.com")
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(root / "remote.git")], check=True)
    project = root / "project"
    subprocess.run(["git", "init", "-q", "-b", "main", str(project)], check=True)
    git(project, "remote", "add", "origin", str(root / "remote.git"))
    (project / "dvc.yaml").write_text(dvc_yaml)
    (project / "make.py").write_text(make)
    (project / ".gitignore").write_text(ignored)
    Repo.init(str(project)).close()
    with open(project / ".dvc" / "config", "a") as file:
        file.write(f"[core]\n    remote = store\n    analytics = false\n['remote \"store\"']\n    url = {root / 'store'}\n")
    return project
