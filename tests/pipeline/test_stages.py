"""What a stage asks for before it runs, and which parameters reach it."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import pytest

import uae
from uae.io.errors import ArtefactError
from uae.io.files import write_json, write_text
from uae.pipeline.chain import CHAIN, makers, run_stage
from uae.pipeline.settings import Settings, ValidateSettings, load_settings
from uae.pipeline.stage import Key, Parameters
from uae.pipeline.workspace import Workspace
from uae.validation.report import table_hashes

PARAMS = Path(uae.__file__).parents[1] / "params.yaml"
SETTINGS = load_settings(PARAMS)


@pytest.mark.parametrize(
    ("stage", "missing"), [(stage, name) for stage in CHAIN for name in stage.needs], ids=lambda of: getattr(of, "name", of)
)
def test_a_stage_does_not_run_without_what_it_needs(tmp_path, stage, missing):
    """A failed validation leaves no report, so that what comes after it does not run."""
    workspace = Workspace(tmp_path)
    for name in set(stage.needs) - {missing}:
        _make(workspace, name)
    stub = replace(stage, run=lambda parameters, workspace: {})
    with pytest.raises(ArtefactError) as caught:
        run_stage(stub, SETTINGS, workspace)
    assert str(workspace.path(missing)) in str(caught.value)
    assert f"uae {makers()[missing]}" in str(caught.value)
    _make(workspace, missing)
    _vouch(workspace)
    assert run_stage(stub, SETTINGS, workspace) == {}


TABLES = ("documents", "passages", "questions", "labels")


@pytest.mark.parametrize(
    ("stage", "table"),
    [(stage, name) for stage in CHAIN[2:] for name in TABLES if name in stage.needs],
    ids=lambda of: getattr(of, "name", of),
)
def test_a_stage_refuses_a_table_that_was_made_anew_after_it_was_validated(tmp_path, stage, table):
    workspace = Workspace(tmp_path)
    for name in stage.needs:
        _make(workspace, name)
    _vouch(workspace)
    stub = replace(stage, run=lambda parameters, workspace: {})
    assert run_stage(stub, SETTINGS, workspace) == {}
    write_text(workspace.path(table), "other rows")
    with pytest.raises(ArtefactError, match=f"{table}.* was changed after it was validated"):
        run_stage(stub, SETTINGS, workspace)


def _make(workspace: Workspace, name: str) -> None:
    write_text(workspace.path(name), f"rows of {name}")


def _vouch(workspace: Workspace) -> None:
    """Write the reports that validation and labelling would leave of the tables that are there."""
    for report, tables in (("validation", TABLES[:3]), ("label_validation", TABLES[3:])):
        there = {name: workspace.path(name) for name in tables if workspace.path(name).exists()}
        write_json(workspace.path(report), {"tables": table_hashes(there)})


class Chosen(Parameters):
    seed: int
    limits: Annotated[ValidateSettings, Key("validate")]
    device: Annotated[str, Key("compute.device")]


def test_a_stage_gets_the_values_that_it_declares_and_no_others():
    chosen = Chosen.of(SETTINGS)
    assert Chosen.dotted_keys() == ("seed", "validate", "compute.device")
    assert dict(chosen) == {"seed": SETTINGS.seed, "limits": SETTINGS.validate_, "device": SETTINGS.compute.device}
    with pytest.raises(ValueError, match="frozen"):
        chosen.seed = 2


@pytest.mark.parametrize("stage", CHAIN, ids=lambda stage: stage.name)
def test_a_stage_declares_each_parameter_with_the_type_that_the_settings_give_it(stage):
    """mypy believes the declaration, so a wrong one would hide what it should find."""
    for key, field in zip(stage.params, stage.parameters.model_fields.values(), strict=True):
        assert _plain(field.annotation) == _plain(_annotation(key)), key


def _annotation(key: str):
    model = Settings
    for name in key.split("."):
        model = model.model_fields["validate_" if name == "validate" else name].annotation
    return model


def _plain(annotation) -> str:
    """An annotation without its limits, which the settings have checked."""
    return "dict" if getattr(annotation, "__origin__", None) is dict else str(annotation)


def test_students_of_folds_start_from_what_the_student_started_from(tmp_path, monkeypatch, tiny_encoder):
    """models.student_prompts makes another base: the stage that trains and the stage that chooses BM25's weight both take it."""
    import uae.training.data
    import uae.training.fusion
    from uae.pipeline.stages import fuse
    from uae.pipeline.student import student_folder

    prompts = "models.student_prompts={query: 'query: ', document: 'passage: '}"
    settings = load_settings(PARAMS, [f"models.student=path:{tiny_encoder}", prompts])
    started: list[Path] = []
    monkeypatch.setattr(uae.training.data.TrainingData, "read", lambda **tables: None)
    monkeypatch.setattr(uae.training.fusion, "choose_fusion", lambda data, base_path, **more: started.append(base_path) or {})
    workspace = Workspace(tmp_path, tmp_path / "models")
    fuse.STAGE.run(fuse.STAGE.parameters.of(settings), workspace)
    assert started == [student_folder(settings.models, workspace.model_cache)] != [tiny_encoder]
