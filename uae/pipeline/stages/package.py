"""Stage package: build a Bento of the release that the alias points at."""

from typing import Annotated, Any

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


STAGE = Stage(
    name="package",
    summary="Build a Bento of the champion's release.",
    run=run,
    parameters=PackageParameters,
    needs=("promotion",),
    makes=("bento",),
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
