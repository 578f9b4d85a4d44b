"""Start a server in the place of one that died: ``python -m deploy.platform.alone COMMAND ...``, by the supervisor.

A server that was killed leaves the processes that it had started. They hold its port, so that its follower could not have it, and
nobody watches them. They are ended first. Not for the code server: what that has started are runs, which are to go on.
"""

import os
import sys
from collections.abc import Mapping

import psutil

_MARKS = ("PLATFORM", "SUPERVISOR_PROCESS_NAME")  # what the supervisor gives to a program, and that to all that it starts


def main() -> None:
    end_earlier(os.environ)
    os.execvp(sys.argv[1], sys.argv[1:])


def end_earlier(environment: Mapping[str, str]) -> list[int]:
    """End all other processes of the program that this environment is of. Returns their numbers."""
    ours = {name: environment[name] for name in _MARKS}
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = [process for process in psutil.process_iter() if process.pid not in own and _is_of(process, ours)]
    for process in found:
        process.kill()
    psutil.wait_procs(found, timeout=10)
    return [process.pid for process in found]


def _is_of(process: psutil.Process, marks: Mapping[str, str]) -> bool:
    try:
        environment = process.environ()
    except (psutil.Error, OSError):  # it has ended, or is another user's
        return False
    return all(environment.get(name) == value for name, value in marks.items())


if __name__ == "__main__":
    main()
