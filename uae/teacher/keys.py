"""What a reading is stored under: the texts that it is about, and not the places where they stand.

So a document that is renamed, moved or split costs no reading, and neither does a text that stands in two documents.
"""

from collections.abc import Mapping

import pandas as pd

from uae.io.files import sha256_bytes

NO_PASSAGE = ""  # of a reading without any passage


def text_key(text: str) -> str:
    """Of a question, or of a passage as the teacher reads it: with its title and headings, where the template has them."""
    return sha256_bytes(text)[:24]


def answer_id(answer: str) -> str:
    """An answer's content hash: an edited answer is a new pair, and its old readings no longer count."""
    return sha256_bytes(answer)[:16]


def by_ids(labels: pd.DataFrame, candidates: pd.DataFrame, questions: pd.DataFrame, passages: Mapping[str, str]) -> pd.DataFrame:
    """The readings of the candidate pairs and of their questions alone, by the ids that the tables have today.

    Args:
        labels: of the schema LABELS.
        candidates, questions: of their schemas.
        passages: passage_id -> what the teacher reads of it.

    Returns:
        LABELS' columns, with question_id and passage_id ("": no passage) in the place of question and passage.
    """
    pairs = candidates[["question_id", "passage_id"]].drop_duplicates()
    alone = pairs[["question_id"]].drop_duplicates().assign(passage_id=NO_PASSAGE)
    asked = {id: text_key(text) for id, text in zip(questions["question_id"], questions["text"], strict=True)}
    read = {id: text_key(passages[id]) for id in pairs["passage_id"].unique()} | {NO_PASSAGE: NO_PASSAGE}
    wanted = pd.concat([pairs, alone], ignore_index=True)
    wanted = wanted.assign(question=wanted["question_id"].map(asked), passage=wanted["passage_id"].map(read))
    return wanted.merge(labels, on=["question", "passage"]).drop(columns=["question", "passage"])
