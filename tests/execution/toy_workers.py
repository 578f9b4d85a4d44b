"""Workers of tests/execution/test_ray.py: they square numbers, and misbehave where they are asked to."""

import os
import signal
import time
from pathlib import Path
from typing import Any

from uae.io.errors import ModelError


class Squaring:
    slots = 1

    def facts(self) -> dict[str, Any]:
        return {"kind": "squaring"}

    def start_thread(self) -> None:
        self.started = True

    def work(self, batch: Any) -> Any:
        assert self.started
        if batch == "hang":
            time.sleep(3600)
        if batch == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if batch == "refuse":
            raise ModelError("the model refuses this batch")
        if isinstance(batch, tuple):  # ("die once", the file that says that it has)
            mark = Path(batch[1])
            if not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return "done"
        return batch * batch


class Differing(Squaring):
    def facts(self) -> dict[str, Any]:
        return {"kind": "squaring", "process": os.getpid()}


def counting() -> Any:
    from labelling import CountingTeacher

    from uae.teacher.engines.spread import TeacherWorker

    class Counting(CountingTeacher):
        def start_worker(self) -> None:
            """It is read on one thread of the actor."""

    return TeacherWorker(Counting("c" * 64))


def squaring() -> Squaring:
    return Squaring()


def differing() -> Differing:
    return Differing()


def failing() -> Squaring:
    raise ModelError("it cannot open /models/there: copy it")
