"""Runs a Bento as its image would: its command, its environment, its health check, and nothing of the network.

The test starts it with the Python of a virtual environment that holds the Bento's requirements and no other package, and with one
JSON argument. Prints one JSON line. Inside ``unshare -rn`` there is no network but the loopback, which is switched on here.
"""

import contextlib
import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

SIOCSIFFLAGS, IFF_UP = 0x8914, 0x1


def loopback_up() -> None:
    with socket.socket() as any_socket, contextlib.suppress(PermissionError):  # ours already outside of a namespace
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))


def main(plan: dict) -> dict:
    loopback_up()
    with open(plan["log"], "w") as log:
        server = subprocess.Popen(plan["command"], cwd=plan["cwd"], env=plan["environment"], stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 240
            while subprocess.run(plan["healthcheck"], capture_output=True, env=plan["environment"]).returncode:
                if server.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"the service is not healthy:\n{Path(plan['log']).read_text()[-3000:]}")
                time.sleep(0.2)
            body = json.dumps(plan["body"]).encode()
            request = urllib.request.Request(plan["url"] + "/v1/search", body, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request) as answer, urllib.request.urlopen(plan["url"] + "/") as page:
                return {"answer": json.load(answer), "page": page.read().decode()[:200]}
        finally:
            server.terminate()
            server.wait(60)


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1])) | {"uid": os.getuid()}))
