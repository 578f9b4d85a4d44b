"""Hard negatives from the student as it is: what it ranks high and nobody judged yet is put to the teacher during training.

After ADORE and STAR (Zhan et al., SIGIR 2021), whose negatives come from the model in training; here they come with labels.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from sentence_transformers import SentenceTransformer

from uae.io.tables import CANDIDATES, read_table, write_table
from uae.measures.ranking import rank
from uae.retrievers.dense import encode
from uae.training.examples import Example


@dataclass(frozen=True)
class Refresher:
    """Implements ``fit.Refresh``.

    Attributes:
        candidates: the pairs judged before training, of tables.CANDIDATES.
        questions: those of the train split.
        rounds: after how many of the first epochs.
        ask: has the teacher judge pairs that nobody judged yet.
        build: examples from candidates.
    """

    candidates: pd.DataFrame
    questions: pd.DataFrame
    passages: pd.DataFrame
    scope: str
    top_k: int
    rounds: int
    ask: Callable[[pd.DataFrame], None]
    build: Callable[[pd.DataFrame], Mapping[str, Example]]

    @property
    def terms(self) -> tuple[int, int]:
        return self.rounds, self.top_k

    def __call__(self, encoder: SentenceTransformer, finished: int, folder: Path) -> Mapping[str, Example]:
        known = self.candidates
        for number in range(1, min(finished, self.rounds) + 1):
            path = _path(folder, number)
            if not path.exists():  # only ever the last one: the others were written before
                write_table(path, CANDIDATES, self._mine(encoder, known))
            known = pd.concat([known, read_table(path, CANDIDATES)], ignore_index=True)
        self.ask(known)
        return self.build(known)

    def again(self, folder: Path) -> None:
        rounds = len(list(folder.glob(_path(folder, "*").name)))
        if rounds:
            mined = (read_table(_path(folder, number), CANDIDATES) for number in range(1, rounds + 1))
            self.ask(pd.concat([self.candidates, *mined], ignore_index=True))

    def _mine(self, encoder: SentenceTransformer, known: pd.DataFrame) -> list[dict]:
        passages = self.passages
        if self.scope == "document":
            passages = passages[passages["doc_id"].isin(set(self.questions["doc_id"]))]
        question_vectors = encode(encoder, self.questions["text"].tolist(), "query")
        passage_vectors = encode(encoder, passages["text"].tolist(), "document", "refreshing candidates")
        judged = set(zip(known["question_id"], known["passage_id"], strict=True))
        rankings = rank(self.questions, passages, question_vectors, passage_vectors, self.scope, self.top_k)
        return [
            {"question_id": ranking.question_id, "passage_id": passage_id, "source": "refreshed", "rank": place, "score": score}
            for ranking in rankings
            for place, (passage_id, score) in enumerate(zip(ranking.passage_ids, ranking.scores, strict=True), 1)
            if (ranking.question_id, passage_id) not in judged
        ]


def _path(folder: Path, number: int | str) -> Path:
    return folder / f"refreshed-{number}.parquet"
