"""DVC and Dagster on one project: what one ran, the other takes as done; what one runs, the other leaves alone."""

import contextlib
import functools
import json
import os

import dagster as dg
import pytest
from botocore.exceptions import EndpointConnectionError
from dvc.lock import LockError
from dvc.repo import Repo
from dvc.rwlock import rwlock

from dagster_project.resources import DvcResource
from uae.pipeline.chain import CHAIN


@pytest.fixture
def repository(project):
    with contextlib.chdir(project):
        Repo.init(no_scm=True).close()
    return project


def status(project) -> dict:
    with contextlib.chdir(project), Repo() as repo:
        return repo.status()


def test_dvc_has_nothing_to_do_after_dagster(repository, run_chain):
    assert status(repository)
    result = run_chain(dvc=DvcResource())
    assert result.success, [e.message for e in result.all_events if e.is_failure]
    assert status(repository) == {}
    with contextlib.chdir(repository), Repo() as repo:
        assert repo.reproduce() == []
    (event,) = result.asset_materializations_for_node("label")
    assert set(event.metadata["dvc md5"].data) == {
        "data/labels", "data/labels.json", "reports/label_validation.json", "reports/utility_histogram.csv",
        "reports/labels.json", "reports/labels.html",
    }  # fmt: skip


def test_changed_code_outdates_dagsters_record(repository, run_chain):
    run_chain(dvc=DvcResource())
    with open(repository / "uae/release/manifest.py", "a", encoding="utf-8") as file:
        file.write("# changed\n")
    assert set(status(repository)) == {
        stage.name for stage in CHAIN if {"uae/release", "uae/release/manifest.py"} & set(stage.code)
    }


def test_a_store_that_is_away_while_dvc_asks_it_is_tried_again(repository, run_chain, monkeypatch):
    """The source may be on S3: then DVC asks the store what it holds, and lets its client's errors through."""
    monkeypatch.setattr("dagster_project.again.AGAIN", dg.RetryPolicy(max_retries=1, delay=0))
    real, failed = Repo.status, []

    @functools.wraps(real)
    def away_once(*arguments, **named):
        if not failed:
            failed.append(EndpointConnectionError(endpoint_url="http://127.0.0.1:1/bucket"))
            raise failed[0]
        return real(*arguments, **named)

    monkeypatch.setattr(Repo, "status", away_once)
    result = run_chain(dvc=DvcResource())
    assert failed
    assert result.success
    assert status(repository) == {}


def test_a_stage_that_dvc_is_running_is_not_run(repository, run_chain, monkeypatch):
    monkeypatch.setattr("dagster_project.again.AGAIN", dg.RetryPolicy(max_retries=1, delay=0))
    lock = {"write": {str(repository / "data/candidates.parquet"): {"pid": os.getppid(), "cmd": "dvc repro"}}, "read": {}}
    (repository / ".dvc/tmp/rwlock").write_text(json.dumps(lock), encoding="utf-8")
    result = run_chain(dvc=DvcResource(patience=0))
    assert "DVC is busy" in result.failure_data_for_node("candidates").user_failure_data.description
    assert not (repository / "data/candidates.parquet").exists()


def test_dvc_does_not_run_a_stage_that_dagster_is_running(repository):
    outputs = [str(repository / "data/documents.parquet")]
    with contextlib.chdir(repository), Repo() as repo:
        repro = functools.partial(rwlock, repo.tmp_dir, repo.fs, "dvc repro", [], outputs, False)
        with DvcResource().holding("ingest"), pytest.raises(LockError, match="busy"), repro():
            pass
        with repro():
            pass


def test_dvc_tells_whether_its_outputs_are_on_the_disk_and_whether_a_stage_is_current(repository, run_chain):
    assert run_chain(dvc=DvcResource()).success
    found = DvcResource()
    assert all(found.is_on_disk(stage.name, repository) for stage in CHAIN)
    (repository / "models/fusion.json").write_text("{}")
    assert [stage.name for stage in CHAIN if not found.is_on_disk(stage.name, repository)] == ["fuse"]
    with contextlib.chdir(repository):
        assert [stage.name for stage in CHAIN if not found.is_current(stage.name)] == ["fuse", "index"]
