"""The MLflow side: where it is, the run of a training, and what data and code it came from."""

import hashlib
import json
import logging
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.data.meta_dataset import MetaDataset
from mlflow.data.sources import LocalArtifactDatasetSource  # type: ignore[attr-defined]  # made when it is imported
from mlflow.entities import Run

import uae
from uae.io.errors import ArtefactError
from uae.registry.anchor import anchor_artefacts
from uae.registry.errors import logging_errors, registry_errors
from uae.registry.place import check_root, is_beside_root

ENCODER_TAG, RELEASE_TAG, SCORE_TAG = "uae.encoder", "uae.release", "uae.score"
GATE_TAG, PASSED = "uae.gate", "passed"
FORGOTTEN_TAG = "uae.forgotten"  # of a version whose release was removed

log = logging.getLogger(__name__)


def connect(uri: str, experiment: str, root: Path) -> MlflowClient:
    """A client of the tracking server at ``uri``, the experiment created if new.

    A relative SQLite path counts from ``root``. Such a database and its artefacts (``root/mlruns``) move with their folder: where
    the folder was moved since, the addresses in the database are brought up to date first.

    Raises:
        RegistryError: the server or the database cannot be used.
        ConfigError: ``root`` has a character that an SQLite address cannot hold.
    """
    root = Path(root).resolve()
    beside_root = is_beside_root(uri)
    check_root(uri, root)
    uri = re.sub(r"^sqlite:///(?!/)", lambda _: f"sqlite:///{root}/", uri)
    artefacts = root / "mlruns"
    with registry_errors(f"tracking.uri {uri}: MLflow cannot be used there"):
        mlflow.set_tracking_uri(uri)
        found = mlflow.get_experiment_by_name(experiment)
        if found is None:
            # A file store says where its artefacts lie; a server decides that itself.
            mlflow.create_experiment(experiment, artifact_location=artefacts.as_uri() if uri.startswith("sqlite:") else None)
        elif beside_root and anchor_artefacts(uri, found.artifact_location, artefacts):
            log.warning("%s was moved: MLflow's database knows its new place now", root)
        mlflow.set_experiment(experiment)
    return MlflowClient()


@contextmanager
def training_run(params: Mapping[str, Any], inputs: Mapping[str, Path]) -> Iterator[Run]:
    """An active MLflow run with the parameters, the inputs' DVC hashes and the git commit logged.

    Raises:
        RegistryError: the run cannot be recorded, at its start or at any time in the block.
    """
    with logging_errors("MLflow cannot record the training"), mlflow.start_run(run_name="train", log_system_metrics=False) as run:
        mlflow.log_params(flatten(params))
        hashes = {name: dvc_md5(path) for name, path in inputs.items()}
        mlflow.set_tags(code_version() | {f"dvc.{name}": value for name, value in hashes.items()})
        for name, path in inputs.items():
            source = LocalArtifactDatasetSource(Path(path).resolve().as_uri())
            dataset = MetaDataset(source, name=name, digest=hashes[name])  # type: ignore[abstract]  # as MLflow's manual has it
            mlflow.log_input(dataset, context="training")
        yield run


@registry_errors("MLflow cannot look for the run of a training")
def run_of(client: MlflowClient, experiment: str, encoder: str) -> str:
    """The id of the newest run that trained ``encoder`` (a fingerprint); a new run where none is known.

    The tracking database may be younger than the model: DVC can restore a model that another machine trained.

    Raises:
        RegistryError: MLflow cannot be asked, or cannot record the run.
    """
    known = client.get_experiment_by_name(experiment)
    found = client.search_runs([known.experiment_id] if known else [], f"tags.`{ENCODER_TAG}` = '{encoder}'", max_results=1)
    if found:
        return str(found[0].info.run_id)
    with mlflow.start_run(run_name="train (restored)") as run:
        mlflow.set_tags(code_version() | {ENCODER_TAG: encoder})
        return str(run.info.run_id)


def code_version() -> dict[str, str]:
    """The git commit of the code that runs, and whether its repository has uncommitted changes or new files.

    Both are "unknown" where git is not installed, or where no repository tracks the code: it was installed from a wheel.
    """
    package = Path(uae.__file__).resolve().parent
    here = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}  # a hook's point elsewhere

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(package), *words], capture_output=True, text=True, check=True, env=here)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # site-packages can lie inside the repository of something else
        dirty = bool(git("status", "--porcelain", "--untracked-files=normal"))
        return {"git.commit": git("rev-parse", "HEAD"), "git.dirty": str(dirty).lower()}
    except (OSError, subprocess.CalledProcessError):
        return {"git.commit": "unknown", "git.dirty": "unknown"}


def dvc_md5(path: Path) -> str:
    """The hash under which DVC 3 keeps a file or folder: md5 of its bytes, or of the sorted list of its files' hashes."""
    path = Path(path)
    if path.is_file():
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "md5").hexdigest()
    if not path.is_dir():
        raise ArtefactError(f"{path} does not exist: run the stage that makes it first")
    entries = [{"md5": dvc_md5(file), "relpath": file.relative_to(path).as_posix()} for file in path.rglob("*") if file.is_file()]
    listing = json.dumps(sorted(entries, key=lambda entry: entry["relpath"]), sort_keys=True)
    return hashlib.md5(listing.encode(), usedforsecurity=False).hexdigest() + ".dir"


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
