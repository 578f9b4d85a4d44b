"""Stage evaluate: measure every system on the test questions."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from uae.pipeline.settings import (
    ComputeSettings,
    EvaluateSettings,
    LabelSettings,
    ModelSettings,
    PassageSettings,
    Scope,
    TeacherSettings,
    UtilitySettings,
)
from uae.pipeline.shared_code import ENCODER, MODELS, RELEASE, RETRIEVERS, TABLES
from uae.pipeline.stage import Parameters, Stage
from uae.pipeline.teachers import as_this_corpus_is_read, asked_teachers, open_local, template_of
from uae.pipeline.workspace import Workspace

if TYPE_CHECKING:
    from uae.evaluation.contexts import Answering
    from uae.evaluation.llm import LlmTerms


class EvaluateParameters(Parameters):
    seed: int
    scope: Scope
    compute: ComputeSettings
    models: ModelSettings
    teachers: dict[str, TeacherSettings]
    passages: PassageSettings
    label: LabelSettings
    utility: UtilitySettings
    evaluate: EvaluateSettings


def run(p: EvaluateParameters, w: Workspace) -> dict[str, Any]:
    from uae.evaluation.elsewhere import Collection
    from uae.evaluation.evaluate import Inputs, Written, evaluate
    from uae.io.models import resolve
    from uae.measures.statistics import Resampling
    from uae.retrievers.prompts import base_encoder
    from uae.vectors.store import VectorStore

    w.path("judgements").mkdir(parents=True, exist_ok=True)
    readers = {"reader": resolve(p.models.reader, w.model_cache)}
    if p.models.held_out:
        readers["held out"] = resolve(p.models.held_out, w.model_cache)
    e = p.evaluate
    vectors = VectorStore(w.vectors)
    found = evaluate(
        Inputs(
            passages=w.path("passages"),
            questions=w.path("questions"),
            base=base_encoder(p.models.student, p.models.student_prompts, w.model_cache),
            release=w.path("release"),
            rivals={path.name: path for path in sorted(w.path("rivals").iterdir()) if path.is_dir()},
            readers=readers,
            training_curve=w.path("training_curve"),
            also=[Collection(each.name, each.data, each.scope) for each in e.also],
        ),
        Written(
            evaluation=w.path("evaluation"),
            cost=w.path("query_cost"),
            page=w.path("evaluation_page"),
            runs=w.path("runs"),
            curve=w.path("recall_curve"),
        ),
        scope=p.scope,
        cutoffs=e.cutoffs,
        answering=answering_of(e),
        resampling=Resampling(e.confidence, e.resamples, p.seed),
        llm=llm_terms(p, w) if e.llm.questions else None,
        device=p.compute.device,
        dtype=p.compute.dtype,
        vectors=vectors,
    )
    return found | vectors.counts()


def answering_of(e: EvaluateSettings) -> "Answering":
    from uae.evaluation.contexts import Answering

    in_chat = {"reader": e.reader_chat, "held out": e.held_out_chat}
    return Answering(
        passages=e.reader_passages,
        orders=e.reader_orders,
        questions=e.reader_questions,
        more_questions=e.reader_more_questions,
        new_tokens=e.reader_new_tokens,
        batch_size=e.reader_batch_size,
        chat=frozenset(name for name, chat in in_chat.items() if chat),
    )


def llm_terms(p: EvaluateParameters, w: Workspace) -> "LlmTerms":
    """What the evaluation asks LLMs, as ``uae.evaluation`` takes it."""
    from uae.evaluation.llm import LlmTerms
    from uae.io.models import fingerprint, resolve

    llm = p.evaluate.llm
    teacher = asked_teachers(p.teachers, p.passages, p.label, p.compute, w)[0]
    held_out = None
    if p.models.held_out:
        path = resolve(p.models.held_out, w.model_cache)
        found = fingerprint(path)
        held_out = replace(
            teacher,
            name="held out",
            fingerprint=found,
            templates=tuple(replace(template, chat=p.evaluate.held_out_chat) for template in teacher.templates),
            open=lambda: open_local(path, found, p.label, p.compute),
        )
    reader = resolve(p.models.reader, w.model_cache)
    return LlmTerms(
        questions=llm.questions,
        top_k=llm.top_k,
        window=llm.window,
        timed_queries=llm.timed_queries,
        reranker_path=reader,
        reranker_fingerprint=fingerprint(reader),
        query_template=template_of(llm.query_template, as_this_corpus_is_read(p.passages, w)),
        device=p.compute.device,
        dtype=p.compute.dtype,
        teacher=teacher,
        held_out=held_out,
        answers_per_question=p.label.answers_per_question,
        aggregation={"answers": p.utility.answers, "templates": p.utility.templates},
        store_path=w.path("judgements"),
        readings_per_part=p.label.readings_per_part,
    )


STAGE = Stage(
    name="evaluate",
    summary="Measure all systems on the test questions: retrieval, re-ranking by an LLM, a reader's answers.",
    run=run,
    parameters=EvaluateParameters,
    needs=("passages", "questions", "release", "rivals", "training_curve"),
    makes=("evaluation", "evaluation_page", "query_cost", "runs", "recall_curve", "judgements"),
    keeps=("judgements",),
    code=(
        "uae/evaluation",
        "uae/release/open.py",
        "uae/validation/trained_on.py",
        "uae/text/words.py",
        *RELEASE,
        "uae/measures",
        "uae/text/answer_match.py",
        *RETRIEVERS,
        "uae/retrievers/both.py",
        "uae/teacher",
        "uae/text/stored_passages.py",
        "uae/pages",
        *MODELS,
        *ENCODER,
        "uae/text/stored_passages.py",
        "uae/io/spill.py",
        *TABLES,
        "uae/pipeline/teachers.py",
        "uae/pipeline/stages/evaluate.py",
    ),
)
