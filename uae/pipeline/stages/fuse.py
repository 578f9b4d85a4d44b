"""Stage fuse: choose how BM25 joins the student in the release."""

from typing import TYPE_CHECKING, Annotated, Any

from uae.io.options import Count
from uae.pipeline.settings import FusionSettings, PassageSettings, Scope, UsefulSettings, UtilitySettings
from uae.pipeline.shared_code import ENCODER, MODELS, READ_AS, RETRIEVERS, TABLES
from uae.pipeline.stage import Key, Parameters, Stage
from uae.pipeline.together import by_several
from uae.pipeline.workspace import Workspace
from uae.retrievers.prompts import Prompts
from uae.training.options import TrainOptions

if TYPE_CHECKING:
    from uae.training.data import TrainingData
    from uae.training.fusion import FusionTerms


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
    return by_several(
        "fuse", p, w, p.train.processes, p.device,
        lead=lambda device: _fuse(p, w, device), follow=lambda device: _follow(p, w, device),
    )  # fmt: skip


def _fuse(p: FuseParameters, w: Workspace, device: str) -> dict[str, Any]:
    from uae.retrievers.prompts import base_encoder
    from uae.training.fusion import choose_fusion
    from uae.vectors.store import VectorStore

    vectors = VectorStore(w.vectors)
    chosen = choose_fusion(
        _data(p, w),
        base_path=base_encoder(p.student, p.student_prompts, w.model_cache),
        student_path=w.path("student"),
        fusion_path=w.path("fusion"),
        terms=_terms(p),
        options=p.train,
        teacher_temperature=p.utility.temperature,
        scope=p.scope,
        device=device,
        seed=p.seed,
        vectors=vectors,
    )
    return chosen | vectors.counts()


def _follow(p: FuseParameters, w: Workspace, device: str) -> None:
    """The part of a process that does not lead: it takes part in each fit and writes nothing."""
    from uae.retrievers.prompts import base_encoder
    from uae.training.fusion import follow_fusion

    follow_fusion(
        _data(p, w),
        base_path=base_encoder(p.student, p.student_prompts, w.model_cache),
        student_path=w.path("student"),
        terms=_terms(p),
        options=p.train,
        teacher_temperature=p.utility.temperature,
        scope=p.scope,
        device=device,
        seed=p.seed,
    )


def _terms(p: FuseParameters) -> "FusionTerms":
    from uae.training.fusion import FusionTerms
    from uae.training.usefulness import UsefulTerms

    useful = None
    if p.useful.least_utility is not None:
        least = None if p.useful.least_utility == "chance" else p.useful.least_utility
        useful = UsefulTerms(least, p.useful.least_probability)
    return FusionTerms(p.fusion.form, p.fusion.weight, p.fusion.folds, p.dimension, useful)


def _data(p: FuseParameters, w: Workspace) -> "TrainingData":
    from uae.text.stored_passages import template_for
    from uae.training.data import TrainingData

    return TrainingData.read(
        candidates_path=w.path("candidates"),
        passages_path=w.path("passages"),
        questions_path=w.path("questions"),
        store_path=w.path("labels"),
        manifest_path=w.path("label_manifest"),
        aggregation=p.utility.aggregation(),
        read_as=template_for(p.passages.template, w.path("passages")),
    )


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
        "uae/text/stored_passages.py",
        "uae/text/answer_match.py",
        "uae/text/near_duplicates.py",
        "uae/text/words.py",
        "uae/measures",
        *RETRIEVERS,
        "uae/retrievers/both.py",
        *MODELS,
        *ENCODER,
        *TABLES,
        "uae/io/torchrun.py",
        "uae/pipeline/together.py",
        "uae/pipeline/stages/fuse.py",
    ),
    by_several=True,
)
