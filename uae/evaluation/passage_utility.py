"""What passages are worth to an LLM that knows the gold answer, and rankings measured by that.

The teacher's own utilities give its ceiling. Those of an LLM of another family show whether what was learnt from one LLM helps
another.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from tqdm import tqdm

from uae.io.errors import ArtefactError
from uae.measures.fusion import Rankings
from uae.measures.reranking import reorder
from uae.measures.statistics import mean_with_interval
from uae.teacher.asking import Asked, wanted
from uae.teacher.keys import by_ids
from uae.teacher.label import read_missing
from uae.teacher.store import LabelStore
from uae.teacher.utility import Source, utilities

_PAIR = ["question_id", "passage_id"]
_FEWEST_FOR_SPEARMAN = 3  # of two passages the correlation is 1 or -1, whatever they are


def ranked_pairs(rankings: Iterable[Rankings], top: int) -> pd.DataFrame:
    """Columns question_id, passage_id: the first ``top`` passages of each question in any of the rankings, each pair once."""
    pairs = {(question_id, passage_id) for each in rankings for question_id, (ids, _) in each.items() for passage_id in ids[:top]}
    return pd.DataFrame(sorted(pairs), columns=_PAIR)


def passage_utilities(
    asked: Asked,
    pairs: pd.DataFrame,
    questions: pd.DataFrame,
    passages: pd.DataFrame,
    answers_per_question: int,
    answers: str,
    templates: str,
    store_path: Path,
    readings_per_part: int,
) -> pd.DataFrame:
    """Utility of each pair under one LLM, its readings without any passage subtracted (not of a judgement).

    Readings go to a label store batch by batch. Only those that it does not hold are asked for. So an interrupted call goes on
    where it stopped, and no model is loaded where nothing is missing. One store may serve any number of LLMs and calls.

    Args:
        asked: the LLM and its prompts; its check templates are not asked.
        pairs: columns question_id, passage_id, each pair once.
        questions, passages: of their schemas; they may hold more than is asked about.
        answers_per_question, answers, templates: as ``teacher.utility.utilities``.
        readings_per_part: as ``LabelStore``.

    Returns:
        columns question_id, passage_id, utility (nats per token), in the pairs' order.

    Raises:
        InputError: a question has no answer, where the answer is what is asked about.
        ArtefactError: another process writes to the store, or the disk cannot take it.
    """
    if pairs.empty:
        return pairs[_PAIR].assign(utility=pd.Series(dtype=np.float64))
    by_id = questions.set_index("question_id")
    store = LabelStore(store_path, readings_per_part)
    read = asked.templates[0].passages(passages)  # as under the others: there is one template of passages
    with store.writing():
        work = [
            (asked, template, list(wanted(asked, template, pairs, by_id, read, answers_per_question)))
            for template in asked.templates
        ]
        done = store.keys()
        missing = {pair.key for _, _, of_template in work for pair in of_template} - done
        with tqdm(total=len(missing), desc=f"asking {asked.name}", unit="pair", disable=not missing) as bar:
            read_missing(store, work, done, bar)
        store.seal()
        labels = store.read()
    source = Source(
        asked.name, asked.fingerprint, asked.method, asked.grades, 1.0, tuple(each.hash for each in asked.templates), ()
    )
    labels = by_ids(labels, pairs, questions, read)
    return utilities(labels, pairs, questions, [source], answers_per_question, answers, templates, "none")


def ceiling(rankings: Rankings, utilities: pd.DataFrame, k: int) -> dict[str, tuple[list[str], list[float]]]:
    """Each question's first ``k`` passages by utility: what a student that learnt these utilities perfectly would reach.

    Questions that ``utilities`` does not know, as those without an answer, are left out.

    Raises:
        ArtefactError: of a question's first ``k`` passages one has no utility.
    """
    return reorder(
        _known(rankings, utilities),
        dict(zip(zip(utilities["question_id"], utilities["passage_id"], strict=True), utilities["utility"], strict=True)),
        k,
    )


def top_passage_utility(rankings: Rankings, utilities: pd.DataFrame) -> pd.Series:
    """question_id -> utility of the passage that stands first, nats per token. A metric of a system, question by question.

    Questions that ``utilities`` does not know, or that have no passage, are left out.

    Raises:
        ArtefactError: a passage that stands first has no utility.
    """
    first = {question_id: values[0] for question_id, (_, values) in ceiling(rankings, utilities, 1).items() if values}
    return pd.Series(first, dtype=np.float64, name="top_utility").rename_axis("question_id")


def agreement(first: pd.DataFrame, second: pd.DataFrame, confidence: float, resamples: int, seed: int) -> dict[str, Any]:
    """Do two LLMs order the same passages alike? Spearman's rank correlation within each question, its mean over questions.

    Only pairs that both have count, and questions with three of them or more.

    Args:
        first, second: columns question_id, passage_id, utility.
        confidence, resamples, seed: of the bootstrap interval over questions.

    Returns:
        ``spearman`` (``mean``, ``low``, ``high``; None where no question is left), ``questions`` that it rests on, and
        ``undefined``: questions that are left out because all their passages are alike to one of the two.

    Raises:
        ArtefactError: a pair stands twice in one of the tables.
    """
    for table in (first, second):
        if (twice := table.duplicated(_PAIR)).any():
            raise ArtefactError(f"the utilities hold a pair twice: {table[twice].iloc[0][_PAIR].to_dict()}")
    both = first[[*_PAIR, "utility"]].merge(second[[*_PAIR, "utility"]], on=_PAIR, suffixes=("", "_second"))
    columns = [
        (rows["utility"].to_numpy(), rows["utility_second"].to_numpy())
        for _, rows in both.groupby("question_id")
        if len(rows) >= _FEWEST_FOR_SPEARMAN
    ]
    values = np.array([spearmanr(*pair).statistic for pair in columns if all(np.ptp(column) > 0 for column in pair)])
    return {
        "spearman": mean_with_interval(values, confidence, resamples, seed)._asdict() if len(values) else None,
        "questions": len(values),
        "undefined": len(columns) - len(values),
    }


def _known(rankings: Rankings, utilities: pd.DataFrame) -> Rankings:
    known = set(utilities["question_id"])
    return {question_id: ranking for question_id, ranking in rankings.items() if question_id in known}
