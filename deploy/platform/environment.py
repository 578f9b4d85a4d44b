"""What the servers of a platform have in common: ports, keys, passwords and folders. They stand in ``platform.env``."""

import os
import secrets
import shlex
import socket
from collections.abc import Mapping
from pathlib import Path

# name -> the port by default. SeaweedFS adds 10000 to its own ports for a second protocol.
PORTS = {
    "PLATFORM_RETRIEVER_PORT": 3000,
    "PLATFORM_DAGSTER_PORT": 3001,
    "PLATFORM_CODE_PORT": 3002,
    "PLATFORM_MLFLOW_PORT": 5000,
    "PLATFORM_POSTGRES_PORT": 5433,
    "PLATFORM_S3_PORT": 8333,
    "PLATFORM_S3_FILER_PORT": 8888,
    "PLATFORM_S3_MASTER_PORT": 9333,
    "PLATFORM_S3_VOLUME_PORT": 8380,
}
_SECOND_PROTOCOL = 10000
# No server calls home, as in the Makefile.
_SILENT = {
    "DO_NOT_TRACK": "1",
    "BENTOML_DO_NOT_TRACK": "True",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GX_ANALYTICS_ENABLED": "false",
    "DVC_NO_ANALYTICS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DAGSTER_DISABLE_TELEMETRY": "yes",
}
_FILE = "platform.env"


def environment(folder: Path, project: Path, free_ports: bool = False) -> dict[str, str]:
    """The variables of the platform in ``folder``. Made once, with keys by chance, and kept in a file for its owner alone.

    Args:
        project: the checkout that the platform runs.
        free_ports: take ports that are free now instead of the usual ones.
    """
    path = folder / _FILE
    if path.exists():
        return read(path) | {"PLATFORM_PROJECT": str(project), "PYTHONPATH": str(project)}
    ports = {name: str(port) for name, port in (_free_ports() if free_ports else PORTS).items()}
    password, key = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
    # The driver is named: SQLAlchemy by itself takes a newer one, with which Dagster loses its connections.
    database = f"postgresql+psycopg2://postgres:{password}@127.0.0.1:{ports['PLATFORM_POSTGRES_PORT']}"
    made = (
        ports
        | _SILENT
        | {
            "PLATFORM": str(folder),
            "PLATFORM_PROJECT": str(project),
            "PLATFORM_POSTGRES_PASSWORD": password,
            "PYTHONPATH": str(project),
            "DAGSTER_HOME": str(folder / "dagster"),
            "DAGSTER_POSTGRES_URL": f"{database}/dagster",
            "MLFLOW_BACKEND_STORE_URI": f"{database}/mlflow",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # of its jobs for traces and prompts: nothing here uses them
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ports['PLATFORM_S3_PORT']}",
            "AWS_ACCESS_KEY_ID": "uae",
            "AWS_SECRET_ACCESS_KEY": key,
            "AWS_DEFAULT_REGION": "us-east-1",
            # What newer clients add to an upload is not known to every store that speaks S3.
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
            "UAE_STORE": str(folder / "store"),
        }
    )
    write(path, made)
    return made


def mlflow_address(variables: Mapping[str, str]) -> str:
    return f"http://127.0.0.1:{variables['PLATFORM_MLFLOW_PORT']}"


def read(path: Path) -> dict[str, str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    pairs = (line.partition("=") for line in lines if line)
    return {name: "".join(shlex.split(value)) for name, _, value in pairs}


def write(path: Path, variables: Mapping[str, str]) -> None:
    """In the form that a shell reads, too: ``set -a; . platform.env``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.writelines(f"{name}={shlex.quote(value)}\n" for name, value in variables.items())
    partial.replace(path)


def _free_ports() -> dict[str, int]:
    """As many different ones, each with the port of its second protocol."""
    held: list[socket.socket] = []
    found: dict[str, int] = {}
    try:
        for name in PORTS:
            while name not in found:
                one = socket.socket()
                held.append(one)
                one.bind(("127.0.0.1", 0))
                port: int = one.getsockname()[1]
                if port + _SECOND_PROTOCOL > 65535:
                    continue
                other = socket.socket()
                held.append(other)
                try:
                    other.bind(("127.0.0.1", port + _SECOND_PROTOCOL))
                except OSError:
                    continue
                found[name] = port
    finally:
        for each in held:
            each.close()
    return found
