"""The chain: all stages in their order. The command line, dvc.yaml and Dagster agree with this table."""

from typing import Any

from uae.io.errors import ArtefactError
from uae.pipeline.settings import Settings
from uae.pipeline.stage import Stage
from uae.pipeline.stages import candidates, evaluate, index, ingest, label, package, promote, train, validate
from uae.pipeline.workspace import Workspace

CHAIN: tuple[Stage[Any], ...] = (
    ingest.STAGE,
    validate.STAGE,
    candidates.STAGE,
    label.STAGE,
    train.STAGE,
    index.STAGE,
    evaluate.STAGE,
    promote.STAGE,
    package.STAGE,
)

STAGES = {stage.name: stage for stage in CHAIN}


def run_stage(stage: Stage[Any], settings: Settings, workspace: Workspace) -> dict[str, Any]:
    """Run one stage with the parameters that it declares. Returns what there is to say about it.

    Raises:
        ArtefactError: an input is missing. The message names the stage that makes it.
    """
    for name in stage.needs:
        if not workspace.path(name).exists():
            maker = makers()[name]
            raise ArtefactError(
                f"{stage.name} needs {workspace.path(name)}, which does not exist: run the stage {maker} first (uae {maker}), "
                "and go on where it succeeds"
            )
    return stage.run(stage.parameters.of(settings), workspace)


def model_references(settings: Settings) -> dict[str, str]:
    """role -> the reference of every model that the chain loads. Models that a server holds are not among them."""
    teachers = {f"teacher {name}": t.model for name, t in settings.teachers.items() if t.server is None}
    return settings.models.model_dump(exclude_none=True) | teachers


def makers() -> dict[str, str]:
    """artefact -> the stage that makes it."""
    return {artefact: stage.name for stage in CHAIN for artefact in stage.makes}


def upstream(stage: Stage[Any]) -> list[str]:
    """The stages whose outputs ``stage`` needs, in chain order."""
    made_by = makers()
    wanted = {made_by[artefact] for artefact in stage.needs}
    return [other.name for other in CHAIN if other.name in wanted]
