"""The label-quality report of a store: utilities as training will see them, judged, as JSON and as a page."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from uae.io.files import write_json, write_text
from uae.io.tables import CANDIDATES, QUESTIONS, read_table
from uae.teacher.asking import sample
from uae.teacher.budget import complete
from uae.teacher.keys import by_ids
from uae.teacher.manifest import LabelManifest, read_label_manifest
from uae.teacher.noise import noise_of
from uae.teacher.quality.assess import assess
from uae.teacher.store import read_stores
from uae.teacher.utility import Source, has_readings, template_utilities, utilities
from uae.text.stored_passages import passages_beside

_CONFIDENCE, _RESAMPLES, _SEED = 0.95, 2000, 0  # of the intervals: a report on labels needs no parameters of its own


def report_labels(
    candidates_path: Path,
    passages_path: Path,
    questions_path: Path,
    store_path: Path,
    manifest_path: Path,
    report_path: Path,
    page_path: Path,
    histogram_path: Path,
    answers: str,
    templates: str,
    teachers: str,
    temperature: float,
) -> dict[str, Any]:
    """Assess the stored labels and write the report. Asks the teacher nothing. Returns the report.

    Raises:
        ArtefactError: a stage before has not run, a candidate pair has no reading, or a part of the store is damaged.
    """
    from uae.teacher.quality.page import page

    candidates = read_table(candidates_path, CANDIDATES)
    questions = read_table(questions_path, QUESTIONS)
    manifest = read_label_manifest(manifest_path)
    sources, number = manifest.sources, manifest.answers_per_question
    passages = passages_beside(passages_path, candidates["passage_id"], manifest.read_as.has_neighbours)
    labels = by_ids(read_stores([store_path]), candidates, questions, manifest.read_as.by_id(passages))
    all_candidates = candidates
    candidates = complete(candidates, labels, questions, manifest)
    derived = utilities(labels, candidates, questions, sources, number, answers, templates, teachers)
    by_template = _by_template(labels, candidates, all_candidates, questions, manifest, answers)
    tokens = _answer_tokens(labels, candidates, sources[0])
    tables = (derived, by_template, candidates, questions, tokens)
    noise = noise_of(name for source in sources for name in source.number_formats) if teachers == "none" else None
    report: dict[str, Any] = assess(*tables, temperature, _CONFIDENCE, _RESAMPLES, _SEED, noise)
    texts = dict(zip(passages["passage_id"], passages["text"], strict=True))
    write_text(histogram_path, _histogram(derived["utility"]))
    write_text(page_path, page(report, *tables, texts))
    report["budget"] = {"pairs": len(all_candidates), "judged": len(candidates), "readings_waiting": manifest.waiting}
    write_json(report_path, report)
    return report


def _by_template(
    labels: pd.DataFrame,
    candidates: pd.DataFrame,
    all_candidates: pd.DataFrame,
    questions: pd.DataFrame,
    manifest: LabelManifest,
    answers: str,
) -> pd.DataFrame:
    """Each template's utilities alone; those of the check templates cover the questions that they were asked of."""
    tables = []
    for source in manifest.sources:
        for template in (*source.templates, *source.check_templates):
            covered = candidates if template in source.templates else sample(all_candidates, manifest.check_questions)
            if manifest.waiting and len(covered):
                read = has_readings(labels, covered, questions, source, template, manifest.answers_per_question)
                covered = covered[read].reset_index(drop=True)
            if len(covered):
                each = template_utilities(labels, covered, questions, source, template, manifest.answers_per_question, answers)
                tables.append(each.assign(teacher=source.name, template=template))
    return pd.concat(tables, ignore_index=True)


def _answer_tokens(labels: pd.DataFrame, candidates: pd.DataFrame, source: Source) -> pd.Series:
    read = labels[(labels["teacher"] == source.fingerprint) & labels["template"].isin(source.templates)]
    return read[read["question_id"].isin(candidates["question_id"])].groupby("question_id")["n_tokens"].mean()


def _histogram(values: pd.Series) -> str:
    counts, edges = np.histogram(values, bins=30)
    rows = [f"{(low + high) / 2:.4f},{count}" for low, high, count in zip(edges, edges[1:], counts, strict=False)]
    return "\n".join(["utility,pairs", *rows]) + "\n"
