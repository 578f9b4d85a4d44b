"""A local teacher whose model is held by workers of a cluster. They plan and read; this process only stores.

Planning needs the tokenizer and the device's sizes, so a worker does it, too: this machine needs no memory for the model. Any of
them may be asked, for their provenances are equal. So batches do not depend on the number of workers. Pairs that share a prefix
stay in one tree, and a batch is read as a single process would read it.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from uae.execution.options import ExecutionOptions
from uae.execution.ray import RayPool
from uae.io.models import require_model
from uae.teacher.prompts import Template
from uae.teacher.protocol import Pair, PromptBatch, Reading


class TeacherPool:
    """Implements ``protocol.Teacher`` and ``protocol.SpreadTeacher``.

    Args:
        pool: of ``TeacherWorker``.
    """

    def __init__(self, pool: RayPool, fingerprint: str):
        self._pool, self.fingerprint = pool, fingerprint
        self.workers, self.processes = pool.slots, pool.size

    def provenance(self) -> dict[str, Any]:
        return dict(self._pool.facts)

    def plan(self, template: Template, pairs: Sequence[Pair]) -> list[PromptBatch]:
        planned: list[PromptBatch] = self._pool.ask("plan", template, pairs)
        return planned

    def read(self, batch: PromptBatch) -> list[Reading]:
        readings: list[Reading] = self._pool.ask("work", batch)
        return readings

    def read_all(self, batches: Iterable[PromptBatch]) -> Iterator[tuple[PromptBatch, list[Reading]]]:
        return self._pool.spread(batches)

    def start_worker(self) -> None:
        """Workers are started by the pool."""

    def end_workers(self) -> None:
        """They end with the pool."""

    def memory_mb(self, batch: PromptBatch) -> int | None:
        needed: int | None = self._pool.ask("memory_mb", batch)
        return needed


class TeacherWorker:
    """Implements ``execution.ray.Worker`` with a teacher that this process has loaded."""

    def __init__(self, teacher: Any):
        self._teacher = teacher
        self.slots: int = teacher.workers
        self.plan, self.work, self.memory_mb = teacher.plan, teacher.read, teacher.memory_mb
        self.start_thread = teacher.start_worker

    def facts(self) -> dict[str, Any]:
        found: dict[str, Any] = self._teacher.provenance()
        return found


def spread_teacher(execution: ExecutionOptions, **arguments: Any) -> TeacherPool:
    """
    Args:
        arguments: of ``engines.local.load_teacher``.

    Raises:
        ExecutionError: as ``RayPool``.
        ConfigError: a GPU is asked for, and workers get none.
    """
    folder = Path(arguments["folder"]).resolve()
    given = {"folder": str(folder), "device": execution.device(arguments["device"]), "threads": execution.worker_cpus}
    pool = RayPool(execution, f"{__name__}:make_worker", arguments | given, f"labelling with {folder.name}")
    return TeacherPool(pool, arguments["fingerprint"])


def make_worker(folder: str, fingerprint: str, threads: int, **sizes: Any) -> TeacherWorker:
    """On the worker's machine.

    Args:
        threads: that the worker may use; on a CPU each reads a batch of its own.
        sizes: the other arguments of ``load_teacher``.

    Raises:
        ModelError: this machine cannot see the model's files, or has others in their place.
    """
    require_model(Path(folder), fingerprint)  # before anything heavy is imported

    import torch

    from uae.teacher.engines.local import load_teacher

    torch.set_num_threads(threads)
    return TeacherWorker(load_teacher(Path(folder), fingerprint, **sizes))
