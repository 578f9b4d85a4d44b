"""Ctrl-C and SIGTERM end a command within a second, wherever it is, and say that the same command goes on.

A command may be ended at any moment: what it writes is complete or not there (``uae.io.files``). So there are two ways out,
and the second needs no help from the code that runs:

1. The main thread raises SystemExit. Child processes, locks, temporary folders and MLflow runs are closed on the way out.
2. Half a second later a thread ends the process. The main thread may be busy outside Python (a product in torch, a search in
   FAISS), or wait for other threads. Or a library caught the SystemExit.

The thread wakes by the file descriptor that Python's own handler in C writes to (``signal.set_wakeup_fd``). A call in C that
never releases Python's global lock can still delay both ways.
"""

import contextlib
import os
import signal
import sys
import threading
from types import FrameType

import psutil

MESSAGE = "stopped; the same command goes on from what is finished"
_GRACE_S = 0.5
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopping:
    """SIGINT and SIGTERM for the rest of the process's life. Made once, in the main thread."""

    def __init__(self) -> None:
        self.code: int | None = None  # with which the process ends; None: it was not told to stop
        self._leaving = False
        self._said = threading.Event()
        self._reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in _SIGNALS:
            signal.signal(number, self._leave)
        os.register_at_fork(before=_hold, after_in_parent=_let_go, after_in_child=_forget)
        threading.Thread(target=self._watch, name="signals", daemon=True).start()

    def end_if_told(self) -> None:
        """End the process if a signal has come. Called when the command has returned or raised."""
        if self.code is not None:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
            self._said.wait(_GRACE_S)
            _end(self.code)

    def _leave(self, number: int, frame: FrameType | None) -> None:
        if not self._leaving:  # once: nothing but the thread may interrupt the way out
            self._leaving, self.code = True, 128 + number
            raise SystemExit(self.code)

    def _watch(self) -> None:
        self.code = 128 + self._next_signal()
        patience = threading.Timer(_GRACE_S, _end, (self.code,))
        patience.daemon = True
        patience.start()
        _say(MESSAGE)
        self._said.set()
        self._next_signal()  # somebody cannot wait
        _end(self.code)

    def _next_signal(self) -> int:
        while True:
            for number in os.read(self._reader, 64):
                if number in _SIGNALS:
                    return number


def _say(line: str) -> None:
    """Write to the terminal without Python's buffers and locks, which the main thread may hold."""
    with contextlib.suppress(OSError):
        os.write(2, f"\n{line}\n".encode())  # a progress bar may stand on the present line


def _end(code: int) -> None:
    """Leave no child that goes on working; then end without running anything else of this process."""
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.terminate()
    os._exit(code)


def _hold() -> None:
    """Before a fork: a signal waits until the worker has handlers of its own."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def _let_go() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def _forget() -> None:
    """In a forked worker, which shares the descriptor: a signal to the worker must not stop its parent."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _let_go()
