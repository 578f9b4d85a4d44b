"""What a stage asks for before it runs, and which parameters reach it."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import pytest

import uae
from uae.execution.options import ExecutionOptions
from uae.io.errors import ArtefactError
from uae.io.files import read_json, write_json, write_text
from uae.io.tables import CANDIDATES, write_table
from uae.pipeline.chain import CHAIN, STAGES, makers, run_stage
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


VALIDATED = {
    "validation": ("documents", "passages", "questions"),
    "label_validation": ("labels", "label_manifest", "candidates", "passages", "questions"),
}
TABLES = ("documents", "passages", "questions", "labels", "label_manifest", "candidates")
UNLABELLED = {("label", "candidates")}  # of these the table says itself what it was made from


@pytest.mark.parametrize(
    ("stage", "table"),
    [(stage, name) for stage in CHAIN[2:] for name in TABLES if name in stage.needs and (stage.name, name) not in UNLABELLED],
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
    with pytest.raises(ArtefactError, match=f"was changed after it was validated.* about another {table} table"):
        run_stage(stub, SETTINGS, workspace)


@pytest.mark.parametrize("stage", [stage for stage in CHAIN[2:] if "label_validation" in stage.needs], ids=lambda of: of.name)
@pytest.mark.parametrize("table", ["passages", "questions"])
def test_labels_of_another_corpus_are_refused_though_that_corpus_was_validated(tmp_path, stage, table):
    """Ingest and validate ran again; candidates and label did not."""
    workspace = Workspace(tmp_path)
    for name in stage.needs:
        _make(workspace, name)
    _vouch(workspace)
    write_text(workspace.path(table), "other rows")
    _vouch(workspace, "validation")
    with pytest.raises(ArtefactError, match=rf"{table}.* was changed after it was validated: .*label_validation.*\(uae label\)"):
        run_stage(replace(stage, run=lambda parameters, workspace: {}), SETTINGS, workspace)


SCOPED = [stage for stage in CHAIN[2:] if "scope" in stage.params and {"passages", "questions"} & set(stage.needs)]


@pytest.mark.parametrize("stage", SCOPED, ids=lambda stage: stage.name)
@pytest.mark.parametrize("written", [{"scope": "corpus"}, {}], ids=["another scope", "an earlier version's report"])
def test_a_validation_for_another_scope_is_refused(tmp_path, stage, written):
    """Within documents a question may repeat across splits; over the whole corpus that is leakage, and nobody looked for it."""
    workspace = Workspace(tmp_path)
    for name in stage.needs:
        _make(workspace, name)
    _vouch(workspace)
    stub = replace(stage, run=lambda parameters, workspace: {})
    assert SETTINGS.scope == "document"
    assert run_stage(stub, SETTINGS, workspace) == {}
    report = read_json(workspace.path("validation"))
    write_json(workspace.path("validation"), {"tables": report["tables"]} | written)
    with pytest.raises(ArtefactError, match=r"scope.* and scope is document now: .*\(uae validate\)"):
        run_stage(stub, SETTINGS, workspace)


@pytest.mark.parametrize("change", ["passages", "questions", None])
def test_candidates_of_another_corpus_are_not_labelled(tmp_path, change):
    """The label stage asks an LLM about what candidates name: it is refused before anything is paid for."""
    workspace = Workspace(tmp_path)
    for name in ("passages", "questions"):
        _make(workspace, name)
    made = table_hashes({name: workspace.path(name) for name in ("passages", "questions")})
    write_table(workspace.path("candidates"), CANDIDATES, [], made_from=made if change else None)
    if change:
        write_text(workspace.path(change), "other rows")
    _vouch(workspace)
    said = f"was made from another {change} table" if change else "does not say from which passages"
    with pytest.raises(ArtefactError, match=rf"candidates\.parquet {said}.*\(uae candidates\)"):
        run_stage(STAGES["label"], SETTINGS, workspace)


def _make(workspace: Workspace, name: str) -> None:
    write_text(workspace.path(name), f"rows of {name}")


def _vouch(workspace: Workspace, *reports: str) -> None:
    """Write the reports that validation and labelling would leave of the tables that are there; all, where none is named."""
    for report in reports or VALIDATED:
        there = {name: workspace.path(name) for name in VALIDATED[report] if workspace.path(name).exists()}
        write_json(workspace.path(report), {"tables": table_hashes(there), "scope": SETTINGS.scope})


class Chosen(Parameters):
    seed: int
    execution: Annotated[ExecutionOptions, Key("execution", watched=False)]
    limits: Annotated[ValidateSettings, Key("validate")]
    device: Annotated[str, Key("compute.device")]


def test_a_stage_gets_the_values_that_it_declares_and_no_others():
    chosen = Chosen.of(SETTINGS)
    assert Chosen.dotted_keys() == ("seed", "validate", "compute.device")
    assert dict(chosen) == {
        "seed": SETTINGS.seed, "execution": SETTINGS.execution, "limits": SETTINGS.validate_, "device": SETTINGS.compute.device
    }  # fmt: skip
    with pytest.raises(ValueError, match="frozen"):
        chosen.seed = 2


def test_where_the_work_is_done_makes_nothing_outdated():
    elsewhere = load_settings(PARAMS, ["execution.engine=ray", "execution.workers=64"])
    assert Chosen.of(elsewhere).execution.workers == 64
    assert Chosen.of(elsewhere).watched() == Chosen.of(SETTINGS).watched()
    assert Chosen.of(load_settings(PARAMS, ["seed=14"])).watched() != Chosen.of(SETTINGS).watched()


@pytest.mark.parametrize("stage", CHAIN, ids=lambda stage: stage.name)
def test_a_stage_declares_each_parameter_with_the_type_that_the_settings_give_it(stage):
    """mypy believes the declaration, so a wrong one would hide what it should find."""
    keys = {name: key.name for name, key in stage.parameters._keys().items()}
    assert set(stage.params) <= set(keys.values()) <= {*stage.params, "execution"}
    for name, key in keys.items():
        field = stage.parameters.model_fields[name]
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
