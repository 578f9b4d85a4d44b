"""The drift report as an asset: beside the chain, with its picture, and with no text of a query."""

import json
from datetime import UTC, datetime

import dagster as dg
import pytest

from dagster_project.definitions import defs
from dagster_project.resources import ModelsResource, ProjectResource
from uae.pipeline import drift as stage

REPORT = {
    "status": "watching", "drifted": True, "drifted_at": datetime.now(UTC).isoformat(), "retrain": False, "queries": 900,
    "reasons": ["window 1: new words"], "recent": {"low": {"share": 0.3}}, "reference": {"low": {"share": 0.05}},
    "clusters": [{"queries": 7, "words": ["zebra", "banana"], "examples": ["What does Ann's zebra eat?"]}],
}  # fmt: skip


@pytest.fixture
def materialise(tmp_path, monkeypatch):
    (tmp_path / "params.yaml").write_text((stage.Path(__file__).parents[2] / "params.yaml").read_text())

    def run(report: dict):
        def watch(settings, workspace):
            assert settings.drift.log is None
            workspace.path("drift_picture").parent.mkdir(exist_ok=True)
            workspace.path("drift_picture").write_bytes(b"\x89PNG")
            return report

        monkeypatch.setattr(stage, "watch_drift", watch)
        asset = next(each for each in defs.assets if each.key == dg.AssetKey("drift"))
        resources = {"project": ProjectResource(root=str(tmp_path)), "models": ModelsResource()}
        return dg.materialize([asset], resources=resources)

    return run


def test_the_asset_shows_the_picture_and_topics_but_no_query(materialise):
    result = materialise(REPORT)
    (event,) = result.get_asset_materialization_events()
    metadata = event.materialization.metadata
    assert metadata["picture"].value.startswith("![Drift](data:image/png;base64,iVBORw")
    assert metadata["drifted"].value is True
    assert metadata["topics without a near passage"].records[0].data == {"queries": 7, "words": "zebra, banana"}
    assert "Ann" not in json.dumps({name: str(value) for name, value in metadata.items()})
    (check,) = result.get_asset_check_evaluations()
    assert (check.passed, check.severity, check.description) == (False, dg.AssetCheckSeverity.WARN, "window 1: new words")


def test_where_nothing_is_watched_it_says_why(materialise):
    report = {
        "status": "no log",
        "drifted": False,
        "drifted_at": None,
        "retrain": False,
        "queries": 0,
        "reasons": [],
        "why_not": "none",
    }
    (check,) = materialise(report).get_asset_check_evaluations()
    assert (check.passed, check.description) == (True, "none")


def test_it_is_no_part_of_the_chain_and_is_off_until_switched_on():
    chain = defs.resolve_job_def("whole_chain").asset_layer.executable_asset_keys
    assert dg.AssetKey("drift") not in chain
    watched = defs.resolve_job_def("watch_queries").asset_layer.executable_asset_keys
    assert watched == {dg.AssetKey("drift")}
    schedule = defs.resolve_schedule_def("drift_every_day")
    assert schedule.default_status == dg.DefaultScheduleStatus.STOPPED
