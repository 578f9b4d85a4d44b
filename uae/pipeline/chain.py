"""The chain: all stages in their order. The command line, dvc.yaml and Dagster agree with this table."""

from typing import Any

from uae.io.errors import ArtefactError, ConfigError
from uae.io.torchrun import place
from uae.pipeline.settings import Settings
from uae.pipeline.stage import Stage
from uae.pipeline.stages import candidates, evaluate, fuse, index, ingest, label, package, promote, train, validate
from uae.pipeline.workspace import Workspace
from uae.validation.report import require_validated

CHAIN: tuple[Stage[Any], ...] = (
    ingest.STAGE,
    validate.STAGE,
    candidates.STAGE,
    label.STAGE,
    train.STAGE,
    fuse.STAGE,
    index.STAGE,
    evaluate.STAGE,
    promote.STAGE,
    package.STAGE,
)

STAGES = {stage.name: stage for stage in CHAIN}

# report -> the tables that it is about
_VALIDATED = {
    "validation": ("documents", "passages", "questions"),
    "label_validation": ("labels", "label_manifest", "candidates"),
}
_MAKERS = {"validation": "validate", "label_validation": "label"}
_LABELLED = ("passages", "questions")  # what the labels were asked about: the second report tells of them, too


def run_stage(stage: Stage[Any], settings: Settings, workspace: Workspace) -> dict[str, Any]:
    """Run one stage with the parameters that it declares. Returns what there is to say about it.

    Raises:
        ConfigError: torchrun started several processes of a stage that one process runs.
        ArtefactError: an input is missing, or a table was changed after it was validated, or validated for another scope. The
            message names the stage to run.
    """
    if place().processes > 1 and not stage.by_several:
        shared = " and ".join(f"uae {other.name}" for other in CHAIN if other.by_several)
        raise ConfigError(
            f"{stage.name}: torchrun may start several processes of {shared} alone. Run the rest without it; train.processes "
            "has uae run and DVC start as many for training"
        )
    for name in stage.needs:
        if not workspace.path(name).exists():
            maker = makers()[name]
            raise ArtefactError(
                f"{stage.name} needs {workspace.path(name)}, which does not exist: run the stage {maker} first (uae {maker}), "
                "and go on where it succeeds"
            )
    _require_validated_tables(stage, settings, workspace)
    return stage.run(stage.parameters.of(settings), workspace)


def _require_validated_tables(stage: Stage[Any], settings: Settings, workspace: Workspace) -> None:
    """A table may be made anew and not be validated again; every stage after validation refuses such a table."""
    for report, vouched in _VALIDATED.items():
        if report in stage.makes or not set(vouched).difference({"candidates"}) & set(stage.needs):
            continue
        tables = [*vouched, *(_LABELLED if report == "label_validation" and report in stage.needs else ())]
        read = {table: workspace.path(table) for table in tables if table in stage.needs}
        scope = settings.scope if report == "validation" and "scope" in stage.params else None
        require_validated(workspace.path(report), read, _MAKERS[report], scope)


def model_references(settings: Settings) -> dict[str, str]:
    """role -> the reference of every model that the chain loads. Models that a server holds are not among them."""
    teachers = {f"teacher {name}": t.model for name, t in settings.teachers.items() if t.server is None}
    return settings.models.model_dump(exclude_none=True, exclude={"student_prompts"}) | teachers


def makers() -> dict[str, str]:
    """artefact -> the stage that makes it."""
    return {artefact: stage.name for stage in CHAIN for artefact in stage.makes}


def upstream(stage: Stage[Any]) -> list[str]:
    """The stages whose outputs ``stage`` needs, in chain order."""
    made_by = makers()
    wanted = {made_by[artefact] for artefact in stage.needs}
    return [other.name for other in CHAIN if other.name in wanted]
