"""The map over batches on actors of a Ray cluster, each of which keeps its model loaded.

Ray schedules, transports and restarts. What is here is the loop over ``ray.wait`` that Ray does not give. A batch whose worker is
lost goes to another one, results come as soon as they are there, and standing still is an error and no silence. Workers only
compute. The driver alone writes, so a killed worker loses its batch in flight, and nothing of what is stored.
"""

import logging
import os
import socket
import subprocess
import sys
import time
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

from uae.execution.options import ExecutionOptions
from uae.execution.ray_actor import actor_class, versions
from uae.io.errors import ExecutionError, UaeError

log = logging.getLogger(__name__)

B = TypeVar("B")

# They decide with the model what is computed. A build's mark (+cpu) is no difference: devices are compared by the workers' facts.
_LIBRARIES = ("ray", "torch", "transformers", "tokenizers", "sentence-transformers", "numpy")
_LOOK_S = 1.0  # between two looks after workers that are not there yet
_CONNECT_S = 10.0
_ATTEMPTS = 3  # of a client
_ABORTED = 3  # the exit code of a probe for which the cluster could start nothing
_PROBE = f"""
import sys, ray
try:
    ray.init(address=sys.argv[1], log_to_driver=False, logging_level="error")
except ConnectionAbortedError as error:
    print(error, file=sys.stderr)
    sys.exit({_ABORTED})
except Exception as error:
    sys.exit(str(error))
"""


class Worker(Protocol):
    """What an actor holds. The actor calls ``work`` in as many threads at once as the worker has slots."""

    slots: int

    def facts(self) -> dict[str, Any]:
        """What has to be equal among all workers, such as what a part's provenance says."""

    def work(self, batch: Any) -> Any:
        """The result of a batch: the same, whichever worker is asked."""

    def start_thread(self) -> None:
        """Called by each thread before it works for the first time."""


@dataclass
class _Job:
    method: str
    arguments: tuple[Any, ...]
    lost: int = 0  # how often its worker was


@dataclass(eq=False)
class _Held:
    """One actor, as the driver knows it."""

    actor: Any
    slots: int = 0  # 0: it is not ready
    node: str = "a node that is not known yet"
    pid: int = 0
    greeting: Any = None  # the reference of its answer, while it starts or comes back
    greeted: float = 0.0
    gone: str = ""  # why it never comes back


class RayPool:
    """Workers on a cluster. They end with the pool.

    Args:
        make: "MODULE:FUNCTION" of uae that makes a ``Worker``. It is a name and no function, so that a worker of another version
            can still say that it is one.
        arguments: of that function: numbers, texts and None.
        doing: what the workers are for, in messages.

    Attributes:
        facts: of the workers.
        size: the number of workers.
        slots: batches in flight at once, when all workers are there.

    Raises:
        ExecutionError: Ray is not installed, nobody answers at the address, or no worker comes up in time. Or one has another
            version, cannot open a file that it needs, or differs from the first one.
    """

    def __init__(self, options: ExecutionOptions, make: str, arguments: Mapping[str, Any], doing: str):
        self._options, self._doing = options, doing
        self._ray = connect(options)
        expected = versions(_LIBRARIES)
        remote = self._ray.remote(actor_class()).options(
            num_cpus=options.worker_cpus,
            num_gpus=options.worker_gpus,
            max_restarts=options.restarts,
            max_task_retries=0,
            max_concurrency=options.worker_cpus + 1,  # one for being asked who it is
        )
        self._workers = [_Held(remote.remote(make, dict(arguments), expected)) for _ in range(options.workers)]
        self._end = weakref.finalize(self, _end_all, self._ray, [worker.actor for worker in self._workers])
        self.facts: dict[str, Any] = {}
        self.size = options.workers
        try:
            self._await_workers()
        except BaseException:
            self.close()
            raise
        self.slots = options.workers * max(worker.slots for worker in self._workers)

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that are there, each on its own machine."""
        return [worker.pid for worker in self._workers if worker.slots]

    def close(self) -> None:
        """End the workers. They also end when nobody holds the pool any more."""
        self._end()

    def spread(self, batches: Iterable[B]) -> Iterator[tuple[B, Any]]:
        """Each batch with its result, as soon as it is there; each worker has as many in flight as it has slots.

        A batch whose worker is lost is done by another one.

        Raises:
            ExecutionError: nothing was finished in ``stalled_s``, all workers are gone, or a batch lost more workers than
                ``restarts``.
            UaeError: as the worker raised it.
        """
        for job, result in self._map(_Job("work", (batch,)) for batch in batches):
            yield job.arguments[0], result

    def ask(self, method: str, *arguments: Any) -> Any:
        """What a method of any one worker returns. Raises as ``spread``."""
        ((_, answer),) = self._map([_Job(method, arguments)])
        return answer

    def _map(self, jobs: Iterable[_Job]) -> Iterator[tuple[_Job, Any]]:
        ray, jobs = self._ray, iter(jobs)
        again: deque[_Job] = deque()  # of lost workers
        flying: dict[Any, tuple[_Held, _Job]] = {}
        moved = time.monotonic()
        while True:
            if not flying and not again:
                following = next(jobs, None)
                if following is None:
                    return
                again.append(following)
            for worker in self._workers:
                while sum(other is worker for other, _ in flying.values()) < worker.slots:
                    job = again.popleft() if again else next(jobs, None)
                    if job is None:
                        break
                    flying[worker.actor.call.remote(job.method, *job.arguments)] = worker, job
            greetings = self._greet()
            left = moved + self._options.stalled_s - time.monotonic()
            # One at a time: the caller stores it before another batch takes its place.
            reference = self._next([*flying, *greetings], left)
            if reference is None:
                if left <= 0:
                    raise self._stalled(sorted({worker.node for worker, _ in flying.values()}), len(flying))
            elif reference in greetings:
                if self._takes_in(greetings[reference]):
                    moved = time.monotonic()
            else:
                worker, job = flying.pop(reference)
                try:
                    result = ray.get(reference, timeout=self._options.stalled_s)
                except ray.exceptions.RayTaskError as error:
                    if isinstance(error.cause, UaeError):
                        raise error.cause from error
                    raise
                except ray.exceptions.RayError as error:
                    self._lose(worker, job, error)
                    again.append(job)
                else:
                    yield job, result
                    moved = time.monotonic()

    def _await_workers(self) -> None:
        """Wait for all workers, and after ``stalled_s`` go on with those that came. The others join when there is room."""
        until = time.monotonic() + self._options.stalled_s
        while any(not worker.slots and not worker.gone for worker in self._workers):
            left = until - time.monotonic()
            if left <= 0:
                break
            greetings = self._greet()
            reference = self._next([*greetings], left)
            if reference is not None:
                self._takes_in(greetings[reference])
        ready = sum(worker.slots > 0 for worker in self._workers)
        if not ready:
            self._refuse_if_all_are_gone()
            raise self._stalled([], 0)
        if ready < len(self._workers):
            log.warning(
                "%s: %d of %d workers are there after %g s (%s); the others join when there is room",
                self._doing, ready, len(self._workers), self._options.stalled_s, self._room(),
            )  # fmt: skip

    def _next(self, references: Sequence[Any], left: float) -> Any:
        """One that is there, or None after a while, for there may be other references to wait for by then."""
        pause = max(min(left, _LOOK_S), 0.0)
        if not references:  # workers that are restarted just now, and were asked a moment ago
            time.sleep(pause)
            return None
        done, _ = self._ray.wait(references, num_returns=1, timeout=pause)
        return done[0] if done else None

    def _greet(self) -> dict[Any, _Held]:
        """Ask the workers that start or come back who they are. The answers' references."""
        self._refuse_if_all_are_gone()
        waiting = [worker for worker in self._workers if not worker.slots and not worker.gone]
        for worker in waiting:
            if worker.greeting is None and time.monotonic() - worker.greeted >= _LOOK_S:
                worker.greeting, worker.greeted = worker.actor.describe.remote(), time.monotonic()
        return {worker.greeting: worker for worker in waiting if worker.greeting is not None}

    def _takes_in(self, worker: _Held) -> bool:
        """Whether a worker that has answered is ready.

        Raises:
            ExecutionError: it cannot work, or differs from the others.
        """
        exceptions = self._ray.exceptions
        greeting, worker.greeting = worker.greeting, None
        try:
            told = self._ray.get(greeting)
        except exceptions.ActorUnavailableError:
            return False  # it is restarted just now: it is asked again
        except exceptions.RayError as error:
            worker.gone = _reason(error)
            log.warning("%s: a worker is gone for good: %s", self._doing, worker.gone)
            return False
        worker.node, worker.pid = told["node"], told["pid"]
        if told["problem"]:
            raise ExecutionError(f"{self._doing}: a worker on {worker.node} cannot work: {told['problem']}")
        self.facts = self.facts or told["facts"]
        if differing := [name for name in self.facts if self.facts[name] != told["facts"].get(name)]:
            name = differing[0]
            raise ExecutionError(
                f"{self._doing}: the workers differ, and so would what they compute: {name} is {self.facts[name]!r} on one and "
                f"{told['facts'].get(name)!r} on {worker.node}. Use machines of one kind; label.batch_tokens and label.memory_mb "
                "set what else follows from a machine's memory"
            )
        worker.slots = told["slots"]
        return True

    def _lose(self, worker: _Held, job: _Job, error: Exception) -> None:
        """
        Raises:
            ExecutionError: this batch has lost too many workers.
        """
        worker.slots, job.lost = 0, job.lost + 1
        log.warning("%s: a worker on %s was lost, and another one does its batch: %s", self._doing, worker.node, _reason(error))
        if job.lost > self._options.restarts:
            raise ExecutionError(
                f"{self._doing}: one batch has lost {job.lost} workers (execution.restarts is {self._options.restarts}), the "
                f"last on {worker.node}: {_reason(error)}. If they ran out of memory: fewer workers a machine, or a smaller "
                "label.memory_mb"
            )

    def _refuse_if_all_are_gone(self) -> None:
        if all(worker.gone for worker in self._workers):
            raise ExecutionError(
                f"{self._doing}: all {len(self._workers)} workers are gone for good, the last one because: "
                f"{self._workers[-1].gone}. What was finished is stored: the same command goes on from it",
                transient=True,
            )

    def _stalled(self, nodes: Sequence[str], batches: int) -> ExecutionError:
        seconds = f"{self._options.stalled_s:g} s (execution.stalled_s)"
        if nodes:
            said = f"no worker finished anything in {seconds}; {batches} batches are in flight on {', '.join(nodes)}"
        else:
            said = f"no worker was ready in {seconds}; {self._room()}"
        return ExecutionError(
            f"{self._doing}: {said}. If loading the model or one batch takes longer, raise execution.stalled_s; else look at the "
            "cluster (ray status). What was finished is stored: the same command goes on from it",
            transient=True,
        )

    def _room(self) -> str:
        has, free = self._ray.cluster_resources(), self._ray.available_resources()
        amounts = [f"{free.get(kind, 0):g} of {has.get(kind, 0):g} {kind}s free" for kind in ("CPU", "GPU")]
        asked = self._options
        return (
            f"{asked.workers} workers with {asked.worker_cpus} CPUs and {asked.worker_gpus:g} GPUs each were asked for "
            f"(execution.workers), and the cluster has {' and '.join(amounts)}"
        )


def connect(options: ExecutionOptions) -> Any:
    """The module ``ray``, connected: to the address, to what RAY_ADDRESS says, or to a Ray that is started on this machine.

    Raises:
        ExecutionError: Ray is not installed, nobody answers at the address in time, or a cluster of another version does.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no tool of the chain calls home
    try:
        import ray
    except ImportError as error:
        raise ExecutionError("execution.engine=ray needs Ray: pip install 'uae[ray]'") from error
    if ray.is_initialized():
        return ray
    address = options.address or os.environ.get("RAY_ADDRESS") or "local"
    settings: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": logging.WARNING}
    if address == "local":
        settings |= {"include_dashboard": False}
    for left in reversed(range(_ATTEMPTS)):
        try:
            if address != "local":
                _require_answer(address, options.stalled_s)
            ray.init(**settings)
            break
        except ConnectionAbortedError as error:
            # The head starts a process for each client, and that one died while it started: memory, or a port that was taken.
            if not left:
                raise ExecutionError(
                    f"execution.address: {address} could start nothing for this client, {_ATTEMPTS} times: {_reason(error)}",
                    transient=True,
                ) from error
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ExecutionError(f"execution.address: no Ray cluster can be used at {address}: {_reason(error)}") from error
    return ray


def _require_answer(address: str, seconds: float) -> None:
    """Before this process connects: where nobody answers, ``ray.init`` waits for minutes.

    Raises:
        ExecutionError: nobody answers, or it is no Ray cluster, or one of another version.
        ConnectionAbortedError: the cluster could start nothing for a client.
    """
    said = f"execution.address: {address}"
    if address != "auto":
        place = urlsplit(address if "//" in address else f"//{address}")
        try:
            socket.create_connection((place.hostname or "", place.port or 0), min(_CONNECT_S, seconds)).close()
        except (OSError, ValueError) as error:
            raise ExecutionError(
                f"{said}: nobody answers there ({error}). Start the cluster (ray start --head), or name its HOST:PORT",
                transient=True,
            ) from error
    try:
        probe = subprocess.run([sys.executable, "-c", _PROBE, address], timeout=seconds, capture_output=True, text=True)
    except subprocess.TimeoutExpired:
        raise ExecutionError(
            f"{said}: what answers there did not answer as a Ray cluster does in {seconds:g} s (execution.stalled_s)",
            transient=True,
        ) from None
    if probe.returncode:
        reason = " ".join(line.strip() for line in probe.stderr.strip().splitlines()[-6:])
        if probe.returncode == _ABORTED:
            raise ConnectionAbortedError(reason)
        raise ExecutionError(f"{said}: no Ray cluster can be used there: {reason}")


def _end_all(ray: Any, actors: Sequence[Any]) -> None:
    if ray.is_initialized():
        for actor in actors:
            ray.kill(actor)


def _reason(error: Exception) -> str:
    """The part of Ray's message that says what happened: its last lines are pages of logs."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return " ".join(lines[:2])[:300] or type(error).__name__
