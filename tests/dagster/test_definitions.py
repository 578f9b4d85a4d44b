"""What Dagster loads: every asset's spec, and that nothing starts by itself."""

from types import SimpleNamespace

import dagster as dg
import pytest

import uae.registry.tracking
from dagster_project.automation import source_changed, weekly
from dagster_project.definitions import build, defs
from dagster_project.resources import MlflowResource, ProjectResource

# asset -> (upstream, checks, kinds, room)
SPECS = {
    "ingest": ([], [], ["parquet", "python"], "corpus"),
    "validate": (["ingest"], ["documents", "leakage", "passages", "questions"], ["greatexpectations"], "validation"),
    "candidates": (["ingest", "validate"], [], ["parquet", "python"], "candidates"),
    "label": (["candidates", "ingest"], ["label_quality", "labels"], ["huggingface", "pytorch"], "teacher"),
    "train": (["candidates", "ingest", "label"], [], ["mlflow", "pytorch"], "training"),
    "index": (["ingest", "train"], [], ["faiss"], "release"),
    "evaluate": (["index", "ingest", "train"], [], ["huggingface", "python"], "evaluation"),
    "promote": (["candidates", "evaluate", "index", "ingest", "label"], [], ["mlflow"], "registry"),
    "package": (["promote"], [], ["bentoml"], "registry"),
}


def test_specs_of_all_assets():
    checks: dict[str, list[str]] = {name: [] for name in SPECS}
    for spec in defs.resolve_asset_graph().asset_check_keys:
        checks[spec.asset_key.to_user_string()].append(spec.name)
    specs = {spec.key.to_user_string(): spec for spec in defs.resolve_all_asset_specs()}
    assert {
        name: (
            sorted(dep.asset_key.to_user_string() for dep in spec.deps),
            sorted(checks[name]),
            sorted(spec.kinds),
            spec.tags["room"],
        )
        for name, spec in specs.items()
    } == SPECS
    assert {spec.group_name for spec in specs.values()} == {"uae"}
    assert all(spec.description and spec.code_version for spec in specs.values())


def test_every_check_is_blocking_but_the_one_that_judges():
    graph = defs.resolve_asset_graph()
    assert {key.name for key in graph.asset_check_keys if not graph.get_check_spec(key).blocking} == {"label_quality"}


def test_the_job_runs_every_asset():
    job = defs.resolve_job_def("whole_chain")
    assert {key.to_user_string() for key in job.asset_layer.executable_asset_keys} == set(SPECS)


def test_definitions_are_sound():
    dg.Definitions.validate_loadable(defs)


def test_nothing_starts_by_itself():
    assert weekly.default_status is dg.DefaultScheduleStatus.STOPPED
    assert source_changed.default_status is dg.DefaultSensorStatus.STOPPED


def look(project, cursor: str | None):
    resources = {"project": ProjectResource(root=str(project))}
    context = dg.build_sensor_context(cursor=cursor, resources=resources, definitions=build(project))
    return source_changed(context)


def test_sensor_notes_the_source_first_and_starts_the_chain_when_it_changes(project):
    first = look(project, None)
    assert not first.run_requests
    assert first.cursor
    assert isinstance(look(project, first.cursor), dg.SkipReason)

    (project / "data/sample/documents/new.md").write_text("# New\n\nA paragraph.", encoding="utf-8")
    changed = look(project, first.cursor)
    assert len(changed.run_requests) == 1
    assert changed.run_requests[0].run_key is None  # content that comes back is a change again
    assert isinstance(look(project, changed.cursor), dg.SkipReason)


@pytest.mark.parametrize(("path", "reason"), [("hf:name@revision", "pinned"), ("nowhere", "does not exist")])
def test_sensor_skips_with_a_reason_where_there_is_nothing_to_watch(project, path, reason):
    params = project / "params.yaml"
    params.write_text(params.read_text(encoding="utf-8").replace("data/sample", path), encoding="utf-8")
    assert reason in look(project, "0").skip_message


def test_the_link_to_a_run_shows_no_password(monkeypatch):
    found = SimpleNamespace(get_run=lambda run_id: SimpleNamespace(info=SimpleNamespace(experiment_id="7")))
    monkeypatch.setattr(uae.registry.tracking, "connect", lambda *arguments: found)
    settings = SimpleNamespace(tracking=SimpleNamespace(uri="https://me:secret@host/mlflow/", experiment="e"))
    assert MlflowResource().run_url(settings, ".", "r") == "https://host/mlflow/#/experiments/7/runs/r"
