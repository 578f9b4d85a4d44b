"""A step's process that outlives its run's process ends when its work is done."""

import multiprocessing
import os
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize


def end_after_the_run() -> None:
    """Let this process end although the process that started it was killed.

    A step hands its events to the run's process by a pipe, of which it holds both ends. At its end it waits until all are read.
    Where the run's process was killed nobody reads them, and it would wait for ever, with its models in memory. So would the
    server that forked it.
    """
    run = multiprocessing.parent_process()
    if run is not None:
        Finalize(None, _leave, args=(run,), exitpriority=1)  # those below 0 wait for the pipe, and come later


def _leave(run: BaseProcess) -> None:
    if not run.is_alive():
        os._exit(1)
