"""Stage promote: register the release; let the gate decide whether the alias moves to it."""

from typing import TYPE_CHECKING, Annotated, Any

from uae.pipeline.settings import ComputeSettings, EvaluateSettings, PromoteSettings, Scope, TrackingSettings
from uae.pipeline.shared_code import ENCODER, MODELS, RELEASE, RETRIEVERS, TABLES
from uae.pipeline.stage import Key, Parameters, Stage
from uae.pipeline.workspace import Workspace

if TYPE_CHECKING:
    from uae.evaluation.answers import Reader


class PromoteParameters(Parameters):
    scope: Scope
    compute: ComputeSettings
    reader: Annotated[str, Key("models.reader")]
    evaluate: EvaluateSettings
    promote: PromoteSettings
    tracking: TrackingSettings


def run(p: PromoteParameters, w: Workspace) -> dict[str, Any]:
    from uae.evaluation.answers import Context
    from uae.registry.decided import Place
    from uae.registry.gate import Bounds
    from uae.registry.promote import Asked, Judged, promote
    from uae.vectors.store import VectorStore

    def reader() -> "Reader":
        from uae.evaluation.answers import Reader
        from uae.io.models import resolve

        folder = resolve(p.reader, w.model_cache)
        e = p.evaluate
        return Reader(folder, p.compute.device, p.compute.dtype, e.reader_new_tokens, e.reader_batch_size, e.reader_chat)

    vectors = VectorStore(w.vectors)
    decided = promote(
        Judged(
            evaluation=w.path("evaluation"),
            runs=w.path("runs"),
            passages=w.path("passages"),
            questions=w.path("questions"),
            release=w.path("release"),
            lineage={name: w.path(name) for name in ("documents", "passages", "questions", "candidates", "labels")},
        ),
        Place(w.root, p.tracking.uri, p.tracking.experiment, p.promote.model, p.promote.alias),
        promotion_path=w.path("promotion"),
        page_path=w.path("gate_page"),
        bounds=Bounds(**p.promote.model_dump(exclude={"model", "alias"})),
        asked=Asked(
            scope=p.scope,
            device=p.compute.device,
            reader=reader,
            context=Context(p.evaluate.reader_passages[0], p.evaluate.reader_orders[0]),
            vectors=vectors,
        ),
    )
    return decided | vectors.counts()


STAGE = Stage(
    name="promote",
    summary="Register the release; move the alias to it only if it passes the gate.",
    run=run,
    parameters=PromoteParameters,
    needs=("evaluation", "runs", "documents", "passages", "questions", "candidates", "labels", "release"),
    makes=("promotion", "gate_page"),
    code=(
        "uae/registry",
        "uae/evaluation/answers.py",
        "uae/evaluation/comparison.py",
        "uae/evaluation/fused.py",
        "uae/evaluation/testset.py",
        "uae/measures",
        "uae/pages",
        "uae/teacher",
        "uae/release/open.py",
        "uae/validation/trained_on.py",
        "uae/text/answer_match.py",
        "uae/text/words.py",
        *RETRIEVERS,
        "uae/retrievers/both.py",
        *RELEASE,
        *MODELS,
        *ENCODER,
        "uae/text/stored_passages.py",
        "uae/io/spill.py",
        *TABLES,
        "uae/pipeline/stages/promote.py",
    ),
)
