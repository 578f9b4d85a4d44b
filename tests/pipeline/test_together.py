"""Stages that several processes run together: who starts them, and what comes back."""

import json
from pathlib import Path

import pytest

from uae.io.errors import ConfigError, UaeError
from uae.pipeline.chain import STAGES, run_stage
from uae.pipeline.settings import load_settings
from uae.pipeline.stages.fuse import FuseParameters
from uae.pipeline.together import run_together
from uae.pipeline.workspace import Workspace

PARAMS = Path(__file__).resolve().parents[2] / "params.yaml"


def test_torchrun_may_not_start_a_stage_that_one_process_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"ingest: torchrun may start several processes of uae train and uae fuse alone"):
        run_stage(STAGES["ingest"], load_settings(PARAMS), Workspace(tmp_path))


def test_an_error_of_a_process_is_raised_here_with_its_message(tmp_path, tiny_encoder):
    """The tables are missing."""
    settings = load_settings(PARAMS, [f"models.student=path:{tiny_encoder}"])
    with pytest.raises(UaeError, match=r"passages\.parquet|candidates\.parquet") as raised:
        run_together("fuse", FuseParameters.of(settings), Workspace(tmp_path), 1)
    assert type(raised.value) is not UaeError
    assert not json.dumps(str(raised.value)).count("Traceback")
