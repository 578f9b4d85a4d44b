"""What an asset touches besides the stage's function: the project's folder, DVC, MLflow's pages, the models."""

import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import dagster as dg
from pydantic import Field

from dagster_project.dvc_errors import is_away
from dagster_project.through import Through, last_through
from uae.corpus.watch import Watch
from uae.io.errors import ArtefactError, without_user_info
from uae.pipeline.run import models_of
from uae.pipeline.settings import Settings, load_settings
from uae.pipeline.source import source_of
from uae.pipeline.stage import Stage
from uae.pipeline.workspace import Workspace

T = TypeVar("T")


class ProjectResource(dg.ConfigurableResource[Any]):
    """The folder that holds params.yaml and dvc.yaml."""

    root: str
    params: str = Field(default="params.yaml", description="The parameter file, from the project's folder.")

    def settings(self) -> Settings:
        return load_settings(Path(self.root) / self.params)

    def source(self, settings: Settings) -> Watch:
        """The source, and what is known of it, from the project's folder."""
        return dataclasses.replace(source_of(settings, Workspace(Path(self.root))), root=Path(self.root))

    def went_through_with(self) -> Through | None:
        """What the whole chain last went through with, whoever ran it.

        None: it never did, or the last run stopped half-way.
        """
        return last_through(Path(self.root))

    @contextlib.contextmanager
    def entered(self, model_cache: str) -> Iterator[Workspace]:
        """Work from the project's folder, as the command line does: the paths in params.yaml count from there."""
        with contextlib.chdir(self.root):
            yield Workspace(Path("."), Path(model_cache))


class DvcResource(dg.ConfigurableResource[Any]):
    """Records in dvc.lock and the cache what Dagster ran, so that ``dvc repro`` finds nothing to do.

    All but ``is_on_disk`` work on the repository of the current folder.
    """

    patience: float = Field(default=120, description="Seconds to wait for another DVC process before giving up.")

    @contextlib.contextmanager
    def holding(self, stage: str) -> Iterator[None]:
        """Hold DVC's own locks of the stage's files, as ``dvc repro`` does while a command runs.

        So neither another Dagster run nor ``dvc repro`` in a terminal can write them in the middle.
        """
        from dvc.repo import Repo
        from dvc.rwlock import rwlock

        with _explained(stage), Repo() as repo:
            declared = repo.stage.load_one(name=stage)
            reads, writes = ([str(item.fs_path) for item in items] for items in (declared.deps, declared.outs))
            hardlink = repo.config["core"].get("hardlink_lock", False)
        # DVC knows a lock's owner by process and command: with DVC's own notion of the command, commit() may pass.
        command = " ".join(sys.argv)
        with contextlib.ExitStack() as stack:
            self._patiently(stage, lambda: stack.enter_context(rwlock(repo.tmp_dir, repo.fs, command, reads, writes, hardlink)))
            yield

    def commit(self, stage: str) -> dict[str, str]:
        """What ``dvc commit --force STAGE`` does. Returns the hash of each output by its path."""
        from dvc.repo import Repo

        def record() -> dict[str, str]:
            with _explained(stage), Repo() as repo:
                (committed,) = repo.commit(stage, force=True)
                return {out.def_path: out.hash_info.value for out in committed.outs}

        return self._patiently(stage, record)

    def is_current(self, stage: str) -> bool:
        """Whether DVC would run nothing: code, parameters, inputs and outputs are those of dvc.lock."""
        from dvc.repo import Repo

        def ask() -> bool:
            with _explained(stage), Repo() as repo:
                return not repo.status(targets=[stage])

        return self._patiently(stage, ask)

    def is_on_disk(self, stage: str, root: Path) -> bool:
        """Whether what stands in the project ``root`` is what dvc.lock says that the stage made. Waits for nobody."""
        from dvc.repo import Repo

        with _explained(stage), Repo(str(root)) as repo:
            declared = repo.stage.load_one(path=str(root / "dvc.yaml"), name=stage)  # else it is that of the current folder
            return not any(out.status() for out in declared.outs)

    def _patiently(self, stage: str, action: Callable[[], T]) -> T:
        from dvc.lock import LockError

        deadline = time.monotonic() + self.patience
        while True:
            try:
                return action()
            except LockError as error:
                if time.monotonic() > deadline:
                    raise ArtefactError(f"{stage}: DVC is busy: {error}", transient=True) from None
                time.sleep(0.5)


@contextlib.contextmanager
def _explained(stage: str) -> Iterator[None]:
    from dvc.exceptions import DvcException
    from dvc.lock import LockError

    try:
        yield
    except LockError:
        raise
    except DvcException as error:
        raise dg.Failure(f"{stage}: DVC cannot record it: {error}", allow_retries=False) from None
    except Exception as error:  # the source may be such a store, and then DVC asks it what it holds
        if not is_away(error):
            raise
        raise ArtefactError(f"{stage}: a store that DVC asks does not answer: {error}", transient=True) from error


class MlflowResource(dg.ConfigurableResource[Any]):
    """Where a person reads MLflow. Where it is written to stands in params.yaml (tracking)."""

    ui: str = Field(default="http://127.0.0.1:5000", description="The pages over a local database: make mlflow.")

    def run_url(self, settings: Settings, root: str, run_id: str) -> str:
        """The page of a run.

        Raises:
            RegistryError: MLflow does not answer, or does not know the run.
        """
        from uae.registry.errors import registry_errors
        from uae.registry.tracking import connect

        tracking = settings.tracking
        with registry_errors("MLflow cannot be asked for the run's page"):
            experiment = connect(tracking.uri, tracking.experiment, Path(root)).get_run(run_id).info.experiment_id
        pages = without_user_info(tracking.uri) if tracking.uri.startswith("http") else self.ui
        return f"{pages.rstrip('/')}/#/experiments/{experiment}/runs/{run_id}"


class ModelsResource(dg.ConfigurableResource[Any]):
    """The models that params.yaml refers to, kept in one folder."""

    folder: str = Field(default="models", description="Where fetched models are kept, from the project's folder.")

    def used_by(self, stage: Stage[Any], settings: Settings) -> dict[str, str]:
        """Fetch the models that a stage declares. Returns role -> reference and local folder, for people."""
        from uae.io.models import resolve

        return {
            role: f"{reference} in {resolve(reference, Path(self.folder))}"
            for role, reference in models_of(stage, settings).items()
        }
