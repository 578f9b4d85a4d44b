"""Stage candidates: choose the passages that the teacher judges for each question."""

from typing import Annotated, Any

from uae.execution.options import ExecutionOptions
from uae.pipeline.settings import CandidateSettings, PassageSettings, Scope
from uae.pipeline.shared_code import ENCODER, MODELS, READ_AS, RETRIEVERS, TABLES
from uae.pipeline.stage import Key, Parameters, Stage
from uae.pipeline.workspace import Workspace
from uae.retrievers.prompts import Prompts


class CandidateParameters(Parameters):
    seed: int
    scope: Scope
    device: Annotated[str, Key("compute.device")]
    student: Annotated[str, Key("models.student")]
    student_prompts: Annotated[Prompts | None, Key("models.student_prompts")]
    passages: PassageSettings
    execution: Annotated[ExecutionOptions, Key("execution", watched=False)]
    candidates: CandidateSettings


def run(p: CandidateParameters, w: Workspace) -> dict[str, Any]:
    from uae.candidates.mine import mine
    from uae.candidates.miner import Amounts
    from uae.retrievers.prompts import base_encoder
    from uae.text.stored_passages import template_for
    from uae.vectors.store import VectorStore

    vectors = VectorStore(w.vectors, execution=p.execution.distributed)
    counts = mine(
        passages_path=w.path("passages"),
        questions_path=w.path("questions"),
        candidates_path=w.path("candidates"),
        encoder_path=base_encoder(p.student, p.student_prompts, w.model_cache),
        scope=p.scope,
        amounts=Amounts(**p.candidates.model_dump()),
        device=p.device,
        seed=p.seed,
        read_as=template_for(p.passages.template, w.path("passages")),
        vectors=vectors,
    )
    return counts | vectors.counts()


STAGE = Stage(
    name="candidates",
    summary="Pair each question with the base encoder's and BM25's top-k, its evidence, what holds its answer, random passages.",
    run=run,
    parameters=CandidateParameters,
    needs=("passages", "questions", "validation"),
    makes=("candidates",),
    code=(
        "uae/candidates",
        "uae/text/answer_match.py",
        *READ_AS,
        "uae/text/stored_passages.py",
        "uae/measures/ranking.py",
        *RETRIEVERS,
        *MODELS,
        *ENCODER,
        *TABLES,
        "uae/pipeline/stages/candidates.py",
    ),
)
