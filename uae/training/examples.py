"""What training reads of each question: its passages, each with the teacher's utility, a person's evidence, or as a negative."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from uae.io.errors import ArtefactError
from uae.teacher.budget import complete
from uae.teacher.keys import by_ids
from uae.teacher.manifest import read_label_manifest
from uae.teacher.store import read_stores
from uae.teacher.utility import utilities


@dataclass(frozen=True)
class Example:
    """A question as a batch needs it. Passages are texts, each once."""

    question: str
    document: str
    passages: tuple[str, ...]
    utilities: tuple[float, ...]  # nats per token; nan: the teacher did not judge it, or it is held against the question
    negatives: frozenset[str]  # passages that count against the question, whether in-batch negatives do or not
    evidence: frozenset[str]
    ignored: frozenset[str]  # known false negatives: where a batch holds them they do not count


def labelled_pairs(
    candidates: pd.DataFrame,
    passages: pd.DataFrame,
    questions: pd.DataFrame,
    stores: Sequence[Path],
    manifest_path: Path,
    aggregation: Mapping[str, str],
    plain: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Every candidate pair with its utility and texts. The tables are of their schemas.

    Args:
        passages: with what the student reads of a passage as its text.
        stores: label stores, read as one (``uae.teacher.store.read_stores``).
        manifest_path: the label manifest: which readings count.
        aggregation: how they become utilities: the last arguments of ``uae.teacher.utility.utilities``.
        plain: the passages as ingest wrote them, by which the teacher's readings are known; None: ``passages``.

    Returns:
        columns question_id, passage_id, utility, text, question, split, document, in the candidates' order. A pair that waits for
        the label stage's next run (``uae.teacher.budget``) is left out.

    Raises:
        ArtefactError: a candidate pair lacks a reading, and none is said to wait.
    """
    manifest = read_label_manifest(manifest_path)
    texts, by_id = passages.set_index("passage_id")["text"], questions.set_index("question_id")
    taught = manifest.read_as.by_id(passages if plain is None else plain)
    labels = by_ids(read_stores(stores), candidates, questions, taught)
    candidates = complete(candidates, labels, questions, manifest)
    derived = utilities(labels, candidates, questions, manifest.sources, manifest.answers_per_question, **aggregation)
    return derived.assign(
        text=derived["passage_id"].map(texts),
        question=derived["question_id"].map(by_id["text"]),
        split=derived["question_id"].map(by_id["split"]),
        document=derived["question_id"].map(by_id["doc_id"]),
    )


def evidence_texts(questions: pd.DataFrame, passages: pd.DataFrame) -> dict[str, frozenset[str]]:
    """question_id -> texts of its evidence passages; only questions that have some."""
    texts = passages.set_index("passage_id")["text"]
    return {
        question_id: frozenset(texts[list(evidence)])
        for question_id, evidence in zip(questions["question_id"], questions["evidence"], strict=True)
        if len(evidence)
    }


def build_examples(
    pairs: pd.DataFrame,
    evidence: Mapping[str, frozenset[str]],
    ignored: Mapping[str, frozenset[str]],
    harmful_are_negatives: bool,
    least_best_utility: float | None,
) -> dict[str, Example]:
    """Examples by question_id.

    Args:
        pairs: of ``labelled_pairs``.
        evidence: question_id -> texts; empty where evidence may not be read. Evidence that is no candidate joins the passages.
        ignored: question_id -> texts of known false negatives.
        harmful_are_negatives: a passage with negative utility, which misleads the teacher, is no candidate of little weight but a
            negative. The best passage stays a candidate in any case.
        least_best_utility: questions whose best passage helps less than this, in nats per token, are left out, unless their
            evidence is known; None: all stay.
    """
    examples = {}
    for key, rows in pairs.groupby("question_id", sort=False):
        question_id = str(key)
        known = evidence.get(question_id, frozenset())
        best = rows["utility"].max()
        if least_best_utility is not None and best < least_best_utility and not known:
            continue
        judged = dict(zip(rows["text"], rows["utility"], strict=True))
        harmful = {text for text, utility in judged.items() if utility < min(0, best)} if harmful_are_negatives else set()
        values = {text: np.nan if text in harmful else utility for text, utility in judged.items()}
        values |= {text: np.nan for text in sorted(known) if text not in values}
        first = rows.iloc[0]
        examples[question_id] = Example(
            question=first["question"],
            document=first["document"],
            passages=tuple(values),
            utilities=tuple(float(value) for value in values.values()),
            negatives=frozenset(harmful - known),
            evidence=known,
            ignored=ignored.get(question_id, frozenset()) - set(judged) - known,
        )
    return examples


def require_questions(examples: Mapping[str, Example], split: str) -> None:
    """
    Raises:
        ArtefactError: there is none.
    """
    if not examples:
        raise ArtefactError(f"there is no labelled question in the {split} split that training could use")
