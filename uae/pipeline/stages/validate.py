"""Stage validate: stop the chain where documents, passages or questions are not what later stages rely on."""

from typing import Annotated, Any

from uae.pipeline.settings import Scope, ValidateSettings
from uae.pipeline.shared_code import READ_AS, TABLES
from uae.pipeline.stage import Key, Parameters, Stage
from uae.pipeline.workspace import Workspace


class ValidateParameters(Parameters):
    scope: Scope
    limits: Annotated[ValidateSettings, Key("validate")]


def run(p: ValidateParameters, w: Workspace) -> dict[str, Any]:
    from uae.io.files import read_json
    from uae.validation.validate import validate

    return validate(
        documents_path=w.path("documents"),
        passages_path=w.path("passages"),
        questions_path=w.path("questions"),
        report_path=w.path("validation"),
        scope=p.scope,
        min_words_per_passage=p.limits.min_words_per_passage,
        min_questions=p.limits.min_questions.model_dump(),
        near_duplicate=p.limits.near_duplicate,
        require_answers=p.limits.require_answers,
        dropped=read_json(w.path("ingestion"))["dropped_questions"],
    )


STAGE = Stage(
    name="validate",
    summary="Great Expectations suites over documents, passages and questions; a failing one stops the chain.",
    run=run,
    parameters=ValidateParameters,
    needs=("documents", "passages", "questions", "ingestion"),
    makes=("validation",),
    code=(
        "uae/validation",
        "uae/corpus/repeated_questions.py",
        "uae/teacher/parts.py",
        "uae/teacher/store.py",
        "uae/io/spill.py",
        "uae/text/near_duplicates.py",
        "uae/text/stored_passages.py",
        *READ_AS,
        "uae/text/words.py",
        *TABLES,
        "uae/pipeline/stages/validate.py",
    ),
)
