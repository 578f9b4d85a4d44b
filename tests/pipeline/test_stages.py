"""What a stage asks for before it runs."""

from dataclasses import replace
from pathlib import Path

import pytest

import uae
from uae.io.errors import ArtefactError
from uae.pipeline.settings import load_settings
from uae.pipeline.stages import CHAIN, Workspace, makers

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
        stub(SETTINGS, workspace)
    assert str(workspace.path(missing)) in str(caught.value)
    assert f"uae {makers()[missing]}" in str(caught.value)
    workspace.path(missing).mkdir(parents=True)
    assert stub(SETTINGS, workspace) == {}
