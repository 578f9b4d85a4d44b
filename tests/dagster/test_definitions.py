"""What Dagster loads: every asset's spec, and that nothing starts by itself."""

import time
from types import SimpleNamespace

import dagster as dg
import pytest

import uae.registry.tracking
from dagster_project.automation import source_changed, weekly
from dagster_project.definitions import build, defs
from dagster_project.resources import MlflowResource, ProjectResource
from uae.io.errors import InputError

# asset -> (upstream, checks, kinds, room)
SPECS = {
    "ingest": ([], [], ["parquet", "python"], "corpus"),
    "validate": (["ingest"], ["documents", "leakage", "passages", "questions"], ["greatexpectations"], "validation"),
    "candidates": (["ingest", "validate"], [], ["parquet", "python"], "candidates"),
    "label": (["candidates", "ingest"], ["label_quality", "labels"], ["huggingface", "pytorch"], "teacher"),
    "train": (["candidates", "ingest", "label"], [], ["mlflow", "pytorch"], "training"),
    "fuse": (["candidates", "ingest", "label", "train"], [], ["pytorch"], "training"),
    "index": (["fuse", "ingest", "train"], [], ["faiss"], "release"),
    "evaluate": (["index", "ingest", "train"], [], ["huggingface", "python"], "evaluation"),
    "promote": (["candidates", "evaluate", "index", "ingest", "label"], [], ["mlflow"], "registry"),
    "package": (["promote"], [], ["bentoml"], "registry"),
    "drift": ([], ["no_drift"], ["python"], "drift"),
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
    assert {name: spec.group_name for name, spec in specs.items()} == dict.fromkeys(SPECS, "uae") | {"drift": "watch"}
    assert all(spec.description and spec.code_version for spec in specs.values())


def test_every_check_is_blocking_but_those_that_judge():
    graph = defs.resolve_asset_graph()
    assert {key.name for key in graph.asset_check_keys if not graph.get_check_spec(key).blocking} == {"label_quality", "no_drift"}


def test_the_job_runs_every_asset_of_the_chain():
    job = defs.resolve_job_def("whole_chain")
    assert {key.to_user_string() for key in job.asset_layer.executable_asset_keys} == {*SPECS} - {"drift"}


def test_definitions_are_sound():
    dg.Definitions.validate_loadable(defs)


def test_nothing_starts_by_itself():
    assert weekly.default_status is dg.DefaultScheduleStatus.STOPPED
    assert source_changed.default_status is dg.DefaultSensorStatus.STOPPED


@pytest.fixture
def instance():
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def look(project, instance):
    """What the sensor answers now: the tags of the run that it asks for, or why it asks for none."""

    def look() -> dict[str, str] | str:
        resources = {"project": ProjectResource(root=str(project))}
        context = dg.build_sensor_context(instance=instance, resources=resources, definitions=build(project))
        answer = source_changed(context)
        assert isinstance(answer, dg.SkipReason) or answer.run_key is None  # Dagster would start a key only once
        return answer.skip_message if isinstance(answer, dg.SkipReason) else {"source": answer.tags["source"]}

    return look


def edit(project, text: str) -> None:
    (project / "data/sample/documents/new.md").write_text(text, encoding="utf-8")


def test_the_sensor_asks_for_a_run_until_the_chain_went_through_with_the_source(project, run_chain, instance, look):
    first = look()
    assert look() == first  # looking alone changes nothing
    assert run_chain(instance=instance, tags=first).success
    assert "unchanged" in look()
    edit(project, "# New")
    second = look()
    assert second["source"] != first["source"]
    assert run_chain(instance=instance).success  # whoever started it
    assert "unchanged" in look()
    (project / "data/sample/documents/new.md").unlink()
    assert look() == first  # content that comes back is a change again


def failing(parameters, workspace):
    raise InputError("no")


@pytest.mark.parametrize("stage", ["ingest", "train"])
def test_the_sensor_asks_again_after_a_failed_run_in_growing_pauses(project, run_chain, instance, look, monkeypatch, stage):
    assert run_chain(instance=instance).success
    edit(project, "# New")
    wanted = look()
    for pause in (300, 600):
        assert not run_chain(instance=instance, tags=wanted, **{stage: failing}).success
        now = time.time()
        assert "failed" in look()
        with monkeypatch.context() as later:
            later.setattr(time, "time", lambda: now + pause - 30)  # noqa: B023
            assert "failed" in look()
            later.setattr(time, "time", lambda: now + pause + 1)  # noqa: B023
            assert look() == wanted
    assert run_chain(instance=instance, tags=wanted).success
    assert "unchanged" in look()


def test_the_sensor_waits_for_a_run_that_is_under_way(instance, look):
    instance.add_run(dg.DagsterRun(job_name="whole_chain", run_id="1", status=dg.DagsterRunStatus.STARTED))
    assert "under way" in look()


def test_a_source_that_changes_while_it_is_read_is_another_version(project, run_chain, instance, look):
    def ingest(parameters, workspace):
        edit(project, "# Meanwhile")
        return {}

    assert run_chain(instance=instance, ingest=ingest)
    assert isinstance(look(), dict)


@pytest.mark.parametrize(("path", "reason"), [("hf:name@revision", "pinned"), ("nowhere", "does not exist")])
def test_sensor_skips_with_a_reason_where_there_is_nothing_to_watch(project, look, path, reason):
    params = project / "params.yaml"
    params.write_text(params.read_text(encoding="utf-8").replace("data/sample", path), encoding="utf-8")
    assert reason in look()


def test_the_link_to_a_run_shows_no_password(monkeypatch):
    found = SimpleNamespace(get_run=lambda run_id: SimpleNamespace(info=SimpleNamespace(experiment_id="7")))
    monkeypatch.setattr(uae.registry.tracking, "connect", lambda *arguments: found)
    settings = SimpleNamespace(tracking=SimpleNamespace(uri="https://me:secret@host/mlflow/", experiment="e"))
    assert MlflowResource().run_url(settings, ".", "r") == "https://host/mlflow/#/experiments/7/runs/r"
