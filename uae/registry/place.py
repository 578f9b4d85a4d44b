"""Whether MLflow's database can lie at the place that is set. This is checked before any work, without loading MLflow."""

import re
from pathlib import Path

from uae.io.errors import ConfigError


def is_beside_root(uri: str) -> bool:
    """Whether ``uri`` names an SQLite file by a relative path: it counts from the folder of the run."""
    return re.match("sqlite:///(?!/)", uri) is not None


def check_root(uri: str, root: Path) -> None:
    """
    Raises:
        ConfigError: the database is to lie below ``root``, whose path has a character that an SQLite address cannot hold.
    """
    if is_beside_root(uri) and (found := re.search("[?%]", str(Path(root).resolve()))):
        said = f"{Path(root).resolve()}: MLflow's database cannot lie in a folder whose path has a {found[0]!r}"
        raise ConfigError(f"{said}: rename it, or take another tracking.uri")
