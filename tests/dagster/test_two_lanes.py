"""The sensor of the refresh, and what the chain's own sensor makes of refreshes: one lane does not start the other."""

import hashlib
import json
import shutil
from pathlib import Path

import dagster as dg
import pytest
from conftest import RecordedDvc
from dvc.repo import Repo
from test_definitions import edit, instance, look, set_parameter  # noqa: F401  # fixtures

from dagster_project.automation import corpus_changed
from dagster_project.definitions import build
from dagster_project.resources import ProjectResource
from dagster_project.through import promoted_source
from uae.pipeline.chain import STAGES
from uae.pipeline.refresh import READING
from uae.pipeline.settings import load_settings
from uae.pipeline.workspace import Workspace


@pytest.fixture(autouse=True)
def nothing_is_being_written(project):
    set_parameter(project, "quiet_s: 60", "quiet_s: 0")


@pytest.fixture
def ask(project, instance):  # noqa: F811
    """What the refresh's sensor answers: the tags of the run that it asks for, or why it asks for none."""

    def ask() -> dict[str, str] | str:
        resources = {"project": ProjectResource(root=str(project))}
        with dg.build_sensor_context(instance=instance, resources=resources, definitions=build(project)) as context:
            answer = corpus_changed(context)
        return answer.skip_message if isinstance(answer, dg.SkipReason) else dict(answer.tags)

    return ask


@pytest.fixture
def refresh(project, stub, monkeypatch, recorded_dvc):
    """Run the refresh's job; ``promoted`` is what its gate says."""

    def run(promoted: bool = True) -> dg.ExecuteInProcessResult:
        def refreshed(settings, workspace: Workspace):
            read = json.loads(workspace.path("ingestion").read_text())["source"]["version"]
            result = {"promoted": promoted, "version": 2, "champion": 2, "reasons": ["map fell: FAILED"] * (not promoted)}
            result |= {"passages": {}, "vectors_embedded": 1, "seconds": 1.0, "source": read}
            workspace.path("refresh").write_text(json.dumps(result))
            return result

        monkeypatch.setattr("dagster_project.refresh.refresh_champion", refreshed)

        def read(stage, settings, workspace):
            return stub(stage).run(stage.parameters.of(settings), workspace)  # a report names the scope that it is about

        monkeypatch.setattr("dagster_project.refresh.run_stage", read)
        job = build(project, dvc=recorded_dvc).resolve_job_def("refresh")
        return job.execute_in_process(raise_on_error=False)

    return run


def now(project) -> str:
    return ProjectResource(root=str(project)).source(load_settings(project / "params.yaml")).look().version


def test_nothing_is_refreshed_before_there_is_a_champion(ask):
    assert "run the whole chain first" in ask()


def test_a_refresh_is_asked_for_until_one_was_promoted(project, run_chain, ask, refresh):
    assert run_chain().success
    assert "is what is served" in ask()
    edit(project, "# New")
    first = ask()
    assert (first["source"], first["dagster/priority"]) == (now(project), "1")
    assert not refresh(promoted=False).success
    assert ask() == first  # what was refused is not served
    assert refresh().success
    assert "is what is served" in ask()
    (project / "data/sample/documents/new.md").unlink()
    assert ask()["source"] == now(project)  # content that comes back is a change again
    assert refresh().success
    assert "is what is served" in ask()


def test_a_refused_chain_leaves_the_corpus_to_the_refresh(project, run_chain, ask, results):
    assert run_chain().success
    promotion = project / "reports/promotion.json"
    promotion.write_text(json.dumps(json.loads(promotion.read_text()) | {"promoted": False, "champion": 1}))
    assert ask()["source"] == now(project)
    promotion.write_text(json.dumps(json.loads(promotion.read_text()) | {"champion": None}))
    assert promoted_source(project) is None


def test_a_refresh_waits_for_a_chain_that_runs_and_overtakes_one_that_waits(project, run_chain, ask, instance):  # noqa: F811
    assert run_chain().success
    edit(project, "# New")
    # As one in the queue, which would need an address here.
    instance.add_run(dg.DagsterRun(job_name="whole_chain", run_id="waits", status=dg.DagsterRunStatus.NOT_STARTED))
    assert isinstance(ask(), dict)
    instance.add_run(dg.DagsterRun(job_name="whole_chain", run_id="runs", status=dg.DagsterRunStatus.STARTED))
    assert "whole_chain is under way" in ask()


def test_refreshes_start_no_chain_until_enough_is_new(project, run_chain, look, refresh, instance):  # noqa: F811
    set_parameter(project, "min_documents: 1", "min_documents: 2")
    assert run_chain(instance=instance).success
    edit(project, "# New")
    assert refresh().success
    assert "1 objects changed since the chain went through (retrain.min_documents: 2)" in look()
    (project / "data/sample/documents/newer.md").write_text("# Newer")
    assert refresh().success
    assert look() == {"source": now(project)}  # counted from the chain's own last reading
    assert run_chain(instance=instance).success
    assert "unchanged" in look()


@pytest.fixture
def in_a_terminal(project, stub, monkeypatch):
    """``uae refresh``: the stages that read, and a decision. DVC hears of it where ``recorded``, as by ``dvc repro validate``."""

    def run(recorded: RecordedDvc | None = None) -> None:
        monkeypatch.chdir(project)
        workspace, settings = Workspace(project), load_settings(project / "params.yaml")
        for name in READING:
            stub(STAGES[name]).run(STAGES[name].parameters.of(settings), workspace)
            if recorded is not None:
                recorded.commit(name)
        decision = {"promoted": True, "version": 2, "champion": 2, "source": now(project)}
        workspace.path("refresh").write_text(json.dumps(decision))

    return run


@pytest.mark.parametrize("recorded", [False, True])
def test_a_refresh_in_a_terminal_is_one_too(project, run_chain, look, ask, in_a_terminal, instance, recorded, recorded_dvc):  # noqa: F811
    set_parameter(project, "min_documents: 1", "min_documents: 2")
    assert run_chain(instance=instance).success
    assert "unchanged" in look()
    edit(project, "# New")
    in_a_terminal(recorded_dvc if recorded else None)
    assert "1 objects changed since the chain went through (retrain.min_documents: 2)" in look()
    assert "is what is served" in ask()
    (project / "data/sample/documents/newer.md").write_text("# Newer")
    assert ask()["source"] == now(project)
    in_a_terminal(recorded_dvc if recorded else None)
    assert look() == {"source": now(project)}


def test_nobody_has_to_look_before_a_refresh_in_a_terminal(project, run_chain, look, in_a_terminal, instance):  # noqa: F811
    """DVC's cache has what dvc.lock names."""
    set_parameter(project, "min_documents: 1", "min_documents: 2")
    assert run_chain(instance=instance).success
    Repo.init(str(project), no_scm=True).close()
    with Repo(str(project)) as repo:
        for name in ("source", "ingestion"):
            content = Workspace(project).path(name).read_bytes()
            kept = Path(repo.cache.local.oid_to_path(hashlib.md5(content).hexdigest()))
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_bytes(content)
    shutil.rmtree(project / ".uae")
    edit(project, "# New")
    in_a_terminal()
    assert "1 objects changed since the chain went through (retrain.min_documents: 2)" in look()


def test_a_chain_that_stopped_half_way_after_a_refresh_is_asked_for(project, run_chain, look, refresh, instance):  # noqa: F811
    from uae.io.errors import InputError

    def failing(parameters, workspace):
        raise InputError("no")

    set_parameter(project, "min_documents: 1", "min_documents: 5")
    assert run_chain(instance=instance).success
    edit(project, "# New")
    assert refresh().success
    assert isinstance(look(), str)
    assert not run_chain(instance=instance, train=failing).success
    assert look() == {"source": now(project)}
