"""Stage ingest: read the source into documents, passages and questions."""

from typing import Annotated, Any

from uae.io.options import Fraction, NearDuplicate
from uae.pipeline.places import check_source
from uae.pipeline.settings import IngestSettings, Scope
from uae.pipeline.shared_code import TABLES
from uae.pipeline.stage import Key, Parameters, Stage
from uae.pipeline.workspace import Workspace


class IngestParameters(Parameters):
    seed: int
    scope: Scope
    near_duplicate: Annotated[NearDuplicate, Key("validate.near_duplicate")]
    max_lost_share: Annotated[Fraction, Key("source.max_lost_share")]
    ingest: IngestSettings


def run(p: IngestParameters, w: Workspace) -> dict[str, Any]:
    from uae.corpus.ingest import ingest
    from uae.corpus.repeated_questions import RepeatRule
    from uae.pipeline.source import watch_source

    check_source(p.ingest.path, w)
    return ingest(
        path=p.ingest.path,
        format=p.ingest.format,
        documents_path=w.path("documents"),
        passages_path=w.path("passages"),
        questions_path=w.path("questions"),
        ledger_path=w.path("ledger"),
        report_path=w.path("ingestion"),
        max_documents=p.ingest.max_documents,
        passage_words=p.ingest.passage_words,
        split=p.ingest.split.model_dump(),
        seed=p.seed,
        repeated=RepeatRule(p.ingest.repeated_questions == "drop_training_copy", p.scope, p.near_duplicate),
        skip_empty=p.ingest.skip_empty,
        watch=watch_source(p.ingest.path, p.ingest.format, p.max_lost_share, w),
    )


STAGE = Stage(
    name="ingest",
    summary="Read the source, cut passages, map evidence to them, assign splits.",
    run=run,
    parameters=IngestParameters,
    needs=(),
    makes=("documents", "passages", "questions", "ledger", "source", "ingestion"),
    keeps=("documents", "questions", "ledger", "source"),
    reads_source=True,
    code=(
        "uae/corpus",
        "uae/io/spill.py",
        "uae/text/near_duplicates.py",
        "uae/text/sentences.py",
        "uae/text/words.py",
        *TABLES,
        "uae/pipeline/places.py",
        "uae/pipeline/source.py",
        "uae/pipeline/stages/ingest.py",
    ),
)
