"""Teachers as ``uae.teacher`` takes them, from their sections of params.yaml. Three stages ask teachers."""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from uae.execution.options import ExecutionOptions
from uae.pipeline.settings import ComputeSettings, LabelSettings, PassageSettings, TeacherSettings, TemplateSettings
from uae.pipeline.workspace import Workspace

if TYPE_CHECKING:
    from uae.teacher.asking import Asked
    from uae.teacher.engines import EngineRequest
    from uae.teacher.prompts import Template
    from uae.teacher.protocol import Teacher


def asked_teachers(
    teachers: Mapping[str, TeacherSettings],
    passages: PassageSettings,
    sizes: LabelSettings,
    compute: ComputeSettings,
    w: Workspace,
    execution: ExecutionOptions | None = None,
) -> "list[Asked]":
    """Every teacher with its questions. A local model is fetched now and opened when it is asked.

    Args:
        execution: what local models are spread over; None: this process reads.
    """
    from uae.teacher.asking import Asked

    passages = as_this_corpus_is_read(passages, w)
    asked = []
    for name, teacher in teachers.items():
        fingerprint, open_teacher = _engine(teacher, sizes, compute, w, execution)
        asked.append(
            Asked(
                name=name,
                fingerprint=fingerprint,
                method=teacher.method,
                grades=teacher.grades or (),
                weight=teacher.weight,
                templates=tuple(template_of(template, passages) for template in teacher.templates),
                check_templates=tuple(template_of(template, passages) for template in teacher.check_templates),
                open=open_teacher,
            )
        )
    return asked


def as_this_corpus_is_read(passages: PassageSettings, w: Workspace) -> PassageSettings:
    """With the template that models read this corpus through: ``stored_passages.template_for``."""
    from uae.text.stored_passages import template_for

    return passages.model_copy(update={"template": template_for(passages.template, w.path("passages")).template})


def template_of(template: TemplateSettings, passages: PassageSettings) -> "Template":
    from uae.teacher.prompts import Template

    return Template(**template.model_dump(), passage_template=passages.template)


def open_local(folder: Path, fingerprint: str, sizes: LabelSettings, compute: ComputeSettings) -> "Teacher":
    """Load the model in ``folder`` as a teacher."""
    from uae.teacher.engines import prepare_folder

    return prepare_folder(folder, fingerprint, _request("", folder.parent, sizes, compute)).open()


def _engine(
    teacher: TeacherSettings, sizes: LabelSettings, compute: ComputeSettings, w: Workspace, execution: ExecutionOptions | None
) -> "tuple[str, Callable[[], Teacher]]":
    """The fingerprint of a teacher's model, and what opens it."""
    from uae.teacher.engines import prepare

    request = _request(teacher.model, w.model_cache, sizes, compute)
    if teacher.server is None:
        return prepare("local", replace(request, execution=execution))
    key = os.environ.get("UAE_TEACHER_API_KEY")  # a secret has no place in params.yaml
    server = teacher.server.model_dump()
    engine = {"completions": "served", "chat": "served_chat"}[server.pop("api")]
    return prepare(engine, replace(request, server=server, api_key=key, grades=teacher.grades or ()))


def _request(model: str, models_folder: Path, sizes: LabelSettings, compute: ComputeSettings) -> "EngineRequest":
    from uae.teacher.engines import EngineRequest

    return EngineRequest(
        model=model,
        models_folder=models_folder,
        device=compute.device,
        dtype=compute.dtype,
        batch_tokens=sizes.batch_tokens,
        memory_mb=sizes.memory_mb,
        compile=sizes.compile,
        server={},
        api_key=None,
        grades=(),
    )
