"""What the tests of execution on Ray share."""

import sys
from pathlib import Path
from typing import Any

from uae.execution.options import ExecutionOptions
from uae.execution.ray import RayPool
from uae.io.models import fingerprint
from uae.teacher.asking import Asked
from uae.teacher.engines.spread import TeacherPool, spread_teacher

sys.path.append(str(Path(__file__).resolve().parents[1] / "teacher"))

from labelling import TEMPLATE

COUNTED = "c" * 64  # the fingerprint of the teacher that counts
SIZES: dict[str, Any] = {"device": "cpu", "dtype": "float32", "batch_tokens": 128, "memory_mb": 1024, "compile": False}


def options(**changes: Any) -> ExecutionOptions:
    usual = {
        "engine": "ray", "address": None, "workers": 2, "worker_cpus": 1, "worker_gpus": 0, "stalled_s": 300, "restarts": 3,
    }  # fmt: skip
    return ExecutionOptions(**usual | changes)


def counting(execution: ExecutionOptions, kind: type[TeacherPool] = TeacherPool) -> Asked:
    """A teacher without a model on a cluster: what it reads is a hash of the pair. Its workers start in little time."""

    def load() -> TeacherPool:
        return kind(RayPool(execution, "toy_workers:counting", {}, "counting"), COUNTED)

    return Asked("main", COUNTED, "answer_likelihood", (), 1.0, (TEMPLATE,), (), load)


def asked(model: Path, execution: ExecutionOptions) -> Asked:
    """The model asked over a cluster."""
    found = fingerprint(model)

    def load() -> TeacherPool:
        return spread_teacher(execution, folder=model, fingerprint=found, **SIZES)

    return Asked("main", found, "answer_likelihood", (), 1.0, (TEMPLATE,), (), load)
