"""Runs as Dagster starts them by default, and watched: a run whose process is gone is said to be, and does not hold the queue.

Dagster's own launcher cannot tell. Where code server and run die together, the run stays "started" until ``max_runtime_seconds``.
"""

from typing import Self

import psutil
from dagster import DagsterEventType, DagsterRun, DefaultRunLauncher, TextMetadataValue
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus
from dagster._serdes import ConfigurableClassData

_SLACK_S = 60.0  # between a process's start as the system tells it, and its first event


class WatchedRunLauncher(DefaultRunLauncher):
    """For one machine: the daemon has to see the processes of the code server."""

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
        return CheckRunHealthResult(WorkerStatus.FAILED, f"its process {number} is gone")

    def _process_of(self, run: DagsterRun) -> tuple[int, float] | None:
        """Number and the time at which it was said, seconds since 1970."""
        for event in self._instance.all_logs(run.run_id, of_type=DagsterEventType.ENGINE_EVENT):
            told = event.get_dagster_event().engine_event_data.metadata.get("pid")
            if isinstance(told, TextMetadataValue) and told.value and "Started process for run" in event.message:
                return int(told.value), event.timestamp
        return None
