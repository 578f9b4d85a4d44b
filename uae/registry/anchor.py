"""MLflow keeps absolute addresses of artefacts in its database. This brings them up to date in a run folder that was moved."""

from pathlib import Path
from typing import Any

from mlflow.store.model_registry.dbmodels.models import SqlModelVersion
from mlflow.store.tracking.dbmodels.models import SqlExperiment, SqlLoggedModel, SqlRun
from mlflow.utils.file_utils import local_file_uri_to_path
from sqlalchemy import create_engine, func, or_, update

_ADDRESSES: tuple[Any, ...] = (
    SqlExperiment.artifact_location,
    SqlRun.artifact_uri,
    SqlLoggedModel.artifact_location,
    SqlModelVersion.source,
    SqlModelVersion.storage_location,
)


def anchor_artefacts(database_uri: str, kept: str, artefacts: Path) -> bool:
    """Let every address below ``kept`` point below ``artefacts`` instead, if the run folder was moved or copied.

    Nothing is changed where only the database was moved: ``artefacts`` is missing and ``kept`` still exists.

    Args:
        database_uri: of SQLite, with an absolute path.
        kept: where the database says that the artefacts are, a ``file:`` address.
        artefacts: where they are beside the database, an absolute path.

    Returns:
        Whether the database was changed.

    Raises:
        SQLAlchemyError: the database cannot be changed, for example because another process holds its lock.
    """
    present = artefacts.as_uri()
    if kept == present or not kept.startswith("file:"):
        return False
    if not artefacts.is_dir() and Path(local_file_uri_to_path(kept)).is_dir():  # type: ignore[no-untyped-call]
        return False
    engine = create_engine(database_uri)
    try:
        with engine.begin() as connection:  # one transaction: all of them or none
            for column in _ADDRESSES:
                below = or_(column == kept, column.startswith(f"{kept}/", autoescape=True))
                moved = present + func.substr(column, len(kept) + 1)
                connection.execute(update(column.class_).where(below).values({column.key: moved}))
    finally:
        engine.dispose()
    return True
