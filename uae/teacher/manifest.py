"""The label manifest (``labels.json``): which readings of the label store count, and in which number formats they were made.

It outlives the version that wrote it, so it has a format number. Format 1 named the number formats only for the store as a whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uae.io.errors import ArtefactError
from uae.io.files import read_json, write_json
from uae.teacher.asking import Asked
from uae.teacher.parts import UNKNOWN
from uae.teacher.store import LabelStore
from uae.teacher.utility import Source
from uae.text.passage_template import PLAIN, PassageTemplate

FORMAT = 2


@dataclass(frozen=True)
class LabelManifest:
    sources: tuple[Source, ...]
    answers_per_question: int
    check_questions: int  # questions that the check templates were asked about
    read_as: PassageTemplate  # what the teachers read of a passage
    waiting: int = 0  # readings that were beyond the run's budget: the next run asks for them


def write_label_manifest(
    path: Path, teachers: Sequence[Asked], answers_per_question: int, check_questions: int, store: LabelStore, waiting: int = 0
) -> None:
    """
    Raises:
        ArtefactError: the store is damaged, or the disk cannot take the file.
    """
    number_formats = store.number_formats()
    write_json(
        path,
        {
            "format": FORMAT,
            "teachers": [_entry(asked, number_formats.get(asked.fingerprint, ())) for asked in teachers],
            "answers_per_question": answers_per_question,
            "check_questions": check_questions,
            "provenances": store.provenances(),
            "waiting": waiting,
        },
    )


def read_label_manifest(path: Path) -> LabelManifest:
    """
    Raises:
        ArtefactError: it is not there, is damaged, or was written by a newer version.
    """
    content = read_json(path)
    try:
        written = int(content.get("format", 1))
        if written > FORMAT:
            raise ArtefactError(
                f"{path} is of format {written} and was written by a newer version of uae; this version reads up to format "
                f"{FORMAT}. Install the newer version, or run `uae label`: it asks for nothing that the label store holds"
            )
        if written < 2:
            _tell_number_formats(content)
        sources = tuple(Source.from_manifest(entry) for entry in content["teachers"])
        return LabelManifest(
            sources=sources,
            answers_per_question=content["answers_per_question"],
            check_questions=content.get("check_questions", 0),
            read_as=_read_as(content),
            waiting=content.get("waiting", 0),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ArtefactError(
            f"{path} is no label manifest ({type(error).__name__}: {error}): run `uae label`, it asks for nothing that the label "
            "store holds"
        ) from error


def _tell_number_formats(content: dict[str, Any]) -> None:
    """Format 1 says only how the readings of all teachers together were made. So each number format may be any teacher's."""
    found = sorted({provenance.get("dtype", UNKNOWN) for provenance in content.get("provenances", ())})
    for entry in content["teachers"]:
        entry["number_formats"] = found


def _read_as(content: dict[str, Any]) -> PassageTemplate:
    """All templates have the passage template of ``passages.template``."""
    templates = [template for entry in content["teachers"] for template in entry["templates"].values()]
    return PassageTemplate(next((each["passage_template"] for each in templates if "passage_template" in each), PLAIN))


def _entry(asked: Asked, number_formats: Sequence[str]) -> dict[str, Any]:
    """A teacher as ``utility.Source.from_manifest`` reads it, with the templates' texts for people who open the file."""
    return {
        "name": asked.name,
        "fingerprint": asked.fingerprint,
        "method": asked.method,
        "grades": list(asked.grades),
        "weight": asked.weight,
        "templates": {template.hash: vars(template) for template in asked.templates},
        "check_templates": {template.hash: vars(template) for template in asked.check_templates},
        "number_formats": list(number_formats),
    }
