"""Stage label: ask the teachers how useful each candidate is, store their readings and judge the labels."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypedDict

from uae.execution.options import ExecutionOptions
from uae.io.errors import UaeError
from uae.io.options import Count
from uae.pipeline.settings import ComputeSettings, LabelSettings, PassageSettings, TeacherSettings, UtilitySettings
from uae.pipeline.shared_code import MODELS, READ_AS, TABLES
from uae.pipeline.stage import Key, Parameters, Stage
from uae.pipeline.teachers import asked_teachers
from uae.pipeline.workspace import Workspace


class LabelParameters(Parameters):
    compute: ComputeSettings
    teachers: dict[str, TeacherSettings]
    passages: PassageSettings
    label: LabelSettings
    utility: UtilitySettings
    budget: Annotated[Count | None, Key("retrain.budget_readings")]
    execution: Annotated[ExecutionOptions, Key("execution", watched=False)]


def run(p: LabelParameters, w: Workspace) -> dict[str, Any]:
    from uae.teacher.label import label
    from uae.validation.report import require_made_from
    from uae.validation.validate import validate_labels

    require_made_from(w.path("candidates"), {name: w.path(name) for name in ("passages", "questions")}, "candidates")
    summary = label(
        **_tables(w),
        manifest_path=w.path("label_manifest"),
        teachers=asked_teachers(p.teachers, p.passages, p.label, p.compute, w, p.execution.distributed),
        answers_per_question=p.label.answers_per_question,
        check_questions=p.label.check_questions,
        readings_per_part=p.label.readings_per_part,
        adopts=_asked_by_training(w),
        documents_path=w.path("documents"),  # no input: it tells only what the ids of an earlier version were
        budget=p.budget,
    )
    asked = {name: w.path(name) for name in ("label_manifest", "candidates", "passages", "questions")}
    validation = validate_labels(w.path("labels"), w.path("label_validation"), asked)
    quality = report_labels(p, w)
    judged = {name: quality[name] for name in ("verdict", "summary", "warnings")}
    return summary | judged | {"validation": validation, "quality": quality}


def report_labels(p: LabelParameters, w: Workspace) -> dict[str, Any]:
    """Judge the labels that are stored; ask nothing."""
    from uae.teacher.quality.report import report_labels as write_report

    return write_report(
        **_tables(w),
        manifest_path=w.path("label_manifest"),
        report_path=w.path("label_quality"),
        page_path=w.path("label_page"),
        histogram_path=w.path("utility_histogram"),
        **p.utility.model_dump(),
    )


def plan_labels(p: LabelParameters, w: Workspace, calibration_s: float) -> Sequence[dict[str, Any]]:
    """What the stage would cost. Reads for ``calibration_s`` seconds to learn the teacher's speed; stores nothing."""
    from uae.teacher.cost import labelling_cost

    return labelling_cost(
        **_tables(w),
        teachers=asked_teachers(p.teachers, p.passages, p.label, p.compute, w, p.execution.distributed),
        answers_per_question=p.label.answers_per_question,
        check_questions=p.label.check_questions,
        calibration_s=calibration_s,
        adopts=_asked_by_training(w),
    )


def readings_waiting(w: Workspace) -> int:
    """Readings that the last run had no budget for."""
    from uae.teacher.manifest import read_label_manifest

    path = w.path("label_manifest")
    try:
        return read_label_manifest(path).waiting if path.exists() else 0
    except UaeError:
        return 0  # the stage makes it anew


def _asked_by_training(w: Workspace) -> list[Path]:
    """Where training keeps what it asked. Its readings are those that this stage would ask for, so it is no input."""
    return [path for path in [w.path("refreshed_labels")] if path.is_dir()]


class _Tables(TypedDict):
    candidates_path: Path
    passages_path: Path
    questions_path: Path
    store_path: Path


def _tables(w: Workspace) -> _Tables:
    return {
        "candidates_path": w.path("candidates"),
        "passages_path": w.path("passages"),
        "questions_path": w.path("questions"),
        "store_path": w.path("labels"),
    }


STAGE = Stage(
    name="label",
    summary="Ask the teacher for each answer's NLL with and without each candidate; store the raw readings.",
    run=run,
    parameters=LabelParameters,
    needs=("candidates", "passages", "questions"),
    makes=("labels", "label_manifest", "label_validation", "utility_histogram", "label_quality", "label_page"),
    keeps=("labels",),
    unfinished=lambda p, w: readings_waiting(w) > 0,
    code=(
        "uae/teacher",
        *READ_AS,
        "uae/text/stored_passages.py",
        "uae/execution",
        "uae/validation",
        "uae/corpus/repeated_questions.py",
        "uae/measures/metrics.py",
        "uae/measures/statistics.py",
        "uae/pages",
        "uae/text/near_duplicates.py",
        "uae/text/words.py",
        *MODELS,
        "uae/io/compute.py",
        "uae/io/spill.py",
        *TABLES,
        "uae/pipeline/teachers.py",
        "uae/pipeline/stages/label.py",
    ),
)
