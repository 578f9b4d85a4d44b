"""Run by test_faults.py as a process of its own: labels the same pairs over and over, and kills most of it.

``python killed_labelling.py FOLDER TEACHER KILLS SEED``; FOLDER holds the tables of ``labelling.write_corpus``. Everything is
imported once. Each labelling then is a fork, which takes milliseconds where a new interpreter would take seconds. This process
must start no thread, nor run anything of torch or Arrow: a fork would get half of it. So it only copies what each kill leaves
in the folder. The test looks at the copies.
"""

import itertools
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import psutil
import torch
import transformers.models.llama.modeling_llama  # noqa: F401  (imported on first use, in each fork anew)
from labelling import CHECK, TEMPLATE, run

from uae.io.errors import ArtefactError
from uae.teacher.asking import Asked
from uae.teacher.engines.local import CausalTeacher, load_teacher

FINGERPRINT = "f" * 64
WORKERS, BATCH_TOKENS, READINGS_PER_PART, CHECK_QUESTIONS = 2, 128, 30, 6
_SECONDS = 60  # to wait for something that should take one, before giving up


class Written:
    """A teacher that writes down what it is asked, a line a batch, in a file that a kill does not take away."""

    def __init__(self, teacher: CausalTeacher, asked: Path, before_reading: Callable[[int], None]):
        self._teacher, self._asked, self._before_reading = teacher, asked, before_reading
        self._number = itertools.count()

    def __getattr__(self, name: str):
        return getattr(self._teacher, name)

    def read(self, batch):
        self._before_reading(next(self._number))
        with open(self._asked, "a", encoding="utf-8") as stream:
            stream.write(json.dumps([pair.key for pair in batch.pairs]) + "\n")
        return self._teacher.read(batch)


class Labelling:
    def __init__(self, folder: Path, model: Path):
        self.folder, self.model = folder, model

    def start(self, store: str, asked: Path, before_reading: Callable[[int], None] = lambda number: None) -> int:
        """Label in a child of this process. Its process id."""
        asked.touch()

        def load() -> Written:
            teacher = load_teacher(self.model, FINGERPRINT, "cpu", "float32", BATCH_TOKENS, 1024, False)
            return Written(teacher, asked, before_reading)

        teacher = Asked("main", FINGERPRINT, "answer_likelihood", (), 1.0, (TEMPLATE,), (CHECK,), load)
        amounts = {"check_questions": CHECK_QUESTIONS, "readings_per_part": READINGS_PER_PART}
        return _fork(lambda: run(self.folder, teacher, store=store, **amounts))

    def whole(self, store: str) -> int:
        """Label without a kill. How many batches were asked for."""
        asked = self.folder / f"{store}.asked"
        _, status = os.waitpid(self.start(store, asked), 0)
        if status != 0:
            raise SystemExit(f"an uninterrupted run failed: {status}")
        return _lines(asked)

    def rounds(self, kills: int, moment: Callable[[], float]) -> list[dict]:
        """Label and kill, again and again, until so many kills have hit; each time a run ends, begin anew. What happened."""
        attempts: list[dict] = []
        landed, number = 0, 0
        while landed < kills or attempts[-1]["killed"]:
            after = moment() if landed < kills else None
            if after and attempts and attempts[-1]["killed"]:
                after /= 2  # a resumed run has less to do, and is to be hit as well
            name = f"round{number}"
            asked = self.folder / f"attempt{len(attempts)}.asked"
            worker = self.start(name, asked)
            if after is not None:
                _kill_after(worker, asked, after)
            _, status = os.waitpid(worker, 0)
            killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
            if not killed and status != 0:
                raise SystemExit(f"a resumed run failed: {status}")
            left = self.folder / f"attempt{len(attempts)}.left"
            left.mkdir()
            if (self.folder / name).exists():
                shutil.copytree(self.folder / name, left, dirs_exist_ok=True)
            attempts.append({"round": name, "killed": killed, "asked": str(asked), "left": str(left)})
            landed += killed
            number += not killed
        return attempts

    def second(self) -> str:
        """A second labeller while one is at its third batch. What the second was told."""
        told, go = self.folder / "told", self.folder / "go"
        reached = self.folder / "reached"

        def wait(number: int) -> None:
            if number == 2:
                reached.touch()
                _until(go.exists)

        first = self.start("contested", self.folder / "first.asked", wait)
        _until(reached.exists)

        def try_it() -> None:
            try:
                self.start_here("contested")
            except ArtefactError as error:
                told.write_text(str(error), encoding="utf-8")

        os.waitpid(_fork(try_it), 0)
        go.touch()
        _, status = os.waitpid(first, 0)
        if status != 0:
            raise SystemExit(f"the first of two labellers failed: {status}")
        return told.read_text(encoding="utf-8") if told.exists() else ""

    def start_here(self, store: str) -> None:
        def load():
            raise AssertionError("the second labeller got past the first one's lock")

        teacher = Asked("main", FINGERPRINT, "answer_likelihood", (), 1.0, (TEMPLATE,), (CHECK,), load)
        run(self.folder, teacher, store=store, readings_per_part=READINGS_PER_PART)


def _fork(work: Callable[[], object]) -> int:
    worker = os.fork()
    if worker:
        return worker
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _kill_after(worker: int, asked: Path, batches: float) -> None:
    """Kill after so many batches, and a fraction of a batch's time later. So it works alike on a busy machine and an idle
    one."""
    process = psutil.Process(worker)
    started, whole = time.monotonic(), int(batches)
    while process.status() != psutil.STATUS_ZOMBIE:
        if _lines(asked) >= whole:
            time.sleep((batches - whole) * (time.monotonic() - started) / max(whole, 1))
            os.kill(worker, signal.SIGKILL)
            return
        time.sleep(0.001)


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _SECONDS
    while not happened():
        if time.monotonic() > deadline:
            raise SystemExit("waited in vain for the other labeller")
        time.sleep(0.005)


def main(folder: Path, model: Path, kills: int, seed: int) -> None:
    torch.set_num_threads(WORKERS)  # so many batches in flight; each child starts its own threads
    labelling = Labelling(folder, model)
    labelling.whole("warm")  # what is read for the first time is read slowly
    batches = labelling.whole("whole")
    chance = random.Random(seed)
    attempts = labelling.rounds(kills, lambda: chance.uniform(0, batches))
    print(json.dumps({"attempts": attempts, "told": labelling.second()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
