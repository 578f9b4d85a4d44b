"""The present champion, measured anew on today's test questions: a figure from an older test set proves nothing today."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from uae.evaluation.answers import Context, Reader, read_answers
from uae.evaluation.fused import as_released
from uae.evaluation.testset import UAE
from uae.io.errors import ArtefactError
from uae.io.files import sha256_file
from uae.io.tables import RUNS, read_table
from uae.measures.answers import ANSWER_METRICS
from uae.measures.fusion import Rankings
from uae.measures.metrics import retrieval_metrics
from uae.measures.row_rankings import Asked
from uae.release.manifest import read_manifest
from uae.retrievers.both import Words, cut, rank_alone, rank_beside
from uae.retrievers.kinds import open_dense
from uae.text.passage_template import PassageTemplate
from uae.text.stored_passages import StoredPassages
from uae.vectors.store import VectorStore


class Answered(NamedTuple):
    """How evaluation had a reader answer: the champion's passages are read in the same way."""

    open: Callable[[], Reader]
    context: Context


def read_runs(path: Path, expected: str | None) -> pd.DataFrame:
    """The runs of an evaluation.

    Args:
        expected: their hash, as the evaluation says it.

    Raises:
        ArtefactError: they are of another evaluation.
    """
    if expected is None or sha256_file(path) != expected:
        raise ArtefactError(f"{path} is not of the evaluation at hand. Run the evaluate stage again (uae evaluate), then promote")
    return read_table(path, RUNS)


def metrics_of_runs(runs: pd.DataFrame, system: str) -> pd.DataFrame:
    """Each question's metrics by a system, a metric a column; missing where a question was not asked."""
    of_system = runs[runs["system"] == system]
    rows = [dict(metrics) for metrics in of_system["metrics"]]
    return pd.DataFrame(rows, index=pd.Index(of_system["question_id"], name="question_id"))


def rank_release(
    folder: Path, questions: pd.DataFrame, passages: StoredPassages, scope: str, device: str, vectors: VectorStore | None = None
) -> Rankings:
    """Rankings by a release's promoted system, as evaluation makes them.

    These are its trained encoder and, where the release fuses them, BM25.

    Both read the passages as the release's own template says.

    Args:
        questions: of their schema.
        passages: all of them; their texts stay in their table.
        vectors: where vectors of passages are kept.
    """
    manifest = read_manifest(folder)  # of whatever format this version can read
    dense, fusion = manifest.dense(), manifest.fusion()
    read_as, searched = PassageTemplate(dense.passage_template), passages.asked_of(questions, scope)
    encoder, progress = open_dense(dense.encoder_folder(folder), device, vectors), "champion: passages"
    if not fusion.weight:
        return rank_alone(encoder, questions, searched.ids, scope, progress, searched.texts(read_as))
    words = Words(questions, passages.ids, scope, texts=passages.texts(read_as))  # how rare a word is, is counted over all
    found, beside = rank_beside(encoder, words, questions, searched.ids, scope, progress, texts=searched.texts(read_as))
    return cut(as_released(found, beside, fusion))


def measure_release(
    folder: Path,
    questions: pd.DataFrame,
    passages: StoredPassages,
    scope: str,
    device: str,
    cutoffs: Sequence[int],
    candidate_runs: pd.DataFrame | None = None,
    answered: Answered | None = None,
    vectors: VectorStore | None = None,
) -> pd.DataFrame:
    """Each question's metrics by a release's promoted system, a metric a column, by question_id.

    Args:
        candidate_runs: of the evaluation. Questions that a reader answered for the candidate are answered from this release's
            passages, too.
        answered: how; None: no answer is read.
        vectors: where vectors of passages are kept.
    """
    rankings = rank_release(folder, questions, passages, scope, device, vectors)
    evidence = dict(zip(questions["question_id"], questions["evidence"], strict=True))
    found = retrieval_metrics(Asked(rankings, lambda question_id: rankings[question_id][0]), evidence, cutoffs)
    if answered is None or candidate_runs is None:
        return found
    read_as = PassageTemplate(read_manifest(folder).dense().passage_template)
    return found.join(_answers(rankings, questions, passages, read_as, candidate_runs, answered))


def _answers(
    rankings: Rankings,
    questions: pd.DataFrame,
    passages: StoredPassages,
    read_as: PassageTemplate,
    runs: pd.DataFrame,
    answered: Answered,
) -> pd.DataFrame:
    """Metrics of the answers. Equal prompts have equal answers, so where both found the same passages none is read again."""
    ours = metrics_of_runs(runs, UAE)
    known = [name for name in ANSWER_METRICS if name in ours]
    if not known:
        return pd.DataFrame(index=pd.Index([], name="question_id"))
    ours = ours[known].dropna(how="all")
    first = runs[runs["system"] == UAE].set_index("question_id")["passage_ids"]
    number = answered.context.passages
    differ = [q for q in ours.index if list(first[q][:number]) != list(rankings[q][0][:number])]
    if not differ:
        return ours
    asked = questions[questions["question_id"].isin(differ)]
    of_these = cut({question_id: rankings[question_id] for question_id in asked["question_id"]}, number)
    read = read_as.applied(passages.rows({passage_id for ids, _ in of_these.values() for passage_id in ids}, read_as))
    told = read_answers({UAE: of_these}, asked, read, answered.open(), answered.context, None)[UAE]
    return pd.concat([ours.drop(index=differ), told[known].astype(float)])
