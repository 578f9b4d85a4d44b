"""A server that was killed leaves nothing that would keep its follower from its port."""

import os
import signal
import subprocess
import sys

import psutil
import pytest

# Starts a child that holds a port, tells its number, and lives on.
SERVER = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True)
print(child.pid, child.stdout.readline().strip(), flush=True)
input()
"""
CHILD = """
import socket
held = socket.socket()
held.bind(("127.0.0.1", 0))
held.listen()
print(held.getsockname()[1], flush=True)
input()
"""
BINDS = "import socket, sys; socket.socket().bind(('127.0.0.1', int(sys.argv[1])))"


@pytest.fixture
def environment(tmp_path):
    return os.environ | {"PLATFORM": str(tmp_path), "SUPERVISOR_PROCESS_NAME": "mlflow"}


@pytest.fixture
def orphan(environment):
    """Process and port of the child of a server that was killed."""
    code = SERVER.replace("CHILD]", f"{CHILD!r}]")
    server = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    number, port = (int(word) for word in server.stdout.readline().split())
    child = psutil.Process(number)
    server.send_signal(signal.SIGKILL)
    server.stdout.close()
    server.wait()
    yield child, port
    if child.is_running():
        child.kill()


def start(environment, port):
    """The program's next start, which binds the port."""
    command = [sys.executable, "-m", "deploy.platform.alone", sys.executable, "-c", BINDS, str(port)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_what_a_killed_server_left_is_ended_and_its_port_is_free(environment, orphan):
    child, port = orphan
    assert child.is_running()
    done = start(environment, port)
    assert done.returncode == 0, done.stderr
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("other", [{"SUPERVISOR_PROCESS_NAME": "code"}, {"PLATFORM": "/elsewhere"}])
def test_other_programs_and_other_platforms_are_left_alone(environment, orphan, other):
    child, port = orphan
    assert "Address already in use" in start(environment | other, port).stderr
    assert child.is_running()
