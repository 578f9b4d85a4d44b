"""Stage promote: register the release; let the gate decide whether the alias moves to it."""

from typing import Annotated, Any

from uae.pipeline.settings import PromoteSettings, Scope, TrackingSettings
from uae.pipeline.shared_code import ENCODER, MODELS, REGISTRY, RELEASE, RETRIEVERS, TABLES
from uae.pipeline.stage import Key, Parameters, Stage
from uae.pipeline.workspace import Workspace


class PromoteParameters(Parameters):
    scope: Scope
    device: Annotated[str, Key("compute.device")]
    promote: PromoteSettings
    tracking: TrackingSettings


def run(p: PromoteParameters, w: Workspace) -> dict[str, Any]:
    from uae.registry.gate import Bounds
    from uae.registry.promote import promote
    from uae.vectors.store import VectorStore

    vectors = VectorStore(w.vectors)
    decided = promote(
        evaluation_path=w.path("evaluation"),
        passages_path=w.path("passages"),
        questions_path=w.path("questions"),
        release_path=w.path("release"),
        promotion_path=w.path("promotion"),
        lineage={name: w.path(name) for name in ("documents", "passages", "questions", "candidates", "labels")},
        root=w.root,
        uri=p.tracking.uri,
        experiment=p.tracking.experiment,
        model=p.promote.model,
        alias=p.promote.alias,
        bounds=Bounds(**p.promote.model_dump(exclude={"model", "alias"})),
        scope=p.scope,
        device=p.device,
        vectors=vectors,
    )
    return decided | vectors.counts()


STAGE = Stage(
    name="promote",
    summary="Register the release; move the alias to it only if it passes the gate.",
    run=run,
    parameters=PromoteParameters,
    needs=("evaluation", "documents", "passages", "questions", "candidates", "labels", "release"),
    makes=("promotion",),
    code=(
        "uae/registry/promote.py",
        "uae/registry/gate.py",
        *REGISTRY,
        "uae/registry/versions.py",
        "uae/evaluation/fused.py",
        "uae/evaluation/testset.py",
        "uae/measures/best_fusion.py",
        "uae/release/open.py",
        "uae/validation/trained_on.py",
        "uae/text/words.py",
        "uae/measures/metrics.py",
        "uae/measures/ranking.py",
        *RETRIEVERS,
        *RELEASE,
        *MODELS,
        *ENCODER,
        *TABLES,
        "uae/pipeline/stages/promote.py",
    ),
)
