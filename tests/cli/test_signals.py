"""Ctrl-C and SIGTERM: real processes, real signals, at many moments; each says that the same command goes on.

Without the watching thread the first four would run for hours, so that ending at all is what is tested, not how fast.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
MESSAGE = "the same command goes on"
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
HOURS_IN_C = 'hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)'

# A command whose work is the given code.
WORKING = """
import concurrent.futures, hashlib, subprocess, sys, time
import uae.cli.main

def here():
    print("here", flush=True)

@uae.cli.main.app.command()
def work():
    {work}

sys.argv = ["uae", "work"]
uae.cli.main.main()
"""
WORKS = {
    "a long call in C": f"here(); {HOURS_IN_C}",
    "a worker thread in C": f"""
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(lambda: {HOURS_IN_C}) for _ in range(2)]
        here()
        futures[0].result()""",
    "code that catches everything": """
    here()
    while True:
        try:
            time.sleep(1000)
        except BaseException:
            pass""",
    "code that makes it an error of its own": """
    from uae.io.errors import ArtefactError
    try:
        here()
        time.sleep(1000)
    except BaseException as error:
        raise ArtefactError("not what happened") from error""",
    "a wait for a child": """
    child = subprocess.Popen([sys.executable, "-c", "import time; print('here', flush=True); time.sleep(1000)"])
    child.wait()""",
}


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen]]:
    """The processes of a test; those that are left are killed at its end."""
    processes: list[subprocess.Popen] = []
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


def start(started: list[subprocess.Popen], *words: str, cwd: Path = ROOT) -> subprocess.Popen:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
    process = subprocess.Popen([sys.executable, *words], text=True, cwd=cwd, **pipes)
    started.append(process)
    return process


def stop(process: subprocess.Popen, number: signal.Signals) -> str:
    """Send the signal. Returns what the process still wrote to stderr."""
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == CODES[number], said
    assert said.count(MESSAGE) == 1, said
    assert "Traceback" not in said
    assert "Aborted" not in said
    return said


@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
@pytest.mark.parametrize("work", WORKS.values(), ids=WORKS)
def test_a_signal_ends_a_command_wherever_it_is(started, work, number):
    process = start(started, "-c", WORKING.format(work=work))
    assert process.stdout.readline() == "here\n"
    assert "not what happened" not in stop(process, number)


def test_a_child_does_not_go_on_working(started):
    work = f"""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    print(child.pid, flush=True)
    {HOURS_IN_C}"""
    process = start(started, "-c", WORKING.format(work=work))
    child = int(process.stdout.readline())
    stop(process, signal.SIGTERM)
    for _ in range(600):
        if not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    pytest.fail("the child goes on")


def test_a_signal_to_a_forked_worker_is_not_one_to_its_parent(started):
    work = """
    import multiprocessing
    worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(1000,))
    worker.start()
    worker.terminate()
    worker.join()
    print(worker.exitcode, flush=True)"""
    process = start(started, "-c", WORKING.format(work=work))
    said, errors = process.communicate(timeout=60)
    assert (said, process.returncode) == (f"{-signal.SIGTERM}\n", 0), errors


def overriding(overrides: list[str]) -> list[str]:
    return [word for override in overrides for word in ("--set", override)]


def until_line(process: subprocess.Popen, part: str) -> str:
    seen = ""
    for line in process.stderr:
        seen += line
        if part in line:
            return seen
    raise AssertionError(f"{part!r} was never said: {seen}")


def test_a_run_is_stopped_in_stage_after_stage_and_goes_on(tmp_path, small_chain, started):
    """Labelling by Ctrl-C, training by SIGTERM; then it ends."""
    words = ["-m", "uae.cli.main", "run", "--out", str(tmp_path), "--until", "train", *overriding(small_chain)]
    for stage, number in (("label", signal.SIGINT), ("train", signal.SIGTERM)):
        process = start(started, *words)
        until_line(process, f"{stage}: ")
        stop(process, number)
        assert not (tmp_path / ".stages" / f"{stage}.json").exists()
    process = start(started, *words)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert "label: unchanged, skipped" in said
    assert (tmp_path / ".stages" / "train.json").exists()
    assert not list(tmp_path.rglob("*.partial-*"))


@pytest.mark.parametrize("words", [["label"], ["compare"], ["release", "follow", "--every", "600"]], ids=" ".join)
def test_every_command_ends_so(tmp_path, started, words):
    """The command is stopped while it waits for its parameters, which it would read from a pipe that nobody writes to."""
    os.mkfifo(tmp_path / "params.yaml")
    process = start(started, "-m", "uae.cli.main", *words, "--params", str(tmp_path / "params.yaml"), cwd=tmp_path)
    with open(tmp_path / "params.yaml", "w"):  # opens when the command reads
        stop(process, signal.SIGINT)
