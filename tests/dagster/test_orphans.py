"""A step whose run's process was killed goes on to its end, and ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

# As Dagster starts a step: forked by a server, with a queue for its events.
RUN = """
import multiprocessing, os, sys, time
from dagster_project.orphans import end_after_the_run

def step(events, folder):
    end_after_the_run()
    open(f"{folder}/step", "w").write(str(os.getpid()))
    while not os.path.exists(f"{folder}/killed"):
        time.sleep(0.02)
    events.put(b"x" * 1_000_000)
    open(f"{folder}/done", "w").close()

if __name__ == "__main__":
    context = multiprocessing.get_context("forkserver")
    events = context.Queue()
    context.Process(target=step, args=(events, sys.argv[1])).start()
    time.sleep(600)
"""


def test_a_step_ends_whose_run_was_killed(tmp_path):
    (tmp_path / "run.py").write_text(RUN, encoding="utf-8")
    project = str(Path(__file__).resolve().parents[2])
    run = subprocess.Popen([sys.executable, str(tmp_path / "run.py"), str(tmp_path)], env=os.environ | {"PYTHONPATH": project})
    try:
        until(lambda: (tmp_path / "step").exists() and (tmp_path / "step").read_text())
        step = psutil.Process(int((tmp_path / "step").read_text()))
        server = step.parent()
        run.send_signal(signal.SIGKILL)
        run.wait()
        (tmp_path / "killed").touch()
        until((tmp_path / "done").exists)
        gone, alive = psutil.wait_procs([step, server], timeout=30)
        for each in alive:
            each.kill()
        assert len(gone) == 2
    finally:
        run.kill()


def until(happened) -> None:
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)
