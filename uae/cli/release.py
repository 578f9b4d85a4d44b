"""``uae release``: which release the service serves. It acts on a store folder, which the service watches."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from uae.io.errors import InputError
from uae.pipeline.settings import Settings, load_settings

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from uae.release.store import ReleaseStore

app = typer.Typer(no_args_is_help=True, help="Which release the service serves: list, activate, rollback, follow, prune.")

Store = Annotated[Path, typer.Option(help="The service's folder of releases.")]
Params = Annotated[Path, typer.Option(help="The parameter file: where MLflow is, and the model's name.")]
Root = Annotated[Path, typer.Option(help="The project, or a folder of uae run: where a relative tracking.uri counts from.")]

_STORE = Path("models/serving")
_PARAMS = Path("params.yaml")


@app.command("list")
def list_releases(store: Store = _STORE) -> None:
    """Print the releases in the store, where they came from, and which one is active."""
    from uae.cli.show import print_releases
    from uae.release.store import ReleaseStore

    print_releases(ReleaseStore(store).installed(), store)


@app.command()
def activate(
    version: Annotated[
        str,
        typer.Argument(
            metavar="VERSION",
            help="An MLflow version's number, an alias, a fingerprint in the store (8 digits will do), or a folder.",
        ),
    ],
    store: Store = _STORE,
    params: Params = _PARAMS,
    root: Root = Path("."),
) -> None:
    """Check a release and have it served. A running service loads it beside the old one and switches without a failed request."""
    from uae.cli.show import print_active
    from uae.release.store import ReleaseStore

    releases = ReleaseStore(store)
    releases.activate(_bring(version, releases, params, root))
    print_active(releases)


@app.command()
def rollback(store: Store = _STORE) -> None:
    """Go back to the release that was active before; once more, to the one before that."""
    from uae.cli.show import print_active
    from uae.release.store import ReleaseStore

    releases = ReleaseStore(store)
    releases.rollback()
    print_active(releases)


@app.command()
def follow(
    alias: Annotated[str | None, typer.Option(help="An alias of the registered model. Default: promote.alias.")] = None,
    every: Annotated[float, typer.Option(metavar="SECONDS", min=0.1, help="How often to look.")] = 30.0,
    once: Annotated[bool, typer.Option("--once", help="Look once and end: for cron.")] = False,
    store: Store = _STORE,
    params: Params = _PARAMS,
    root: Root = Path("."),
) -> None:
    """Watch an MLflow alias: when it moves, install and activate what it points at. SIGTERM ends it within a second."""
    from uae.cli.show import say
    from uae.release.store import ReleaseStore
    from uae.serving.follow import follow

    settings = load_settings(params)
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
) -> None:
    """Remove old releases from the store."""
    from uae.cli.show import say
    from uae.release.store import ReleaseStore

    for fingerprint in ReleaseStore(store).prune(keep):
        say(f"removed {fingerprint[:12]}")


def _bring(version: str, store: "ReleaseStore", params: Path, root: Path) -> str:
    """The fingerprint of what ``version`` names, brought into the store where it is not there.

    A few digits are a version's number. More digits may be the beginning of a fingerprint: for these the store is asked first.
    """
    from uae.release.store import SHORTEST_PREFIX

    if (Path(version) / "manifest.json").is_file():
        return store.install(Path(version), None)
    if not re.fullmatch(rf"\d{{1,{SHORTEST_PREFIX - 1}}}", version) and (found := store.find(version)):
        return found
    from uae.serving.follow import install_version, registered

    settings = load_settings(params)
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
