"""The job of the refresh lane: read and validate, record in DVC, then the champion over these tables."""

import contextlib

import dagster as dg
import pytest

import dagster_project.refresh
from dagster_project.definitions import build
from dagster_project.resources import DvcResource
from uae.io.errors import InputError, RegistryError

COUNTS = {"passages": {"new": 2, "taken_over": 40, "gone": 1}, "vectors_embedded": 2, "seconds": 3.5}


class Recorded(DvcResource):
    """Writes down what was committed."""

    def holding(self, stage: str):
        return contextlib.nullcontext()

    def commit(self, stage: str) -> dict[str, str]:
        with open("commits.txt", "a", encoding="utf-8") as file:
            file.write(stage + "\n")
        return {}


@pytest.fixture
def run(project, monkeypatch):
    """Execute the job in process; ``answer`` is what the refresh returns or raises, a list of them by turns.

    Returns its result and what was called.
    """
    called = []
    monkeypatch.setattr(dagster_project.refresh, "run_stage", lambda stage, settings, workspace: called.append(stage.name))

    def execute(answer):
        def refreshed(settings, workspace):
            called.append("refresh")
            now = answer.pop(0) if isinstance(answer, list) else answer
            if isinstance(now, Exception):
                raise now
            return now

        monkeypatch.setattr(dagster_project.refresh, "refresh_champion", refreshed)
        job = build(project, dvc=Recorded()).resolve_job_def("refresh")
        return job.execute_in_process(raise_on_error=False), called

    return execute


def test_tables_are_read_validated_and_recorded_before_the_champion_is_refreshed(project, run):
    result, called = run(COUNTS | {"promoted": True, "version": 4, "champion": 4, "reasons": ["map kept: passed"]})
    assert result.success
    assert called == ["ingest", "validate", "refresh"]
    assert (project / "commits.txt").read_text().split() == ["ingest", "validate"]
    (told,) = [event for event in result.all_events if event.is_successful_output and event.step_key == "refresh_release"]
    metadata = told.step_output_data.metadata
    assert (metadata["new"].value, metadata["gone"].value, metadata["encoded"].value) == (2, 1, 2)


def test_a_refused_release_fails_the_run_with_the_rules(run):
    answer = COUNTS | {"promoted": False, "version": 5, "champion": 4, "reasons": ["map fell: FAILED", "recall@1 kept: passed"]}
    result, _ = run(answer)
    assert not result.success
    failure = result.failure_data_for_node("refresh_release")
    assert failure.user_failure_data.description == "version 5 was refused: map fell: FAILED"


def test_a_message_for_people_is_the_runs_message(run):
    result, _ = run(InputError("there is nothing to refresh"))
    assert result.failure_data_for_node("refresh_release").user_failure_data.description == "there is nothing to refresh"


@pytest.mark.parametrize(("outage", "success"), [(2, True), (3, False)])
def test_a_server_that_is_away_is_waited_for(run, monkeypatch, outage, success):
    monkeypatch.setattr("dagster_project.again.AGAIN", dg.RetryPolicy(max_retries=2, delay=0))
    away = [RegistryError("MLflow does not answer", transient=True) for _ in range(outage)]
    result, called = run([*away, COUNTS | {"promoted": True, "version": 4, "champion": 4, "reasons": []}])
    assert result.success is success
    assert called == ["ingest", "validate", "refresh", "refresh", "refresh"]  # the source is not read again


def test_what_does_not_go_away_is_not_tried_again(run):
    result, called = run([InputError("there is nothing to refresh"), COUNTS])
    assert not result.success
    assert called.count("refresh") == 1
