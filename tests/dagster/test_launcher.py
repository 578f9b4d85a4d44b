"""A run whose process is gone is found, and one whose process lives is left alone."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import dagster._grpc.impl
import psutil
import pytest
from dagster._core.events import EngineEventData
from dagster._core.launcher import WorkerStatus
from dagster._core.storage.tags import GRPC_INFO_TAG
from dagster._grpc.client import DagsterGrpcClient

from dagster_project.launcher import WatchedRunLauncher

HERE = {"run_launcher": {"module": "dagster_project.launcher", "class": "WatchedRunLauncher"}}


@pytest.fixture
def instance():
    with dg.instance_for_test(overrides=HERE) as instance:
        yield instance


@pytest.fixture
def run(instance):
    run = dg.DagsterRun(job_name="whole_chain", run_id="1", status=dg.DagsterRunStatus.STARTED)
    instance.add_run(run)
    return run


@pytest.fixture
def process():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.wait()


def say(instance, run, number: int) -> None:
    """As Dagster does where a run's process begins."""
    instance.report_engine_event(f"Started process for run (pid: {number}).", run, EngineEventData.in_process(number))


def health(instance, run):
    launcher = instance.run_launcher
    assert isinstance(launcher, WatchedRunLauncher)
    assert launcher.supports_check_run_worker_health
    return launcher.check_run_worker_health(run)


def test_the_words_are_those_that_dagster_says():
    """The launcher goes by them."""
    said = Path(dagster._grpc.impl.__file__).read_text(encoding="utf-8")
    assert 'f"Started process for run (pid: {pid})."' in said


def test_a_run_that_has_said_nothing_yet_is_left_alone(instance, run):
    assert health(instance, run).status is WorkerStatus.RUNNING


def test_a_live_process_is_healthy_and_a_dead_one_is_not(instance, run, process):
    say(instance, run, process.pid)
    assert health(instance, run).status is WorkerStatus.RUNNING
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is a zombie: nobody took its exit status
    assert health(instance, run).status is WorkerStatus.FAILED
    process.wait()
    assert health(instance, run).status is WorkerStatus.FAILED
    assert str(process.pid) in health(instance, run).msg


def test_another_process_with_the_number_is_another_process(instance, run, process, monkeypatch):
    say(instance, run, process.pid)
    began = psutil.Process(process.pid).create_time()
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: began + 3600)
    assert health(instance, run).status is WorkerStatus.FAILED


@pytest.fixture
def away(run, instance):
    """A code server that started the run, and is away: nothing listens at its port."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        there = {"host": "127.0.0.1", "port": bound.getsockname()[1]}
        instance.add_run_tags(run.run_id, {GRPC_INFO_TAG: json.dumps(there)})
        yield


@pytest.fixture
def dead(run, instance, process):
    say(instance, run, process.pid)
    process.kill()
    process.wait()


def test_a_dead_run_is_called_failed_when_the_code_server_is_back(instance, run, dead, away, monkeypatch):
    """Dagster tries once to start another run after one that failed, and gives up where nobody can start it."""
    told = health(instance, run)
    assert told.status is WorkerStatus.RUNNING
    assert "the code server is not back" in told.msg
    monkeypatch.setattr(DagsterGrpcClient, "ping", lambda self, echo: {})
    assert health(instance, run).status is WorkerStatus.FAILED


def test_a_code_server_that_stays_away_holds_no_queue(instance, run, dead, away, monkeypatch):
    assert health(instance, run).status is WorkerStatus.RUNNING
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 61)
    assert health(instance, run).status is WorkerStatus.FAILED
