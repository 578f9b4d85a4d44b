"""Start the platform: ``python -m deploy.platform.up [--folder .platform] [--project DIR] [--free-ports]``.

The first start sets everything up below the folder. Then the supervisor takes this process's place, and Ctrl-C stops all of it.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Annotated

import typer

from deploy.platform.database import prepare
from deploy.platform.environment import environment, mlflow_address, write
from deploy.platform.project import clone

HERE = Path(__file__).resolve().parent


def set_up(folder: Path, project: Path | None, free_ports: bool) -> dict[str, str]:
    """Make what the servers need. Returns their environment variables."""
    for name in ("dagster", "s3", "logs", "store"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    variables = environment(folder, project or folder / "project", free_ports)
    if project is None:
        clone(HERE.parents[1], folder, mlflow_address(variables))
    programs, user = prepare(folder / "postgres", variables["PLATFORM_POSTGRES_PASSWORD"])
    variables |= {"PLATFORM_POSTGRES": str(programs), "PLATFORM_POSTGRES_USER": user}
    write(folder / "platform.env", variables)
    credentials = {"accessKey": variables["AWS_ACCESS_KEY_ID"], "secretKey": variables["AWS_SECRET_ACCESS_KEY"]}
    store = folder / "s3.json"
    store.touch(mode=0o600)
    store.write_text(json.dumps({"identities": [{"name": "uae", "credentials": [credentials], "actions": ["Admin"]}]}))
    for name in ("dagster.yaml", "workspace.yaml"):
        shutil.copyfile(HERE / name, Path(variables["DAGSTER_HOME"]) / name)
    return variables


def main(
    folder: Annotated[Path, typer.Option(help="Where everything lies.")] = Path(".platform"),
    project: Annotated[
        Path | None, typer.Option(help="A checkout of yours whose params.yaml names the servers; else a clone is made.")
    ] = None,
    free_ports: Annotated[bool, typer.Option("--free-ports", help="Not the usual ports; for tests.")] = False,
) -> None:
    variables = set_up(folder.resolve(), project.resolve() if project else None, free_ports)
    for name in ("RETRIEVER", "DAGSTER", "MLFLOW", "S3"):
        typer.echo(f"{name.lower():10} http://127.0.0.1:{variables[f'PLATFORM_{name}_PORT']}")
    typer.echo(f"keys, passwords and ports: {folder / 'platform.env'}; logs: {folder / 'logs'}")
    os.execvpe("supervisord", ["supervisord", "-c", str(HERE / "supervisord.conf")], os.environ | variables)


if __name__ == "__main__":
    typer.run(main)
