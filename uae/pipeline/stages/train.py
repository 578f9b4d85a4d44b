"""Stage train: fit the student to the utilities, and the rivals that the evaluation compares it with."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from uae.pipeline.settings import (
    ComputeSettings,
    LabelSettings,
    Scope,
    TeacherSettings,
    TrackingSettings,
    TrainSettings,
    UtilitySettings,
)
from uae.pipeline.shared_code import ENCODER, MODELS, REGISTRY, TABLES
from uae.pipeline.stage import Key, Parameters, Stage
from uae.pipeline.teachers import asked_teachers
from uae.pipeline.workspace import Workspace

if TYPE_CHECKING:
    from uae.training.fit import Recipe
    from uae.training.train import Plan, Refreshing


class TrainParameters(Parameters):
    seed: int
    scope: Scope
    compute: ComputeSettings
    student: Annotated[str, Key("models.student")]
    teachers: dict[str, TeacherSettings]
    label: LabelSettings
    utility: UtilitySettings
    train: TrainSettings
    tracking: TrackingSettings


def run(p: TrainParameters, w: Workspace) -> dict[str, Any]:
    import mlflow

    from uae.io.models import resolve
    from uae.registry.tracking import ENCODER_TAG, connect, training_run
    from uae.training.train import train

    def log_metrics(metrics: dict[str, float], step: int) -> None:
        mlflow.log_metrics(metrics, step=step)

    base = resolve(p.student, w.model_cache)
    connect(p.tracking.uri, p.tracking.experiment, w.root)
    params = {"train": p.train.model_dump(), "utility": p.utility.model_dump(), "student": p.student, "seed": p.seed}
    with training_run(params, {name: w.path(name) for name in ("candidates", "passages", "questions", "labels")}) as run:
        summary = train(
            candidates_path=w.path("candidates"),
            passages_path=w.path("passages"),
            questions_path=w.path("questions"),
            store_path=w.path("labels"),
            manifest_path=w.path("label_manifest"),
            base_path=base,
            student_path=w.path("student"),
            curve_path=w.path("training_curve"),
            device=p.compute.device,
            seed=p.seed,
            log_metrics=log_metrics,
            log_examples=lambda rows: mlflow.log_dict({"examples": rows}, "validation_examples.json"),
            plan=training_plan(p, w, w.path("refreshed_labels")),
            rivals=p.train.rivals,
            rivals_path=w.path("rivals"),
        )
        mlflow.set_tag(ENCODER_TAG, summary["fingerprint"])
        mlflow.log_metrics({name: summary[name] for name in ("seconds_per_step", "peak_memory_mb", "teacher_temperature")})
    return summary | {"run_id": run.info.run_id}


def training_plan(p: TrainParameters, w: Workspace, refreshed_labels: Path) -> "Plan":
    """How the student is trained, as ``uae.training`` takes it.

    A student that refreshes its candidates has the teacher asked for more; ``refreshed_labels`` is where the answers go.
    """
    from uae.training.reward import RewardRecipe
    from uae.training.train import Plan, Rewarding, Selection

    selection = Selection(
        aggregation=p.utility.model_dump(exclude={"temperature"}),
        harmful_are_negatives=p.train.harmful_are_negatives,
        least_best_utility=p.train.least_best_utility,
        near_duplicate=p.train.near_duplicate,
    )
    reward = RewardRecipe(**p.train.reward.model_dump(exclude={"share"}))
    rewarding = Rewarding(share=p.train.reward.share, recipe=reward, path=w.path("reward_model"))
    refreshing = _refreshing(p, w, refreshed_labels)
    return Plan(training_recipe(p), selection, p.train.calibrate_temperature, rewarding, refreshing)


def training_recipe(p: TrainParameters) -> "Recipe":
    """How a student is fitted, as ``uae.training`` takes it."""
    from uae.training.fit import Recipe

    names = Recipe.__dataclass_fields__.keys() - {"teacher_temperature"}
    return Recipe(**{name: getattr(p.train, name) for name in names}, teacher_temperature=p.utility.temperature)


def _refreshing(p: TrainParameters, w: Workspace, store_path: Path) -> "Refreshing":
    from uae.teacher.label import ask
    from uae.training.train import Refreshing

    def ask_more(candidates_path: Path) -> None:
        ask(
            candidates_path=candidates_path,
            passages_path=w.path("passages"),
            questions_path=w.path("questions"),
            store_path=store_path,
            teachers=asked_teachers(p.teachers, p.label, p.compute, w),
            answers_per_question=p.label.answers_per_question,
            check_questions=0,
            readings_per_part=p.label.readings_per_part,
            others=[w.path("labels")],
        )

    return Refreshing(
        rounds=p.train.refresh.rounds,
        top_k=p.train.refresh.top_k,
        scope=p.scope,
        candidates_path=w.path("refreshed_candidates"),
        store_path=store_path,
        ask=ask_more,
    )


STAGE = Stage(
    name="train",
    summary="Distil the utilities into the student by Utility-Modulated InfoNCE.",
    run=run,
    parameters=TrainParameters,
    needs=("candidates", "passages", "questions", "labels", "label_manifest", "label_validation"),
    makes=("student", "rivals", "reward_model", "training_curve", "refreshed_candidates", "refreshed_labels"),
    keeps=("reward_model", "refreshed_labels"),
    code=(
        "uae/training",
        "uae/teacher",
        *REGISTRY,
        "uae/text/answer_match.py",
        "uae/text/near_duplicates.py",
        "uae/text/words.py",
        "uae/measures/ranking.py",
        "uae/retrievers/document_side.py",
        *MODELS,
        *ENCODER,
        *TABLES,
        "uae/pipeline/teachers.py",
        "uae/pipeline/stages/train.py",
    ),
)
