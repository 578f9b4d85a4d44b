"""Stage package: build a Bento of the release that the alias points at."""

from typing import Annotated, Any

from uae.io.files import read_json
from uae.pipeline.settings import PackageSettings, TrackingSettings
from uae.pipeline.shared_code import ENCODER, MODELS, REGISTRY, RELEASE, TABLES
from uae.pipeline.stage import Key, Parameters, Stage
from uae.pipeline.workspace import Workspace


class PackageParameters(Parameters):
    model: Annotated[str, Key("promote.model")]
    alias: Annotated[str, Key("promote.alias")]
    package: PackageSettings
    tracking: TrackingSettings


def run(p: PackageParameters, w: Workspace) -> dict[str, Any]:
    from uae.registry.package import package

    return package(
        bento_path=w.path("bento"),
        root=w.root,
        uri=p.tracking.uri,
        experiment=p.tracking.experiment,
        model=p.model,
        alias=p.alias,
        bento=p.package.bento,
    )


def is_of_another_champion(p: PackageParameters, w: Workspace) -> bool:
    """Whether the alias was moved since, by a person or by a refresh. Where nobody can say, the Bento stays as it is."""
    from uae.registry.versions import champion_now

    if not w.path("promotion").exists():
        return False  # there is no registry yet, and asking would make one
    now = champion_now(w.root, p.tracking.uri, p.tracking.experiment, p.model, p.alias)
    return now is not None and now != read_json(w.path("bento") / "package.json").get("version")


STAGE = Stage(
    name="package",
    summary="Build a Bento of the champion's release.",
    run=run,
    parameters=PackageParameters,
    needs=("promotion",),
    makes=("bento",),
    unfinished=is_of_another_champion,
    code=(
        "uae/registry/package.py",
        *REGISTRY,
        "uae/registry/versions.py",
        "uae/release/open.py",
        *RELEASE,
        "uae/release/forgotten.py",
        "uae/release/store.py",
        "uae/release/collections",
        "uae/io/postgres.py",
        "uae/serving",
        "deploy",
        *MODELS,
        *ENCODER,
        *TABLES,
        "uae/io/options.py",
        "uae/pipeline/stages/package.py",
    ),
)
