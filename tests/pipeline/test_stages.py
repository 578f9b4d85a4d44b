"""What a stage asks for before it runs, and which parameters reach it."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import pytest

import uae
from uae.io.errors import ArtefactError
from uae.pipeline.chain import CHAIN, makers, run_stage
from uae.pipeline.settings import Settings, ValidateSettings, load_settings
from uae.pipeline.stage import Key, Parameters
from uae.pipeline.workspace import Workspace

SETTINGS = load_settings(Path(uae.__file__).parents[1] / "params.yaml")


@pytest.mark.parametrize(
    ("stage", "missing"), [(stage, name) for stage in CHAIN for name in stage.needs], ids=lambda of: getattr(of, "name", of)
)
def test_a_stage_does_not_run_without_what_it_needs(tmp_path, stage, missing):
    """A failed validation leaves no report, so that what comes after it does not run."""
    workspace = Workspace(tmp_path)
    for name in set(stage.needs) - {missing}:
        workspace.path(name).mkdir(parents=True)
    stub = replace(stage, run=lambda parameters, workspace: {})
    with pytest.raises(ArtefactError) as caught:
        run_stage(stub, SETTINGS, workspace)
    assert str(workspace.path(missing)) in str(caught.value)
    assert f"uae {makers()[missing]}" in str(caught.value)
    workspace.path(missing).mkdir(parents=True)
    assert run_stage(stub, SETTINGS, workspace) == {}


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
