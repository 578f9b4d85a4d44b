"""Labelling and embedding on a local Ray cluster: the same values whatever the number of workers, and whoever is killed.

Each node of the cluster is a raylet of its own on this machine, with one CPU, and each worker computes with one thread. The
comparison is one process with one thread. Loading is not timed: a pool keeps its models loaded. ``speedup_by_workers`` says
little where workers outnumber the free cores: ``cores`` and ``load`` (of the minute before) are told with it. ``max_abs_diff`` is
over all numbers of workers: of NLLs per token (``labels``), and of vectors. A worker, a node with
all that it ran, and the driver are killed with SIGKILL. ``killed_same_store`` says whether the label store then had the same
parts, to the byte. ``lost`` says how many batches had to be read again. Prints one JSON line last.

python benchmarks/scale_ray.py --workers 1 --workers 2 --pairs 160
"""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import psutil
import torch
import typer
from tiny_models import tiny_models

import uae
from uae.execution.options import ExecutionOptions
from uae.execution.ray import RayPool
from uae.io.models import fingerprint, resolve
from uae.io.tables import CANDIDATES, PASSAGES, read_table, write_table
from uae.pipeline.run import run_chain
from uae.pipeline.settings import Settings, load_settings
from uae.pipeline.student import student_folder
from uae.pipeline.teachers import template_of
from uae.pipeline.workspace import Workspace
from uae.retrievers.dense import load_encoder
from uae.retrievers.passage_vectors import PassageVectors
from uae.teacher.asking import Asked
from uae.teacher.engines.local import load_teacher
from uae.teacher.engines.spread import TeacherPool, spread_teacher
from uae.teacher.label import label
from uae.teacher.parts import KEY
from uae.teacher.protocol import PromptBatch, Reading
from uae.teacher.store import LabelStore
from uae.text.passage_template import PassageTemplate
from uae.vectors.store import VectorStore

_SIZES: dict[str, Any] = {"device": "cpu", "dtype": "float32", "batch_tokens": None, "memory_mb": 2048, "compile": False}
_STORE_MEMORY = 100 * 2**20
_KILL_AT = 3  # the batch after which something is killed
_MODELS = Path("models")


class Work:
    """The pairs of a small corpus in a folder, labelled again and again into stores of their own.

    Args:
        settings: whose teacher, templates and student are used.
    """

    def __init__(self, folder: Path, settings: Settings):
        self.folder, self.settings = folder, settings
        self.teacher = settings.teachers["main"]
        self.model = resolve(self.teacher.model, _MODELS)
        self.fingerprint = fingerprint(self.model)

    def prepare(self, pairs: int) -> None:
        run_chain(self.settings, self.folder, _MODELS, print_to_stderr, "candidates")
        path = self.tables["candidates_path"]
        candidates = read_table(path, CANDIDATES).sort_values(["passage_id", "question_id"])
        write_table(path, CANDIDATES, candidates.head(pairs).to_dict("records"))

    @property
    def tables(self) -> dict[str, Path]:
        workspace = Workspace(self.folder, flat_reports=True)
        return {f"{name}_path": workspace.path(name) for name in ("candidates", "passages", "questions")}

    def here(self) -> Any:
        return load_teacher(self.model, self.fingerprint, **_SIZES)

    def spread(self, execution: ExecutionOptions, kill: Callable[[RayPool], None] | None = None) -> TeacherPool:
        """The teacher on the cluster, which calls ``kill`` in the middle of its reading."""
        teacher = spread_teacher(execution, folder=self.model, fingerprint=self.fingerprint, **_SIZES)
        return teacher if kill is None else _Killed(teacher._pool, self.fingerprint, kill)

    def label(self, store: str, teacher: Any) -> float:
        """Seconds."""
        templates = tuple(template_of(template, self.settings.passages) for template in self.teacher.templates)
        asked = Asked("main", self.fingerprint, "answer_likelihood", (), 1.0, templates, (), lambda: teacher)
        start = time.perf_counter()
        label(
            **self.tables, store_path=self.folder / store, manifest_path=self.folder / f"{store}.json", teachers=[asked],
            answers_per_question=1, check_questions=0, readings_per_part=50,
        )  # fmt: skip
        return time.perf_counter() - start

    def per_token(self, store: str) -> np.ndarray:
        table = LabelStore(self.folder / store).read().sort_values(list(KEY))
        return (table["nll_sum"] / table["n_tokens"]).to_numpy()

    def parts(self, store: str) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (self.folder / store).glob("*.parquet")}

    def texts(self) -> list[str]:
        passages = read_table(self.tables["passages_path"], PASSAGES)
        return list(PassageTemplate(self.settings.passages.template).texts(passages))


def print_to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


def options(workers: int, address: str | None = None) -> ExecutionOptions:
    return ExecutionOptions(
        engine="ray", address=address, workers=workers, worker_cpus=1, worker_gpus=0, stalled_s=600, restarts=3
    )


@contextmanager
def cluster(nodes: int) -> Iterator[Any]:
    """So many nodes with one CPU each, the head among them; RAY_ADDRESS names it."""
    import ray
    from ray.cluster_utils import Cluster

    os.environ |= {"PYTHONPATH": str(Path(uae.__file__).parents[1]), "RAY_USAGE_STATS_ENABLED": "0"}
    # What else the machine does must not kill workers; and Ray starts them at niceness 15, where one process has 0.
    os.environ |= {"RAY_memory_monitor_refresh_ms": "0", "RAY_worker_niceness": "0"}
    head = {"num_cpus": 1, "object_store_memory": _STORE_MEMORY, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(nodes - 1):
            made.add_node(num_cpus=1, object_store_memory=_STORE_MEMORY)
        os.environ["RAY_ADDRESS"] = made.address
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


class Counting(logging.Handler):
    """How many batches lost their worker."""

    lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.lost += "was lost" in record.getMessage()


class _Killed(TeacherPool):
    def __init__(self, pool: RayPool, fingerprint: str, kill: Callable[[RayPool], None]):
        super().__init__(pool, fingerprint)
        self._kill = kill

    def read_all(self, batches: Iterable[PromptBatch]) -> Iterator[tuple[PromptBatch, list[Reading]]]:
        for number, read in enumerate(super().read_all(batches)):
            if number == _KILL_AT:
                self._kill(self._pool)
            yield read


def kill_driver(work: Work, address: str, settings: list[str]) -> None:
    """Start a driver as a process of its own, and kill it after some batches."""
    begun = work.folder / "begun"
    script = [sys.executable, __file__, "--driver", str(work.folder), "--address", address]
    with subprocess.Popen([*script, *(word for setting in settings for word in ("--set", setting))]) as driver:
        while not begun.exists():
            if driver.poll() is not None:
                raise SystemExit("the driver ended before it was killed")
            time.sleep(0.02)
        driver.kill()


def drive(folder: Path, address: str, settings: list[str]) -> None:
    work = Work(folder, load_settings(Path("params.yaml"), settings))
    teacher = work.spread(options(2, address), lambda pool: (folder / "begun").touch())
    work.label("driver", teacher)


def measure(work: Work, workers: list[int], settings: list[str]) -> dict[str, Any]:
    load = os.getloadavg()[0]
    torch.set_num_threads(1)
    encoder_folder = student_folder(work.settings.models, _MODELS)
    encoder, texts = load_encoder(encoder_folder, "cpu"), work.texts()
    teacher = work.here()
    seconds = {"labels": work.label("here", teacher)}
    del teacher
    start = time.perf_counter()
    vectors = PassageVectors(encoder, encoder_folder, None)(texts)
    seconds["vectors"] = time.perf_counter() - start
    expected, parts = work.per_token("here"), work.parts("here")
    speedups: dict[int, float] = {}
    differences: dict[str, list[float]] = {"labels": [], "vectors": []}
    same_parts, killed, lost = [], {}, {}
    counting = Counting()
    logging.getLogger("uae.execution.ray").addHandler(counting)
    with cluster(max(2, *workers)) as nodes:
        for number in workers:
            teacher = work.spread(options(number))
            speedups[number] = round(seconds["labels"] / work.label(f"on {number}", teacher), 2)
            del teacher
            differences["labels"].append(float(np.abs(work.per_token(f"on {number}") - expected).max()))
            same_parts.append(work.parts(f"on {number}") == parts)
            store = VectorStore(work.folder / f"vectors on {number}", execution=options(number))
            differences["vectors"].append(float(np.abs(PassageVectors(encoder, encoder_folder, store)(texts) - vectors).max()))

        def killed_by(name: str, kill: Callable[[Any], None], number: int) -> None:
            before = counting.lost
            work.label(name, work.spread(options(number), kill))
            killed[name], lost[name] = work.parts(name) == parts, counting.lost - before

        killed_by("worker", lambda pool: os.kill(pool.pids[0], signal.SIGKILL), 2)
        node = nodes.add_node(num_cpus=1, object_store_memory=_STORE_MEMORY)
        raylet = node.all_processes["raylet"][0].process.pid

        def kill_node(pool: RayPool) -> None:
            of_node = [worker for worker in map(psutil.Process, pool.pids) if worker.ppid() == raylet]
            nodes.remove_node(node, allow_graceful=False)
            psutil.wait_procs(of_node)  # they end themselves when their raylet is gone; else a quick run would be over first

        killed_by("node", kill_node, max(2, *workers) + 1)
        kill_driver(work, nodes.address, settings)
        left = len(LabelStore(work.folder / "driver").read())
        work.label("driver", work.spread(options(2)))
        killed["driver"] = work.parts("driver") == parts
    return {
        "cores": psutil.cpu_count(), "load": round(load, 1), "readings": len(expected), "passages": len(texts),
        "seconds_in_one_process": {name: round(value, 1) for name, value in seconds.items()},
        "speedup_by_workers": speedups,
        "max_abs_diff": {name: max(values) for name, values in differences.items()},
        "same_parts": all(same_parts), "killed_same_store": killed, "lost": lost, "readings_of_the_killed_driver": left,
    }  # fmt: skip


def main(
    workers: Annotated[list[int], typer.Option(help="Numbers of workers; may be repeated.")] = [1, 2],  # noqa: B006
    pairs: Annotated[int, typer.Option(help="Of question and passage, at most.")] = 160,
    tiny: Annotated[bool, typer.Option(help="Models with random weights: the guarantees alone, in a minute or two.")] = False,
    driver: Annotated[Path | None, typer.Option(hidden=True)] = None,
    address: Annotated[str, typer.Option(hidden=True)] = "",
    overrides: Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a parameter.")] = [],  # noqa: B006
) -> None:
    if driver is not None:
        drive(driver, address, overrides)
        return
    folder = Path(tempfile.mkdtemp(prefix="uae-scale-ray-"))
    try:
        settings = [*overrides, *(tiny_models(folder, Path("data/sample")) if tiny else [])]
        work = Work(folder / "work", load_settings(Path("params.yaml"), settings))
        work.prepare(pairs)
        print(json.dumps({"ray": measure(work, workers, settings)}))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    typer.run(main)
