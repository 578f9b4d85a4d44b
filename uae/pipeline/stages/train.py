"""Stage train: fit the student to the utilities, and the rivals that the evaluation compares it with."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from uae.pipeline.settings import (
    ComputeSettings,
    LabelSettings,
    PassageSettings,
    Scope,
    TeacherSettings,
    TrackingSettings,
    UtilitySettings,
)
from uae.pipeline.shared_code import ENCODER, MODELS, READ_AS, REGISTRY, TABLES, VECTORS
from uae.pipeline.stage import Key, Parameters, Stage
from uae.pipeline.teachers import asked_teachers
from uae.pipeline.together import by_several
from uae.pipeline.workspace import Workspace
from uae.retrievers.prompts import Prompts
from uae.training.options import TrainOptions

if TYPE_CHECKING:
    from uae.training.data import TrainingData
    from uae.training.refresh import MoreLabels


class TrainParameters(Parameters):
    seed: int
    scope: Scope
    compute: ComputeSettings
    student: Annotated[str, Key("models.student")]
    student_prompts: Annotated[Prompts | None, Key("models.student_prompts")]
    second_stage: Annotated[str | None, Key("models.second_stage")]
    teachers: dict[str, TeacherSettings]
    passages: PassageSettings
    label: LabelSettings
    utility: UtilitySettings
    train: TrainOptions
    tracking: TrackingSettings


def run(p: TrainParameters, w: Workspace) -> dict[str, Any]:
    return by_several(
        "train", p, w, p.train.processes, p.compute.device,
        lead=lambda device: _train(p, w, device), follow=lambda device: _follow(p, w, device),
    )  # fmt: skip


def _train(p: TrainParameters, w: Workspace, device: str) -> dict[str, Any]:
    import mlflow

    from uae.io.models import resolve
    from uae.registry.tracking import ENCODER_TAG, connect, training_run
    from uae.retrievers.prompts import base_encoder
    from uae.training.train import SecondStage, train
    from uae.validation.trained_on import write_trained_on
    from uae.vectors.store import VectorStore

    def log_metrics(metrics: dict[str, float], step: int) -> None:
        mlflow.log_metrics(metrics, step=step)

    base = base_encoder(p.student, p.student_prompts, w.model_cache)
    connect(p.tracking.uri, p.tracking.experiment, w.root)
    params = {
        "train": p.train.model_dump(),
        "utility": p.utility.model_dump(),
        "student": p.student,
        "student_prompts": p.student_prompts and p.student_prompts.model_dump(),
        "seed": p.seed,
    }
    data, vectors = training_data(p, w, w.path("questions")), VectorStore(w.vectors)
    with training_run(params, {name: w.path(name) for name in ("candidates", "passages", "questions", "labels")}) as run:
        summary = train(
            data=data,
            base_path=base,
            student_path=w.path("student"),
            rivals_path=w.path("rivals"),
            curve_path=w.path("training_curve"),
            reward_path=w.path("reward_model"),
            more=more_labels(p, w, w.path("refreshed_labels")),
            options=p.train,
            teacher_temperature=p.utility.temperature,
            device=device,
            seed=p.seed,
            second=SecondStage(resolve(p.second_stage, w.model_cache) if p.second_stage else None, w.path("second_stage")),
            log_metrics=log_metrics,
            log_examples=lambda rows: mlflow.log_dict({"examples": rows}, "validation_examples.json"),
            vectors=vectors,
        )
        write_trained_on(w.path("trained_on"), data.questions, data.stored.documents(), summary["fingerprint"])
        mlflow.set_tag(ENCODER_TAG, summary["fingerprint"])
        mlflow.log_metrics({name: summary[name] for name in ("seconds_per_step", "peak_memory_mb", "teacher_temperature")})
    return summary | vectors.counts() | {"run_id": run.info.run_id}


def _follow(p: TrainParameters, w: Workspace, device: str) -> None:
    """The part of a process that does not lead: it takes part in each fit and writes nothing."""
    from uae.retrievers.prompts import base_encoder
    from uae.training.train import follow

    follow(
        data=training_data(p, w, w.path("questions")),
        base_path=base_encoder(p.student, p.student_prompts, w.model_cache),
        student_path=w.path("student"),
        reward_path=w.path("reward_model"),
        more=more_labels(p, w, w.path("refreshed_labels")),
        options=p.train,
        teacher_temperature=p.utility.temperature,
        device=device,
        seed=p.seed,
    )


def training_data(p: TrainParameters, w: Workspace, questions_path: Path) -> "TrainingData":
    """The labelled pairs of the workspace.

    Args:
        questions_path: of the workspace, or others with the same ids: a comparison may know less of them.

    Raises:
        ArtefactError: the candidates are of other passages, or of other questions than the workspace has now, as after a refresh.
    """
    from uae.text.stored_passages import template_for
    from uae.training.data import TrainingData
    from uae.validation.report import require_made_from

    named = ("passages", "questions") if questions_path == w.path("questions") else ("passages",)
    require_made_from(w.path("candidates"), {name: w.path(name) for name in named}, "candidates")
    return TrainingData.read(
        candidates_path=w.path("candidates"),
        passages_path=w.path("passages"),
        questions_path=questions_path,
        store_path=w.path("labels"),
        manifest_path=w.path("label_manifest"),
        aggregation=p.utility.aggregation(),
        read_as=template_for(p.passages.template, w.path("passages")),
    )


def more_labels(p: TrainParameters, w: Workspace, store_path: Path) -> "MoreLabels":
    """How a student that refreshes its candidates has the teacher asked; the answers go to ``store_path``."""
    from uae.teacher.label import ask
    from uae.training.refresh import MoreLabels
    from uae.validation.validate import check_readings

    def ask_more(candidates_path: Path) -> None:
        ask(
            candidates_path=candidates_path,
            passages_path=w.path("passages"),
            questions_path=w.path("questions"),
            store_path=store_path,
            teachers=asked_teachers(p.teachers, p.passages, p.label, p.compute, w),
            answers_per_question=p.label.answers_per_question,
            check_questions=0,
            readings_per_part=p.label.readings_per_part,
            others=[w.path("labels")],
            documents_path=w.path("documents"),
        )
        check_readings(store_path)

    return MoreLabels(p.scope, ask_more, w.path("refreshed_candidates"), store_path)


STAGE = Stage(
    name="train",
    summary="Distil the utilities into the student by Utility-Modulated InfoNCE.",
    run=run,
    parameters=TrainParameters,
    needs=("candidates", "passages", "questions", "labels", "label_manifest", "label_validation"),
    makes=(
        "student",
        "trained_on",
        "rivals",
        "reward_model",
        "second_stage",
        "training_curve",
        "refreshed_candidates",
        "refreshed_labels",
    ),
    keeps=("reward_model", "second_stage", "refreshed_labels"),
    code=(
        "uae/training",
        "uae/teacher",
        "uae/validation",
        "uae/corpus/repeated_questions.py",
        *READ_AS,
        "uae/text/stored_passages.py",
        *REGISTRY,
        "uae/text/answer_match.py",
        "uae/text/near_duplicates.py",
        "uae/text/words.py",
        "uae/measures/fusion.py",
        "uae/measures/ranking.py",
        "uae/measures/row_rankings.py",
        "uae/retrievers/bm25_index.py",
        "uae/retrievers/bm25_scores.py",
        "uae/retrievers/cosine.py",
        "uae/retrievers/cross_encoder.py",
        *VECTORS,
        *MODELS,
        *ENCODER,
        "uae/io/spill.py",
        *TABLES,
        "uae/io/torchrun.py",
        "uae/pipeline/teachers.py",
        "uae/pipeline/together.py",
        "uae/pipeline/stages/train.py",
    ),
    by_several=True,
)
