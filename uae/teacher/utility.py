"""Utilities derived from raw readings: u(q, d) = NLL(a | q) - NLL(a | q, d), nats per answer token (arXiv 2604.22722)."""

from collections.abc import Sequence

import pandas as pd

from uae.errors import ArtefactError
from uae.files import sha256_bytes


def answer_id(answer: str) -> str:
    """An answer's content hash: an edited answer is a new pair, and its old readings no longer count."""
    return sha256_bytes(answer)[:16]


def utilities(
    labels: pd.DataFrame,
    candidates: pd.DataFrame,
    questions: pd.DataFrame,
    answers_per_question: int,
    teacher: str,
    templates: Sequence[str],
) -> pd.DataFrame:
    """Utility of each candidate pair: the mean over the question's first answers and over ``templates``.

    The tables are of their schemas. Of ``labels`` only readings of this teacher, these templates and present answers count.

    Returns:
        columns question_id, passage_id, utility (nats per answer token), in the candidates' order.

    Raises:
        ArtefactError: a candidate pair lacks a reading.
    """
    asked = pd.DataFrame(
        [
            (question_id, answer_id(answer), template)
            for question_id, answers in zip(questions["question_id"], questions["answers"], strict=True)
            for answer in answers[:answers_per_question]
            for template in templates
        ],
        columns=["question_id", "answer_id", "template"],
    )
    nll = labels[labels["teacher"] == teacher]
    nll = nll.assign(nll=nll["nll_sum"] / nll["n_tokens"])[["question_id", "passage_id", "answer_id", "template", "nll"]]
    pairs = candidates[["question_id", "passage_id"]].merge(asked, on="question_id")
    reading = ["question_id", "answer_id", "template"]
    pairs = pairs.merge(nll, on=[*reading, "passage_id"], how="left")
    without = nll[nll["passage_id"] == ""].drop(columns="passage_id")
    pairs = pairs.merge(without, on=reading, how="left", suffixes=("", "_without"))
    pairs["utility"] = pairs["nll_without"] - pairs["nll"]
    if pairs["utility"].isna().any():
        raise ArtefactError(
            f"{pairs['utility'].isna().sum()} of {len(pairs)} readings are missing for this teacher and template: "
            "run the label stage again, it labels only what is missing"
        )
    means = pairs.groupby(["question_id", "passage_id"])["utility"].mean()
    return candidates[["question_id", "passage_id"]].join(means, on=["question_id", "passage_id"])
