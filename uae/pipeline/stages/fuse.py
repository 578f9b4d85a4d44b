"""Stage fuse: choose how BM25 joins the student in the release."""

from typing import Annotated, Any

from uae.io.options import Count
from uae.pipeline.settings import FusionSettings, PassageSettings, Scope, UsefulSettings, UtilitySettings
from uae.pipeline.shared_code import ENCODER, MODELS, READ_AS, RETRIEVERS, TABLES
from uae.pipeline.stage import Key, Parameters, Stage
from uae.pipeline.workspace import Workspace
from uae.retrievers.prompts import Prompts
from uae.training.options import TrainOptions


class FuseParameters(Parameters):
    seed: int
    scope: Scope
    device: Annotated[str, Key("compute.device")]
    student: Annotated[str, Key("models.student")]
    student_prompts: Annotated[Prompts | None, Key("models.student_prompts")]
    passages: PassageSettings
    utility: UtilitySettings
    train: TrainOptions
    fusion: FusionSettings
    useful: UsefulSettings
    dimension: Annotated[Count | None, Key("index.dimension")]


def run(p: FuseParameters, w: Workspace) -> dict[str, Any]:
    from uae.retrievers.prompts import base_encoder
    from uae.text.passage_template import PassageTemplate
    from uae.training.data import TrainingData
    from uae.training.fusion import FusionTerms, choose_fusion
    from uae.training.usefulness import UsefulTerms
    from uae.vectors.store import VectorStore

    useful = None
    if p.useful.least_utility is not None:
        least = None if p.useful.least_utility == "chance" else p.useful.least_utility
        useful = UsefulTerms(least, p.useful.least_probability)
    data = TrainingData.read(
        candidates_path=w.path("candidates"),
        passages_path=w.path("passages"),
        questions_path=w.path("questions"),
        store_path=w.path("labels"),
        manifest_path=w.path("label_manifest"),
        aggregation=p.utility.aggregation(),
        read_as=PassageTemplate(p.passages.template),
    )
    vectors = VectorStore(w.vectors)
    chosen = choose_fusion(
        data,
        base_path=base_encoder(p.student, p.student_prompts, w.model_cache),
        student_path=w.path("student"),
        fusion_path=w.path("fusion"),
        terms=FusionTerms(p.fusion.form, p.fusion.weight, p.fusion.folds, p.dimension, useful),
        options=p.train,
        teacher_temperature=p.utility.temperature,
        scope=p.scope,
        device=p.device,
        seed=p.seed,
        vectors=vectors,
    )
    return chosen | vectors.counts()


STAGE = Stage(
    name="fuse",
    summary="Choose how BM25 joins the student, on questions that the student asked was not trained on.",
    run=run,
    parameters=FuseParameters,
    needs=("candidates", "passages", "questions", "labels", "label_manifest", "label_validation", "student"),
    makes=("fusion",),
    code=(
        "uae/training",
        "uae/teacher",
        *READ_AS,
        "uae/text/answer_match.py",
        "uae/text/near_duplicates.py",
        "uae/text/words.py",
        "uae/measures",
        *RETRIEVERS,
        *MODELS,
        *ENCODER,
        *TABLES,
        "uae/pipeline/stages/fuse.py",
    ),
)
