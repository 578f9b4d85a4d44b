"""The chain, once: each stage's inputs, outputs, parameters and function. The CLI, dvc.yaml and Dagster agree with this table.

A stage function gets only the parameters that its stage declares (``settings.select``) and finds its files by artefact name.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

from uae.io.errors import ArtefactError
from uae.pipeline.settings import Settings, select

# artefact -> its path under the workspace's root
ARTEFACTS = {
    "documents": "data/documents.parquet",
    "passages": "data/passages.parquet",
    "questions": "data/questions.parquet",
    "validation": "reports/validation.json",
    "candidates": "data/candidates.parquet",
    "labels": "data/labels",
    "label_manifest": "data/labels.json",
    "label_validation": "reports/label_validation.json",
    "utility_histogram": "reports/utility_histogram.csv",
    "label_quality": "reports/labels.json",
    "label_page": "reports/labels.html",
    "refreshed_candidates": "data/refreshed_candidates.parquet",
    "refreshed_labels": "data/refreshed_labels",
    "student": "models/student",
    "rivals": "models/rivals",
    "reward_model": "models/reward",
    "training_curve": "reports/training.csv",
    "release": "models/release",
    "evaluation": "reports/evaluation.json",
    "runs": "data/runs.parquet",
    "recall_curve": "reports/recall.csv",
    "evaluation_page": "reports/evaluation.html",
    "query_cost": "reports/query_cost.json",
    "judgements": "data/judgements",
    "promotion": "reports/promotion.json",
    "bento": "models/bento",
}


@dataclass(frozen=True)
class Workspace:
    """Where a run's files lie: the project itself, or a folder of its own."""

    root: Path
    model_cache: Path = Path("models")
    flat_reports: bool = False  # reports stand at the top of the folder, as ``uae run`` promises

    def path(self, artefact: str) -> Path:
        relative = ARTEFACTS[artefact]
        return self.root / (relative.removeprefix("reports/") if self.flat_reports else relative)

    def model(self, reference: str) -> Path:
        from uae.io.models import resolve

        return resolve(reference, self.model_cache)


@dataclass(frozen=True)
class Stage:
    name: str
    summary: str  # what it does, in a line
    run: Callable[[SimpleNamespace, Workspace], dict]
    needs: tuple[str, ...]
    makes: tuple[str, ...]
    params: tuple[str, ...]
    code: tuple[str, ...]  # what DVC watches besides the inputs
    reads_source: bool = False  # it also reads the folder or file at ingest.path
    keeps: tuple[str, ...] = field(default=())  # outputs that a re-run continues instead of starting anew

    def __call__(self, settings: Settings, workspace: Workspace) -> dict:
        """Run the stage. Returns what there is to say about it.

        Raises:
            ArtefactError: something it needs is not there, if only the report of a validation that must pass first.
        """
        for name in self.needs:
            if not workspace.path(name).exists():
                maker = makers()[name]
                raise ArtefactError(
                    f"{self.name} needs {workspace.path(name)}, which does not exist: run the stage {maker} first (uae {maker}), "
                    "and go on where it succeeds"
                )
        return self.run(select(settings, self.params), workspace)


def _ingest(p, w: Workspace) -> dict:
    from uae.corpus.ingest import ingest

    return ingest(
        path=p.ingest.path,
        format=p.ingest.format,
        documents_path=w.path("documents"),
        passages_path=w.path("passages"),
        questions_path=w.path("questions"),
        max_documents=p.ingest.max_documents,
        passage_words=p.ingest.passage_words,
        split=p.ingest.split.model_dump(),
        seed=p.seed,
    )


def _validate(p, w: Workspace) -> dict:
    from uae.validation.validate import validate

    return validate(
        documents_path=w.path("documents"),
        passages_path=w.path("passages"),
        questions_path=w.path("questions"),
        report_path=w.path("validation"),
        scope=p.scope,
        min_words_per_passage=p.validate_.min_words_per_passage,
        min_questions=p.validate_.min_questions.model_dump(),
        near_duplicate=p.validate_.near_duplicate,
        require_answers=p.validate_.require_answers,
    )


def _candidates(p, w: Workspace) -> dict:
    from uae.candidates.mine import mine

    return mine(
        passages_path=w.path("passages"),
        questions_path=w.path("questions"),
        candidates_path=w.path("candidates"),
        encoder_path=w.model(p.models.student),
        scope=p.scope,
        top_k=p.candidates.top_k,
        holding_answer=p.candidates.holding_answer,
        random=p.candidates.random,
        gold=p.candidates.gold,
        device=p.compute.device,
        seed=p.seed,
    )


def _label(p, w: Workspace) -> dict:
    from uae.teacher.label import label
    from uae.validation.validate import validate_labels

    summary = label(
        **_label_tables(w),
        manifest_path=w.path("label_manifest"),
        teachers=_teachers(p, w),
        **_label_amounts(p),
        readings_per_part=p.label.readings_per_part,
    )
    validation = validate_labels(w.path("labels"), w.path("label_validation"))
    report = report_labels(p, w)
    judged = {name: report[name] for name in ("verdict", "summary", "warnings")}
    return summary | judged | {"validation": validation, "quality": report}


def report_labels(p, w: Workspace) -> dict:
    """The label-quality report, from what is stored."""
    from uae.teacher.quality.report import report_labels

    return report_labels(
        **_label_tables(w),
        manifest_path=w.path("label_manifest"),
        report_path=w.path("label_quality"),
        page_path=w.path("label_page"),
        histogram_path=w.path("utility_histogram"),
        **p.utility.model_dump(),
    )


def plan_labels(p, w: Workspace, calibration_s: float) -> list[dict]:
    """What the label stage would cost."""
    from uae.teacher.plan import plan

    return plan(**_label_tables(w), teachers=_teachers(p, w), **_label_amounts(p), calibration_s=calibration_s)


def _label_tables(w: Workspace) -> dict[str, Path]:
    tables = {f"{name}_path": w.path(name) for name in ("candidates", "passages", "questions")}
    return tables | {"store_path": w.path("labels")}


def _label_amounts(p) -> dict[str, int]:
    return {name: getattr(p.label, name) for name in ("answers_per_question", "check_questions")}


def _teachers(p, w: Workspace) -> list:
    from uae.teacher.asking import Asked
    from uae.teacher.prompts import Template

    teachers = []
    for name, teacher in p.teachers.items():
        fingerprint, open_teacher = _engine(p, w, teacher)
        teachers.append(
            Asked(
                name=name,
                fingerprint=fingerprint,
                method=teacher.method,
                grades=teacher.grades or (),
                weight=teacher.weight,
                templates=tuple(Template(**template.model_dump()) for template in teacher.templates),
                check_templates=tuple(Template(**template.model_dump()) for template in teacher.check_templates),
                open=open_teacher,
            )
        )
    return teachers


def _engine(p, w: Workspace, teacher) -> tuple[str, Callable]:
    """The fingerprint of a teacher's model, and what opens it."""
    if teacher.server is not None:
        from uae.teacher.engines.served import ServedTeacher

        key = os.environ.get("UAE_TEACHER_API_KEY")  # a secret has no place in params.yaml
        server = ServedTeacher(**teacher.server.model_dump(), model=teacher.model, api_key=key)
        return server.fingerprint, lambda: server
    from uae.io.models import fingerprint

    folder = w.model(teacher.model)
    found = fingerprint(folder)
    return found, lambda: _open(p, folder, found)


def _open(p, folder: Path, found: str):
    from uae.teacher.engines.local import load_teacher

    sizes = {name: getattr(p.label, name) for name in ("batch_tokens", "memory_mb", "compile")}
    return load_teacher(folder, found, p.compute.device, p.compute.dtype, **sizes)


def _train(p, w: Workspace) -> dict:
    import mlflow

    from uae.registry.tracking import ENCODER_TAG, connect, training_run
    from uae.training.train import train

    base = w.model(p.models.student)
    connect(p.tracking.uri, p.tracking.experiment, w.root)
    params = {"train": p.train.model_dump(), "utility": p.utility.model_dump(), "student": p.models.student, "seed": p.seed}
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
            log_metrics=lambda metrics, step: mlflow.log_metrics(metrics, step=step),
            log_examples=lambda rows: mlflow.log_dict({"examples": rows}, "validation_examples.json"),
            plan=training_plan(p, w, w.path("refreshed_labels")),
            rivals=p.train.rivals,
            rivals_path=w.path("rivals"),
        )
        mlflow.set_tag(ENCODER_TAG, summary["fingerprint"])
        mlflow.log_metrics({name: summary[name] for name in ("seconds_per_step", "peak_memory_mb", "teacher_temperature")})
    return summary | {"run_id": run.info.run_id}


def training_plan(p, w: Workspace, refreshed_labels: Path):
    """The parameters of training as ``uae.training`` takes them; what a refreshing student asks for goes to that store."""
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


def training_recipe(p):
    """How a student is fitted, as ``uae.training`` takes it."""
    from uae.training.fit import Recipe

    names = Recipe.__dataclass_fields__.keys() - {"teacher_temperature"}
    return Recipe(**{name: getattr(p.train, name) for name in names}, teacher_temperature=p.utility.temperature)


def _refreshing(p, w: Workspace, store_path: Path):
    from uae.teacher.label import ask
    from uae.training.train import Refreshing

    def ask_more(candidates_path: Path) -> None:
        ask(
            **_label_tables(w) | {"candidates_path": candidates_path, "store_path": store_path},
            teachers=_teachers(p, w),
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


def _index(p, w: Workspace) -> dict:
    from uae.release.build import IndexRecipe, build_release

    return build_release(
        documents_path=w.path("documents"),
        passages_path=w.path("passages"),
        questions_path=w.path("questions"),
        encoder_path=w.path("student"),
        base_path=w.model(p.models.student) if p.index.base else None,
        release_path=w.path("release"),
        recipe=IndexRecipe(**p.index.model_dump(exclude={"base"})),
        scope=p.scope,
        passage_words=p.ingest.passage_words,
        device=p.compute.device,
    )


def _evaluate(p, w: Workspace) -> dict:
    from uae.evaluation.evaluate import Reading, Written, evaluate

    w.path("judgements").mkdir(parents=True, exist_ok=True)
    readers = {"reader": w.model(p.models.reader)}
    if p.models.held_out:
        readers["held out"] = w.model(p.models.held_out)
    e = p.evaluate
    return evaluate(
        passages_path=w.path("passages"),
        questions_path=w.path("questions"),
        base_path=w.model(p.models.student),
        release_path=w.path("release"),
        rival_paths={path.name: path for path in sorted(w.path("rivals").iterdir()) if path.is_dir()},
        reader_paths=readers,
        training_curve_path=w.path("training_curve"),
        written=Written(
            evaluation=w.path("evaluation"),
            cost=w.path("query_cost"),
            page=w.path("evaluation_page"),
            runs=w.path("runs"),
            curve=w.path("recall_curve"),
        ),
        scope=p.scope,
        cutoffs=e.cutoffs,
        reading=Reading(e.reader_passages, e.reader_questions, e.reader_new_tokens, e.reader_batch_size),
        resamples=e.resamples,
        confidence=e.confidence,
        judging=judging_terms(p, w) if e.llm.questions else None,
        device=p.compute.device,
        dtype=p.compute.dtype,
        seed=p.seed,
    )


def judging_terms(p, w: Workspace):
    """What evaluation asks LLMs, an ``uae.evaluation.llm.Judging``."""
    from uae.evaluation.llm import Judging
    from uae.io.models import fingerprint
    from uae.teacher.prompts import Template

    llm = p.evaluate.llm
    teacher = _teachers(p, w)[0]
    held_out = None
    if p.models.held_out:
        path = w.model(p.models.held_out)
        found = fingerprint(path)
        held_out = replace(teacher, name="held out", fingerprint=found, open=lambda: _open(p, path, found))
    reader = w.model(p.models.reader)
    return Judging(
        questions=llm.questions,
        top_k=llm.top_k,
        window=llm.window,
        timed_queries=llm.timed_queries,
        reranker_path=reader,
        reranker_fingerprint=fingerprint(reader),
        query_template=Template(**llm.query_template.model_dump()),
        device=p.compute.device,
        dtype=p.compute.dtype,
        teacher=teacher,
        held_out=held_out,
        answers_per_question=p.label.answers_per_question,
        aggregation={"answers": p.utility.answers, "templates": p.utility.templates},
        store_path=w.path("judgements"),
        readings_per_part=p.label.readings_per_part,
    )


def _promote(p, w: Workspace) -> dict:
    from uae.registry.gate import Bounds
    from uae.registry.promote import promote

    return promote(
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
        device=p.compute.device,
    )


def _package(p, w: Workspace) -> dict:
    from uae.registry.package import package

    return package(
        bento_path=w.path("bento"),
        root=w.root,
        uri=p.tracking.uri,
        experiment=p.tracking.experiment,
        model=p.promote.model,
        alias=p.promote.alias,
        bento=p.package.bento,
    )


# What nearly every room stands on.
_GROUND = ("uae/io/files.py", "uae/io/tables.py")
_MODELS = ("uae/io/models.py", "uae/io/gguf.py", "uae/io/weights.py")
_ENCODER = ("uae/io/compute.py", "uae/retrievers/dense.py", "uae/retrievers/protocol.py")

_REGISTRY = ("uae/registry/tracking.py", "uae/registry/anchor.py", "uae/registry/errors.py")
_RELEASE = (
    "uae/release/open.py", "uae/release/parity.py", "uae/index", "uae/retrievers/onnx_encoder.py",
    "uae/retrievers/torch_encoder.py", "uae/retrievers/serving_forms.py",
)  # fmt: skip

CHAIN = (
    Stage(
        "ingest", "Read the source, cut passages, map evidence to them, assign splits.", _ingest,
        needs=(), makes=("documents", "passages", "questions"), reads_source=True,
        params=("seed", "ingest"),
        code=("uae/corpus", "uae/text/words.py", *_GROUND),
    ),
    Stage(
        "validate", "Great Expectations suites over documents, passages and questions; a failing one stops the chain.", _validate,
        needs=("documents", "passages", "questions"), makes=("validation",),
        params=("scope", "validate"),
        code=("uae/validation", "uae/teacher/store.py", "uae/text/near_duplicates.py", "uae/text/words.py", *_GROUND),
    ),
    Stage(
        "candidates", "Pair each question with the base encoder's top-k, its evidence, what holds its answer, random passages.",
        _candidates,
        needs=("passages", "questions", "validation"), makes=("candidates",),
        params=("seed", "scope", "compute.device", "models.student", "candidates"),
        code=("uae/candidates", "uae/text/answer_match.py", "uae/measures/ranking.py", *_MODELS, *_ENCODER, *_GROUND),
    ),
    Stage(
        "label", "Ask the teacher for each answer's NLL with and without each candidate; store the raw readings.", _label,
        needs=("candidates", "passages", "questions"),
        makes=("labels", "label_manifest", "label_validation", "utility_histogram", "label_quality", "label_page"),
        keeps=("labels",),
        params=("compute", "teachers", "label", "utility"),
        code=(
            "uae/teacher", "uae/validation", "uae/measures/metrics.py", "uae/measures/statistics.py", "uae/pages",
            "uae/text/near_duplicates.py", "uae/text/words.py", *_MODELS, "uae/io/compute.py", *_GROUND,
        ),
    ),
    Stage(
        "train", "Distil the utilities into the student by Utility-Modulated InfoNCE.", _train,
        needs=("candidates", "passages", "questions", "labels", "label_manifest", "label_validation"),
        makes=("student", "rivals", "reward_model", "training_curve", "refreshed_candidates", "refreshed_labels"),
        keeps=("reward_model", "refreshed_labels"),
        params=("seed", "scope", "compute", "models.student", "teachers", "label", "utility", "train", "tracking"),
        code=(
            "uae/training", "uae/teacher", *_REGISTRY, "uae/text/answer_match.py", "uae/text/near_duplicates.py",
            "uae/text/words.py", "uae/measures/ranking.py", "uae/retrievers/document_side.py", *_MODELS, *_ENCODER, *_GROUND,
        ),
    ),
    Stage(
        "index", "Encode the corpus with the student and bind encoder, FAISS index and passages into a release.", _index,
        needs=("documents", "passages", "questions", "student"), makes=("release",),
        keeps=("release",),
        params=("scope", "compute.device", "models.student", "ingest.passage_words", "index"),
        code=("uae/release", "uae/index", "uae/retrievers", *_MODELS, "uae/io/compute.py", *_GROUND),
    ),
    Stage(
        "evaluate", "Measure all systems on the test questions: retrieval, re-ranking by an LLM, a reader's answers.", _evaluate,
        needs=("passages", "questions", "release", "rivals", "training_curve"),
        makes=("evaluation", "evaluation_page", "query_cost", "runs", "recall_curve", "judgements"),
        keeps=("judgements",),
        params=("seed", "scope", "compute", "models", "teachers", "label", "utility", "evaluate"),
        code=(
            "uae/evaluation", *_RELEASE, "uae/measures", "uae/retrievers/lexical.py", "uae/teacher", "uae/pages",
            *_MODELS, *_ENCODER, *_GROUND,
        ),
    ),
    Stage(
        "promote", "Register the release; move the alias to it only if it passes the gate.", _promote,
        needs=("evaluation", "documents", "passages", "questions", "candidates", "labels", "release"), makes=("promotion",),
        params=("scope", "compute.device", "promote", "tracking"),
        code=(
            "uae/registry/promote.py", "uae/registry/gate.py", *_REGISTRY, "uae/registry/versions.py",
            "uae/evaluation/testset.py", "uae/measures/metrics.py", "uae/measures/ranking.py", *_RELEASE,
            *_MODELS, *_ENCODER, *_GROUND,
        ),
    ),
    Stage(
        "package", "Build a Bento of the champion's release.", _package,
        needs=("promotion",), makes=("bento",),
        params=("promote.model", "promote.alias", "package", "tracking"),
        code=(
            "uae/registry/package.py", *_REGISTRY, "uae/registry/versions.py", *_RELEASE,
            "uae/release/store.py", "uae/serving", "deploy", *_MODELS, *_ENCODER, *_GROUND,
        ),
    ),
)  # fmt: skip

STAGES = {stage.name: stage for stage in CHAIN}


def model_references(settings: Settings) -> dict[str, str]:
    """role -> the reference of every model that the chain loads; what a server holds is not among them."""
    teachers = {f"teacher {name}": t.model for name, t in settings.teachers.items() if t.server is None}
    return settings.models.model_dump(exclude_none=True) | teachers


def makers() -> dict[str, str]:
    """artefact -> the stage that makes it."""
    return {artefact: stage.name for stage in CHAIN for artefact in stage.makes}


def upstream(stage: Stage) -> list[str]:
    """The stages whose outputs ``stage`` needs, in chain order."""
    made_by = makers()
    wanted = {made_by[artefact] for artefact in stage.needs}
    return [other.name for other in CHAIN if other.name in wanted]
