"""Whether the paths of a run can be used, checked before any work: hours of labelling must not end at a bad path."""

import os
from pathlib import Path

from uae.corpus.objects import is_pinned, is_remote
from uae.io.errors import ConfigError
from uae.pipeline.workspace import ARTEFACTS, Workspace


def check_source(path: str, workspace: Workspace) -> None:
    """Check that no results are written into the source, and that the source lies in no folder of results.

    A run that reads its own reports and tables would take them for documents, and find its source changed each time.

    Raises:
        ConfigError: it is.
    """
    if is_pinned(path) or is_remote(path):
        return
    check_name(path)
    source = _real(Path(path))
    written = {name: _real(workspace.path(name)) for name in ARTEFACTS}
    inside = [place for place in (_real(workspace.model_cache), *written.values()) if place == source or source in place.parents]
    if inside:
        raise ConfigError(
            f"ingest.path={path} is the folder in which this run writes its results ({inside[0]}), and they would be read as "
            "documents: move the source into a folder of its own, or name another folder for the results (uae run --out)"
        )
    for name, place in written.items():
        if place in source.parents:
            raise ConfigError(f"ingest.path={path} lies in {place}, which the run replaces ({name}): move the source elsewhere")


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def check_name(path: str) -> None:
    """
    Raises:
        ConfigError: the path is one that Parquet, FAISS or JSON cannot hold.
    """
    try:
        path.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"the path {path!a} is not UTF-8: rename it") from None
    if "\0" in path:
        raise ConfigError(f"the path {path!a} holds a zero, which no path can")
