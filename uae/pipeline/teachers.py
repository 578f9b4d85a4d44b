"""Teachers as ``uae.teacher`` takes them, from their sections of params.yaml. Three stages ask teachers."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from uae.pipeline.settings import ComputeSettings, LabelSettings, PassageSettings, TeacherSettings, TemplateSettings
from uae.pipeline.workspace import Workspace

if TYPE_CHECKING:
    from uae.teacher.asking import Asked
    from uae.teacher.prompts import Template
    from uae.teacher.protocol import Teacher


def asked_teachers(
    teachers: Mapping[str, TeacherSettings],
    passages: PassageSettings,
    sizes: LabelSettings,
    compute: ComputeSettings,
    w: Workspace,
) -> "list[Asked]":
    """Every teacher with its questions. A local model is fetched now and opened when it is asked."""
    from uae.teacher.asking import Asked

    asked = []
    for name, teacher in teachers.items():
        fingerprint, open_teacher = _engine(teacher, sizes, compute, w)
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


def template_of(template: TemplateSettings, passages: PassageSettings) -> "Template":
    from uae.teacher.prompts import Template

    return Template(**template.model_dump(), passage_template=passages.template)


def open_local(folder: Path, fingerprint: str, sizes: LabelSettings, compute: ComputeSettings) -> "Teacher":
    """Load the model in ``folder`` as a teacher."""
    from uae.teacher.engines.local import load_teacher

    return load_teacher(
        folder,
        fingerprint,
        compute.device,
        compute.dtype,
        batch_tokens=sizes.batch_tokens,
        memory_mb=sizes.memory_mb,
        compile=sizes.compile,
    )


def _engine(
    teacher: TeacherSettings, sizes: LabelSettings, compute: ComputeSettings, w: Workspace
) -> "tuple[str, Callable[[], Teacher]]":
    """The fingerprint of a teacher's model, and what opens it."""
    if teacher.server is not None:
        from uae.teacher.engines.served import ServedTeacher

        key = os.environ.get("UAE_TEACHER_API_KEY")  # a secret has no place in params.yaml
        server = ServedTeacher(**teacher.server.model_dump(), model=teacher.model, api_key=key)
        return server.fingerprint, lambda: server
    from uae.io.models import fingerprint, resolve

    folder = resolve(teacher.model, w.model_cache)
    found = fingerprint(folder)
    return found, lambda: open_local(folder, found, sizes, compute)
