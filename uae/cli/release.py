"""``uae release``: which release the service serves. It acts on a store folder, which the service watches.

With ``--to`` it acts on a collection in a database instead: the vectors of releases, for a service that searches there.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from uae.cli.parameters import RunParams, params_of
from uae.io.errors import InputError
from uae.pipeline.settings import Settings, load_settings

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from uae.release.collections.collection import Collection
    from uae.release.store import ReleaseStore


app = typer.Typer(
    no_args_is_help=True, help="Which release the service serves: list, activate, publish, rollback, follow, prune."
)

Store = Annotated[Path, typer.Option(help="The service's folder of releases.")]
Root = Annotated[Path, typer.Option(help="The project, or a folder of uae run: where a relative tracking.uri counts from.")]

Version = Annotated[
    str,
    typer.Argument(
        metavar="VERSION",
        help="An MLflow version's number, an alias, a fingerprint in the store (8 digits will do), or a folder.",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="A database instead of the store: postgresql://user@host:port/database. The password is libpq's (PGPASSFILE).",
    ),
]
CollectionName = Annotated[str, typer.Option(help="The collection in the database: a schema of its own.")]

_STORE = Path("models/serving")
_COLLECTION = "uae"


@app.command("list")
def list_releases(store: Store = _STORE, to: Address = None, collection: CollectionName = _COLLECTION) -> None:
    """Print the releases in the store, where they came from, and which one is active. Or those in a collection."""
    from uae.cli.show import print_publications, print_releases
    from uae.release.store import ReleaseStore

    if to is not None:
        with _collection(to, collection) as found:
            print_publications(found.publications())
        return
    print_releases(ReleaseStore(store).installed(), store)


@app.command()
def activate(
    version: Version,
    store: Store = _STORE,
    params: RunParams = None,
    root: Root = Path("."),
) -> None:
    """Check a release and have it served. A running service loads it beside the old one and switches without a failed request."""
    from uae.cli.show import print_active
    from uae.release.store import ReleaseStore

    releases = ReleaseStore(store)
    releases.activate(_bring(version, releases, params, root))
    print_active(releases)


@app.command()
def publish(
    version: Version,
    to: Annotated[str, typer.Option(metavar="ADDRESS", help="The database: postgresql://user@host:port/database.")],
    collection: CollectionName = _COLLECTION,
    search: Annotated[
        Literal["auto", "exact", "hnsw"], typer.Option(help="auto: exactly, or by a graph that has the recall wanted.")
    ] = "auto",
    store: Store = _STORE,
    params: RunParams = None,
    root: Root = Path("."),
) -> None:
    """Load a release's vectors into a database with pgvector, beside those of the others, and make it the active one there.

    What the newest release there has already is not loaded again. All of it is one transaction.
    """
    from uae.cli.show import print_published
    from uae.release.collections.publish import publish
    from uae.release.store import ReleaseStore

    with _collection(to, collection) as target:
        releases = ReleaseStore(store)
        folder = releases.path(_bring(version, releases, params, root))
        print_published(publish(folder, target, search), target.where)


@app.command()
def rollback(store: Store = _STORE, to: Address = None, collection: CollectionName = _COLLECTION) -> None:
    """Go back to the release that was active before; once more, to the one before that."""
    from uae.cli.show import print_active, say
    from uae.release.store import ReleaseStore

    if to is not None:
        from uae.release.collections.publish import rollback

        with _collection(to, collection) as target:
            say(f"active in {target.where}: {rollback(target)[:12]}")
        return
    releases = ReleaseStore(store)
    releases.rollback()
    print_active(releases)


@app.command()
def follow(
    alias: Annotated[str | None, typer.Option(help="An alias of the registered model. Default: promote.alias.")] = None,
    every: Annotated[float, typer.Option(metavar="SECONDS", min=0.1, help="How often to look.")] = 30.0,
    once: Annotated[bool, typer.Option("--once", help="Look once and end: for cron.")] = False,
    store: Store = _STORE,
    params: RunParams = None,
    root: Root = Path("."),
) -> None:
    """Watch an MLflow alias: when it moves, install and activate what it points at. SIGTERM ends it within a second."""
    from uae.cli.show import say
    from uae.release.store import ReleaseStore
    from uae.serving.follow import follow

    settings = load_settings(params_of(root, params))
    follow(
        connect=lambda: _connect(settings, root),
        model=settings.promote.model,
        alias=alias or settings.promote.alias,
        store=ReleaseStore(store),
        every_s=every,
        once=once,
        announce=say,
    )


@app.command()
def prune(
    keep: Annotated[int, typer.Option(min=0, help="How many of the newest stay; the active one and the one before always do.")],
    store: Store = _STORE,
    to: Address = None,
    collection: CollectionName = _COLLECTION,
) -> None:
    """Remove old releases from the store, or their vectors from a collection."""
    from uae.cli.show import say
    from uae.release.store import ReleaseStore

    if to is None:
        removed = ReleaseStore(store).prune(keep)
    else:
        from uae.release.collections.publish import prune

        with _collection(to, collection) as target:
            removed = prune(target, keep)
    for fingerprint in removed:
        say(f"removed {fingerprint[:12]}")


@contextmanager
def _collection(address: str, name: str) -> "Iterator[Collection]":
    """A collection, to be changed or listed: a publication may take as long as it takes."""
    from uae.io.postgres import Database
    from uae.release.collections.collection import Collection

    database = Database(address, statement_s=0, read_only=False)
    try:
        yield Collection(database, name)
    finally:
        database.close()


def _bring(version: str, store: "ReleaseStore", params: Path | None, root: Path) -> str:
    """The fingerprint of what ``version`` names, brought into the store where it is not there.

    A few digits are a version's number. More digits may be the beginning of a fingerprint: for these the store is asked first.
    """
    from uae.release.store import SHORTEST_PREFIX

    if (Path(version) / "manifest.json").is_file():
        return store.install(Path(version), None)
    if not re.fullmatch(rf"\d{{1,{SHORTEST_PREFIX - 1}}}", version) and (found := store.find(version)):
        return found
    from uae.serving.follow import install_version, registered

    settings = load_settings(params_of(root, params))
    client = _connect(settings, root)
    try:
        registered_version = registered(client, settings.promote.model, version)
    except InputError as error:
        raise InputError(
            f"{error}, and it is no folder of a release, nor does the fingerprint of one in {store.folder} start with it"
        ) from None
    return install_version(client, registered_version, store)


def _connect(settings: Settings, root: Path) -> "MlflowClient":
    from uae.registry.tracking import connect

    return connect(settings.tracking.uri, settings.tracking.experiment, root)
