"""Runs as Dagster starts them by default, and watched: a run whose process is gone is said to be, and does not hold the queue.

Dagster's own launcher cannot tell. Where code server and run die together, the run stays "started" until ``max_runtime_seconds``.
Once such a run is called failed, Dagster tries a single time to start another. So it is called that when the code server is back.
"""

import time
from typing import Self

import psutil
from dagster import DagsterEventType, DagsterRun, DefaultRunLauncher, TextMetadataValue
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus
from dagster._serdes import ConfigurableClassData

_SLACK_S = 60.0  # between a process's start as the system tells it, and its first event
_PATIENCE_S = 60.0  # with a code server that is away. One on another port never answers here


class WatchedRunLauncher(DefaultRunLauncher):
    """For one machine: the daemon has to see the processes of the code server."""

    def __init__(self, inst_data: ConfigurableClassData | None = None):
        super().__init__(inst_data)
        self._gone_since: dict[str, float] = {}  # run -> when its process was first missed

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: object) -> Self:
        return cls(inst_data)

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """A run says its process's number when it starts. Another process may have the number by now: then it is younger."""
        started = self._process_of(run)
        if started is None:  # Dagster would end the run for any other answer
            return CheckRunHealthResult(WorkerStatus.RUNNING, "the run has not said which process it is")
        number, said_at = started
        try:
            alive = psutil.Process(number).create_time() <= said_at + _SLACK_S
            alive = alive and psutil.Process(number).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            alive = False
        if alive:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        missed = time.monotonic() - self._gone_since.setdefault(run.run_id, time.monotonic())
        if missed < _PATIENCE_S and not self._code_server_answers(run):
            said = f"its process {number} is gone, and the code server is not back to start another run"
            return CheckRunHealthResult(WorkerStatus.RUNNING, said)
        del self._gone_since[run.run_id]
        return CheckRunHealthResult(WorkerStatus.FAILED, f"its process {number} is gone")

    def _code_server_answers(self, run: DagsterRun) -> bool:
        client = self._get_grpc_client_for_termination(run.run_id)  # type: ignore[no-untyped-call]
        if client is None:  # the run does not say who started it: there is nobody to wait for
            return True
        try:
            client.ping("")
        except DagsterUserCodeUnreachableError:
            return False
        return True

    def _process_of(self, run: DagsterRun) -> tuple[int, float] | None:
        """Number and the time at which it was said, seconds since 1970."""
        for event in self._instance.all_logs(run.run_id, of_type=DagsterEventType.ENGINE_EVENT):
            told = event.get_dagster_event().engine_event_data.metadata.get("pid")
            if isinstance(told, TextMetadataValue) and told.value and "Started process for run" in event.message:
                return int(told.value), event.timestamp
        return None
