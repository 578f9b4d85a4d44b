"""An earlier version of the corpus, with today's code, parameters and models: what would it have taught, and how good was it?

    python -m dagster_project.backfill VERSION        a tag that publishing made; all of them: git tag --list 'data-*'

What ``ingest`` made of that version comes from DVC, from the cache or a remote. All other stages up to ``evaluate`` run anew, in
a folder of their own. Nothing is promoted, and what is served stays. In Dagster it is the job ``backfill``, whose partitions are
the published versions. Readings that the teachers were asked for already are not asked for again.
"""

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import dagster as dg
import typer

from dagster_project.again import explained
from dagster_project.dvc_errors import remote_errors
from dagster_project.pools import ACCELERATOR
from dagster_project.publish import VERSIONS, Publication
from dagster_project.resources import ModelsResource, ProjectResource
from uae.io.errors import InputError, UaeError
from uae.io.files import read_json
from uae.pipeline.chain import CHAIN, STAGES
from uae.pipeline.run import run_chain
from uae.pipeline.settings import Settings, load_settings
from uae.pipeline.workspace import ARTEFACTS, Workspace

GIVEN, UNTIL = CHAIN[0].name, "evaluate"
corpus_versions = dg.DynamicPartitionsDefinition(name="corpus_version")


def published_versions(root: Path) -> list[str]:
    """The data versions of the project's repository, the oldest first."""
    return _git(root).git("tag", "--list", VERSIONS, "--sort=creatordate").split()


def backfill(settings: Settings, w: Workspace, version: str, announce: Callable[[str], None]) -> Workspace:
    """Run the chain over a version's corpus, up to the evaluation. The same call goes on where one was killed.

    Args:
        settings: of today.
        w: the project's.

    Returns:
        The workspace of this run.

    Raises:
        InputError: there is no such version.
        ArtefactError: its tables are neither in DVC's cache nor on a remote.
    """
    if version not in published_versions(w.root):
        raise InputError(f"{version!r} is no published version of the data; git tag --list {VERSIONS!r} tells them all")
    there = Workspace(w.backfills / version, w.model_cache, flat_reports=True)
    for name in STAGES[GIVEN].makes:
        if not there.path(name).exists():
            _fetch(w.root, version, ARTEFACTS[name], there.path(name))
    known, mine = w.path("labels"), there.path("labels")
    if known.is_dir() and not mine.exists():
        _moved_in(mine, lambda partial: shutil.copytree(known, partial))
    run_chain(settings, there.root, w.model_cache, announce, UNTIL, since=CHAIN[1].name)
    return there


def _fetch(root: Path, version: str, path: str, target: Path) -> None:
    from dvc.repo import Repo

    doing = f"{path} of {version} is in neither DVC's cache nor a remote that answers"
    with remote_errors(doing, "A version that held a forgotten document is gone for good"), Repo(str(root), rev=version) as repo:
        _moved_in(target, lambda partial: repo.dvcfs.get_file(path, str(partial)))


def _moved_in(target: Path, make: Callable[[Path], object]) -> None:
    """Make a file or folder under another name first: what has the name is whole."""
    partial = target.with_name(f".{target.name}.partial-backfill")
    partial.parent.mkdir(parents=True, exist_ok=True)
    if partial.is_dir():
        shutil.rmtree(partial)
    make(partial)
    partial.rename(target)


def _git(root: Path) -> Publication:
    return Publication(root, "", None, "origin", False, lambda step: None)


@dg.op(out=dg.Out(dg.Nothing), pool=ACCELERATOR, description="Today's code and parameters over the corpus of an earlier version.")
def backfill_version(context: dg.OpExecutionContext, project: ProjectResource, models: ModelsResource) -> None:
    with explained(context), project.entered(models.folder) as workspace:
        there = backfill(project.settings(), workspace, context.partition_key, context.log.info)
    context.add_output_metadata(told(there, Path(project.root)))


def told(there: Workspace, root: Path) -> dict[str, Any]:
    """What the evaluation found, for people."""
    systems, metrics = read_json(root / there.path("evaluation"))["systems"], ("recall@1", "map")
    means = {f"{name} {metric}": round(systems[name][metric]["mean"], 4) for name in ("base", "uae") for metric in metrics}
    return {**means, "page": dg.MetadataValue.path(str(root / there.path("evaluation_page")))}


@dg.job(
    name="backfill",
    partitions_def=corpus_versions,
    tags={"dagster/priority": "-1"},  # the weekly life goes first
    description="Today's code and parameters over the corpus of published versions, up to the evaluation. Nothing is promoted.",
)
def backfill_versions() -> None:
    backfill_version()


def main(
    version: Annotated[str, typer.Argument(help="A tag that publishing made.")],
    root: Annotated[Path, typer.Option(help="The project.")] = Path("."),
) -> None:
    """Run the chain over the corpus of a published version, up to the evaluation."""
    try:
        with contextlib.chdir(root):  # the paths in params.yaml count from there
            there = backfill(load_settings(Path("params.yaml")), Workspace(Path(".")), version, typer.echo)
    except UaeError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(f"done: {root / there.path('evaluation_page')}")


if __name__ == "__main__":
    typer.run(main)
