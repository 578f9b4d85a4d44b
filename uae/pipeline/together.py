"""A stage by several processes on this machine: torchrun starts them, and each runs the stage's function.

``train.processes`` asks for that, whoever runs the stage: the command line, DVC, Dagster or ``uae run``. Whoever has started
torchrun, or a cluster's launcher, for ``uae train`` is not started again.
"""

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uae.io.errors
from uae.io.errors import ArtefactError, UaeError
from uae.io.files import read_json, write_json
from uae.io.torchrun import leads, place
from uae.pipeline.workspace import Workspace

if TYPE_CHECKING:
    from uae.pipeline.stage import Parameters

_GRACE_S = 10.0  # for torchrun to end its processes


def by_several(
    stage: str,
    parameters: "Parameters",
    workspace: Workspace,
    processes: int,
    device: str,
    lead: Callable[[str], dict[str, Any]],
    follow: Callable[[str], None],
) -> dict[str, Any]:
    """Run a stage in this process, alone or as one of those that torchrun started; or have torchrun start some.

    Args:
        processes: how many the parameters ask for.
        device: as the parameters name it. ``lead`` and ``follow`` get the one that their process works on.
        lead: what one process does alone, and the leading one of several.
        follow: what the others do. They write nothing.

    Returns:
        the result of ``lead``; of a process that follows, nothing.

    Raises:
        UaeError: see ``run_together`` and ``uae.training.processes.join``.
    """
    if place().processes == 1:
        return lead(device) if processes == 1 else run_together(stage, parameters, workspace, processes)
    from uae.training.processes import join

    own = join(device)
    if leads():
        return lead(own)
    follow(own)
    return {}


def run_together(stage: str, parameters: "Parameters", workspace: Workspace, processes: int) -> dict[str, Any]:
    """The stage's result, which the leading process gives.

    Raises:
        UaeError: one of the processes raised it.
        ArtefactError: one of the processes ended for another reason, which it has printed.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_json(
            folder / "call.json",
            {
                "stage": stage,
                "parameters": parameters.model_dump(mode="json", by_alias=True),
                "root": str(workspace.root),
                "model_cache": str(workspace.model_cache),
                "flat_reports": workspace.flat_reports,
            },
        )
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        threads = str(max(1, (os.cpu_count() or 1) // processes))
        started = subprocess.Popen(
            [*torchrun, "-m", "uae.pipeline.together", str(folder)], env={"OMP_NUM_THREADS": threads} | os.environ
        )
        try:
            code = started.wait()
        except BaseException:
            started.terminate()
            try:
                started.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                started.kill()
            raise
        for path in sorted(folder.glob("error-*.json")):
            raise _raised(path)
        if code or not (folder / "result.json").exists():
            raise ArtefactError(f"{stage}: one of {processes} processes ended with an error, which stands above (code {code})")
        result: dict[str, Any] = read_json(folder / "result.json")
        return result


def _raised(path: Path) -> UaeError:
    told = read_json(path)
    kind = getattr(uae.io.errors, told["kind"], UaeError)
    error: UaeError = kind(told["message"], transient=told["transient"])
    return error


def main(folder: Path) -> None:
    """What each of the processes does."""
    call = json.loads((folder / "call.json").read_text(encoding="utf-8"))
    stage = importlib.import_module(f"uae.pipeline.stages.{call['stage']}").STAGE  # no more code than the stage itself
    workspace = Workspace(Path(call["root"]), Path(call["model_cache"]), call["flat_reports"])
    rank = place().rank
    try:
        result = stage.run(stage.parameters.model_validate(call["parameters"]), workspace)
    except UaeError as error:
        facts = {"kind": type(error).__name__, "message": str(error), "transient": error.transient}
        write_json(folder / f"error-{rank}.json", facts)
        sys.exit(1)
    if leads():
        write_json(folder / "result.json", result)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
