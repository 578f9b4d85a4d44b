"""Which parameter file a command reads: ``--params``, else the one that a folder of ``uae run`` holds, else the project's."""

from pathlib import Path
from typing import Annotated

import typer

PARAMS = Path("params.yaml")

Params = Annotated[Path, typer.Option(help="The parameter file.")]
RunParams = Annotated[
    Path | None,
    typer.Option(help="The parameter file. Default: that of the folder of uae run, where one is named; else params.yaml."),
]


def params_of(folder: Path | None, given: Path | None) -> Path:
    """The parameter file of a command about a folder of ``uae run``: the project's would have another source and models.

    Args:
        folder: None, or one without a file of its own: the project's parameters.
        given: by ``--params``. It wins.
    """
    if given is not None:
        return given
    return folder / PARAMS.name if folder and (folder / PARAMS.name).is_file() else PARAMS
