"""The checkout that a platform runs: a clone of this repository, with the addresses of the platform's servers in it."""

import subprocess
from pathlib import Path

from dvc.utils.serialize import modify_yaml

from deploy.platform.buckets import DOCUMENTS, DVC

_WHO = {"user.name": "platform", "user.email": "platform@localhost"}


def clone(repository: Path, folder: Path, mlflow: str) -> Path:
    """Make ``folder/project`` and the repository that it pushes to, ``folder/project.git``; nothing where they are.

    Args:
        repository: what is cloned: its last commit, not what was changed since.
        mlflow: the address of MLflow's server.

    Returns:
        The project's folder.
    """
    remote, project = folder / "project.git", folder / "project"
    if project.exists():
        return project
    if not remote.exists():
        git(folder, "clone", "--quiet", "--bare", str(repository), str(remote))
    partial = folder / ".project.partial"
    git(folder, "clone", "--quiet", str(remote), str(partial))
    settle(partial, mlflow)
    git(partial, "push", "--quiet", "origin", "HEAD")
    partial.rename(project)
    return project


def settle(project: Path, mlflow: str) -> None:
    """Write the servers' addresses into a checkout's params.yaml and .dvc/config, and commit them."""
    for name, value in _WHO.items():
        git(project, "config", name, value)
    with modify_yaml(str(project / "params.yaml")) as params:  # comments stay
        params["tracking"]["uri"] = mlflow
        params["ingest"]["path"] = DOCUMENTS
    run = ["dvc", "remote", "add", "--quiet", "--force", "--default", "store", f"s3://{DVC}"]
    subprocess.run(run, cwd=project, check=True)
    git(project, "commit", "--quiet", "--message", "The servers of the platform", "params.yaml", ".dvc/config")


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", "-C", str(folder), *words], check=True)
