"""What Dagster loads: every asset's spec, and that nothing starts by itself."""

import hashlib
import json
import shutil
import time
from types import SimpleNamespace

import dagster as dg
import mlflow
import pytest
import requests
import yaml

import uae.registry.tracking
from dagster_project.automation import corpus_changed, source_changed, weekly, went_through
from dagster_project.definitions import ROOT, build, defs
from dagster_project.resources import MlflowResource, ProjectResource
from uae.corpus.loss import confirm
from uae.io.errors import InputError, RegistryError
from uae.pipeline.settings import load_settings

# asset -> (upstream, checks, kinds, room)
SPECS = {
    "source": ([], [], [], "corpus"),
    "ingest": (["source"], [], ["parquet", "python"], "corpus"),
    "validate": (["ingest"], ["documents", "leakage", "passages", "questions"], ["greatexpectations"], "validation"),
    "candidates": (["ingest", "validate"], [], ["parquet", "python"], "candidates"),
    "label": (["candidates", "ingest"], ["label_quality", "labels"], ["huggingface", "pytorch"], "teacher"),
    "train": (["candidates", "ingest", "label"], [], ["mlflow", "pytorch"], "training"),
    "fuse": (["candidates", "ingest", "label", "train"], [], ["pytorch"], "training"),
    "index": (["fuse", "ingest", "train"], [], ["faiss"], "release"),
    "evaluate": (["index", "ingest", "train"], [], ["huggingface", "python"], "evaluation"),
    "promote": (["candidates", "evaluate", "index", "ingest", "label"], ["gate"], ["mlflow"], "registry"),
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
    assert all(spec.description and (spec.code_version or name == "source") for name, spec in specs.items())


def test_every_check_is_blocking_but_those_that_judge():
    graph = defs.resolve_asset_graph()
    judging = {"label_quality", "gate", "no_drift"}
    assert {key.name for key in graph.asset_check_keys if not graph.get_check_spec(key).blocking} == judging


def test_the_job_runs_every_asset_of_the_chain():
    job = defs.resolve_job_def("whole_chain")
    assert {key.to_user_string() for key in job.asset_layer.executable_asset_keys} == set(SPECS) - {"source", "drift"}


def test_definitions_are_sound():
    dg.Definitions.validate_loadable(defs)


def test_nothing_starts_by_itself():
    assert weekly.default_status is dg.DefaultScheduleStatus.STOPPED
    for sensor in (source_changed, corpus_changed, went_through):
        assert sensor.default_status is dg.DefaultSensorStatus.STOPPED


@pytest.fixture
def instance():
    with dg.instance_for_test() as instance:  # a schedule opens its instance anew, and cannot find an ephemeral one
        yield instance


@pytest.fixture
def look(project, instance):
    """What the sensor answers now: the tags of the run that it asks for, or why it asks for none."""

    def look() -> dict[str, str] | str:
        resources = {"project": ProjectResource(root=str(project))}
        with dg.build_sensor_context(instance=instance, resources=resources, definitions=build(project)) as context:
            answer = source_changed(context)
        assert isinstance(answer, dg.SkipReason) or answer.run_key is None  # Dagster would start a key only once
        return answer.skip_message if isinstance(answer, dg.SkipReason) else {"source": answer.tags["source"]}

    return look


@pytest.fixture(autouse=True)
def nothing_is_being_written(project):
    set_parameter(project, "quiet_s: 60", "quiet_s: 0")


def set_parameter(project, old: str, new: str) -> None:
    params = project / "params.yaml"
    text = params.read_text(encoding="utf-8")
    assert old in text
    params.write_text(text.replace(old, new), encoding="utf-8")


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


def test_the_steps_that_load_models_share_a_pool_and_all_others_another():
    jobs = defs.resolve_all_job_defs()
    pools = {op.name: op.pool for job in jobs for op in job.all_node_defs if op.name != "source"}
    assert {name for name, pool in pools.items() if pool == "accelerator"} == {
        "candidates", "label", "train", "fuse", "index", "evaluate", "promote", "refresh_release", "backfill_version",
    }  # fmt: skip
    assert set(pools.values()) == {"accelerator", "cpu"}


def test_dagster_takes_its_settings(tmp_path, monkeypatch):
    shutil.copy(ROOT / "dagster_project/dagster.yaml", tmp_path)
    with dg.instance_for_test(temp_dir=str(tmp_path), overrides=yaml.safe_load((tmp_path / "dagster.yaml").read_text())) as found:
        assert found.get_concurrency_config().pool_config.default_pool_limit == 1
        assert found.run_monitoring_settings["max_runtime_seconds"] == 86400
        assert found.run_monitoring_settings["free_slots_after_run_end_seconds"] == 60


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
    set_parameter(project, "data/sample", path)
    assert reason in look()


def test_files_that_are_being_written_wait_until_they_are_quiet(project, look, monkeypatch):
    set_parameter(project, "quiet_s: 0", "quiet_s: 60")
    edit(project, "# New")
    assert "may still be being written" in look()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 61)
    assert isinstance(look(), dict)
    monkeypatch.undo()
    (project / "data/sample/documents/new.md").unlink()
    assert "may still be being written" in look()  # as one that is being emptied


def test_a_source_that_lost_much_waits_for_a_person(project, look):
    watch = ProjectResource(root=str(project)).source(load_settings(project / "params.yaml"))
    watch.write(watch.look())
    documents = sorted((project / "data/sample/documents").iterdir())
    for file in documents[: len(documents) // 2]:
        file.unlink()
    said = look()
    assert "objects of the source are gone" in said
    assert "uae source confirm" in said
    confirm(watch.look().version, "me", "they are old", watch.confirmations)
    assert isinstance(look(), dict)
    documents[-1].unlink()  # a word holds for what was seen
    assert "objects of the source are gone" in look()


def test_few_documents_wait_for_more(project, run_chain, instance, look):
    set_parameter(project, "min_documents: 1", "min_documents: 2")
    assert run_chain(instance=instance).success
    edit(project, "# New")
    assert "1 objects changed since the chain went through (retrain.min_documents: 2)" in look()
    (project / "data/sample/documents/newer.md").write_text("# Newer")
    assert isinstance(look(), dict)


@pytest.fixture
def cron(project, instance):
    """What the schedule answers now: the tags of the run that it asks for, or why it asks for none."""

    def tick() -> dict[str, str] | str:
        resources = {"project": ProjectResource(root=str(project))}
        # Closed here: else the instance that it opened is closed by the garbage collector, after the fixture's, and puts
        # that back as the one whose state Dagster reads. Every later test of the process then fails.
        with dg.build_schedule_context(instance=instance, resources=resources) as context:
            answer = weekly(context)
        return answer.skip_message if isinstance(answer, dg.SkipReason) else answer.tags

    return tick


def test_the_schedule_starts_only_when_enough_is_new(project, run_chain, instance, cron):
    assert cron()["chain/changed_objects"] == "never went through"
    assert run_chain(instance=instance).success
    assert "unchanged" in cron()
    edit(project, "# New")
    tags = cron()
    assert (tags["chain/started_by"], tags["chain/changed_objects"], tags["chain/readings_waiting"]) == ("weekly", "1", "0")
    instance.add_run(dg.DagsterRun(job_name="whole_chain", run_id="1", status=dg.DagsterRunStatus.STARTED))
    assert "under way" in cron()  # two triggers, one run


def test_the_schedule_starts_for_readings_that_wait_and_the_sensor_does_not(project, run_chain, instance, cron, look):
    set_parameter(project, "min_readings: 1", "min_readings: 10")
    assert run_chain(instance=instance).success
    for waiting, starts in ((9, False), (10, True)):
        manifest = {"format": 2, "teachers": [], "answers_per_question": 1, "waiting": waiting}
        (project / "data/labels.json").write_text(json.dumps(manifest))
        lock = yaml.safe_load((project / "dvc.lock").read_text())
        for stage in lock["stages"].values():
            for entry in stage["deps"] + stage["outs"]:
                if entry["path"] == "data/labels.json":
                    entry["md5"] = hashlib.md5((project / "data/labels.json").read_bytes()).hexdigest()
        (project / "dvc.lock").write_text(yaml.safe_dump(lock))
        assert isinstance(cron(), dict) == starts
        assert f"{waiting} readings wait" in look()


def test_after_drift_anything_new_is_enough_and_nothing_new_is_not(project, run_chain, instance, cron, look):
    for key in ("min_documents: 1", "min_readings: 1"):
        set_parameter(project, key, f"{key}00")
    assert run_chain(instance=instance).success
    edit(project, "# New")
    report = project / "reports/drift.json"
    for retrain in (False, True):
        report.write_text(json.dumps({"status": "watching", "drifted": True, "retrain": retrain}))
        for asked in (look, cron):
            answer = asked()
            assert isinstance(answer, dict) == retrain, answer
    assert answer["chain/drifted"] == "true"
    assert run_chain(instance=instance).success
    assert "Queries have drifted: anything new starts the chain" in cron()  # the same data give the same encoder
    assert "Queries have drifted" in look()
    report.write_text("[]")
    assert "is not what uae drift writes: delete it" in cron()


def test_a_run_that_failed_half_way_is_asked_for_though_the_source_went_back(project, run_chain, instance, look):
    assert run_chain(instance=instance).success
    edit(project, "# New")
    assert not run_chain(instance=instance, train=failing).success
    (project / "data/sample/documents/new.md").unlink()
    assert isinstance(look(), dict)
    assert run_chain(instance=instance).success
    assert "unchanged" in look()


def test_the_link_to_a_run_shows_no_password(monkeypatch):
    found = SimpleNamespace(get_run=lambda run_id: SimpleNamespace(info=SimpleNamespace(experiment_id="7")))
    monkeypatch.setattr(uae.registry.tracking, "connect", lambda *arguments: found)
    settings = SimpleNamespace(tracking=SimpleNamespace(uri="https://me:secret@host/mlflow/", experiment="e"))
    assert MlflowResource().run_url(settings, ".", "r") == "https://host/mlflow/#/experiments/7/runs/r"


def test_a_server_that_is_away_when_its_link_is_wanted_is_asked_again(monkeypatch):
    """The stage is done by then: the second try finds it current."""

    def away(run_id):
        raise mlflow.MlflowException("away") from requests.ConnectionError()

    monkeypatch.setattr(uae.registry.tracking, "connect", lambda *arguments: SimpleNamespace(get_run=away))
    settings = SimpleNamespace(tracking=SimpleNamespace(uri="https://host/mlflow/", experiment="e"))
    with pytest.raises(RegistryError, match="the run's page") as raised:
        MlflowResource().run_url(settings, ".", "r")
    assert raised.value.transient
