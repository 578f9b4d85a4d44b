"""Stage index: encode the corpus with the student and build the release."""

from typing import Annotated, Any

from uae.execution.options import ExecutionOptions
from uae.pipeline.settings import IndexSettings, PassageSettings, Scope, SecondStageSettings
from uae.pipeline.shared_code import MODELS, READ_AS, TABLES
from uae.pipeline.stage import Key, Parameters, Stage
from uae.pipeline.workspace import Workspace
from uae.retrievers.prompts import Prompts


class IndexParameters(Parameters):
    scope: Scope
    device: Annotated[str, Key("compute.device")]
    student: Annotated[str, Key("models.student")]
    student_prompts: Annotated[Prompts | None, Key("models.student_prompts")]
    passage_words: Annotated[int, Key("ingest.passage_words")]
    passages: PassageSettings
    execution: Annotated[ExecutionOptions, Key("execution", watched=False)]
    index: IndexSettings
    second_stage: SecondStageSettings


def run(p: IndexParameters, w: Workspace) -> dict[str, Any]:
    from uae.release.build import IndexRecipe, SecondStageRecipe, build_release
    from uae.retrievers.prompts import base_encoder
    from uae.retrievers.second_stage import second_stage_model
    from uae.text.stored_passages import template_for
    from uae.vectors.store import VectorStore

    trained, second = second_stage_model(w.path("second_stage")), None
    if trained is not None:
        second = SecondStageRecipe(trained, **p.second_stage.model_dump(), max_recall_loss=p.index.max_recall_loss)
    vectors = VectorStore(w.vectors, execution=p.execution.distributed)
    built = build_release(
        documents_path=w.path("documents"),
        passages_path=w.path("passages"),
        questions_path=w.path("questions"),
        encoder_path=w.path("student"),
        base_path=base_encoder(p.student, p.student_prompts, w.model_cache) if p.index.base else None,
        release_path=w.path("release"),
        trained_on_path=w.path("trained_on"),
        recipe=IndexRecipe(**p.index.model_dump(exclude={"base"})),
        scope=p.scope,
        passage_words=p.passage_words,
        device=p.device,
        read_as=template_for(p.passages.template, w.path("passages")),
        fusion_path=w.path("fusion"),
        second_stage=second,
        vectors=vectors,
    )
    built_how = {"index_reused": built.index_reused, "truncated": built.truncated}
    return built.manifest.model_dump(mode="json") | built_how | vectors.counts()


STAGE = Stage(
    name="index",
    summary="Encode the corpus with the student and bind encoder, BM25, FAISS index and passages into a release.",
    run=run,
    parameters=IndexParameters,
    needs=("documents", "passages", "questions", "student", "trained_on", "fusion", "second_stage"),
    makes=("release",),
    keeps=("release",),
    code=(
        "uae/release",
        "uae/index",
        "uae/retrievers",
        "uae/vectors",
        "uae/execution",
        "uae/measures",
        *READ_AS,
        "uae/text/words.py",
        "uae/validation/trained_on.py",
        *MODELS,
        "uae/io/compute.py",
        "uae/io/mapped.py",
        "uae/io/mapped_table.py",
        "uae/text/stored_passages.py",
        *TABLES,
        "uae/pipeline/stages/index.py",
    ),
)
