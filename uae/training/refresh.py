"""Hard negatives from the student in training: the teacher judges what the student ranks high and nobody has judged yet.

After ADORE and STAR (Zhan et al., SIGIR 2021), whose negatives come from the model in training; here they come with labels.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from sentence_transformers import SentenceTransformer

from uae.io.tables import CANDIDATES, read_table, write_table
from uae.io.torchrun import leads
from uae.retrievers.cosine import Dense
from uae.retrievers.protocol import Vectors
from uae.training.data import TrainingData
from uae.training.device import full_precision
from uae.training.examples import Example
from uae.training.options import TrainOptions
from uae.training.processes import wait_for_all


@dataclass(frozen=True)
class MoreLabels:
    """How the teacher is asked for more during training, and where its answers are kept.

    Attributes:
        scope: ``document`` or ``corpus``: where a question's passages are looked for.
        ask: has the teacher judge the pairs of a table that nobody judged yet, and puts the readings into ``store_path``.
        candidates_path: that table: all pairs so far.
    """

    scope: str
    ask: Callable[[Path], None]
    candidates_path: Path
    store_path: Path


@dataclass(frozen=True)
class Refresher:
    """Gives the examples to go on with after an epoch.

    Attributes:
        data: the pairs judged before training.
        keys: question_ids of the train examples; others are not asked about.
        options: ``options.refresh`` says how often and how much; the others say what becomes an example.
        passage_vectors: gives the passages' vectors where training leaves them as they are; None: the model encodes them.
    """

    data: TrainingData
    keys: frozenset[str]
    options: TrainOptions
    more: MoreLabels
    passage_vectors: Callable[[Collection[str], str], Vectors] | None = None

    @property
    def terms(self) -> tuple[int, int]:
        """What decides which examples it gives, beside the examples before."""
        return self.options.refresh.rounds, self.options.refresh.top_k

    def __call__(self, encoder: SentenceTransformer, finished: int, folder: Path) -> Mapping[str, Example]:
        """
        Args:
            finished: the epoch's number, from 1. Called again with the same one, by a run that goes on after a kill, it gives
                the same examples.
            folder: lasts as long as the run's checkpoints.
        """
        known = self.data.candidates
        for number in range(1, min(finished, self.options.refresh.rounds) + 1):
            path = _path(folder, number)
            if leads() and not path.exists():  # only ever the last one: the others were written before
                write_table(path, CANDIDATES, self._mine(encoder, known))
            wait_for_all()
            known = pd.concat([known, read_table(path, CANDIDATES)], ignore_index=True)
        self._ask(known)
        asked = known[known["question_id"].isin(self.keys)]
        return self.data.examples(self.data.with_more(asked, self.more.store_path).pairs(), self.options)

    def again(self, folder: Path) -> None:
        """Write again what the calls had written. For a run that was killed after training had ended."""
        rounds = len(list(folder.glob(_path(folder, "*").name)))
        if rounds:
            mined = (read_table(_path(folder, number), CANDIDATES) for number in range(1, rounds + 1))
            self._ask(pd.concat([self.data.candidates, *mined], ignore_index=True))

    def all_pairs(self) -> pd.DataFrame:
        """``labelled_pairs`` of all candidates so far."""
        return self.data.with_more(read_table(self.more.candidates_path, CANDIDATES), self.more.store_path).pairs()

    def _ask(self, candidates: pd.DataFrame) -> None:
        if leads():
            write_table(self.more.candidates_path, CANDIDATES, candidates)
            self.more.ask(self.more.candidates_path)
        wait_for_all()

    def _mine(self, encoder: SentenceTransformer, known: pd.DataFrame) -> list[dict[str, Any]]:
        questions = self.data.questions[self.data.questions["question_id"].isin(self.keys)].reset_index(drop=True)
        judged = set(zip(known["question_id"], known["passage_id"], strict=True))
        with full_precision(encoder):
            found = Dense(encoder, self.passage_vectors).rank(
                questions, self.data.corpus(), self.more.scope, self.options.refresh.top_k, "refreshing candidates"
            )
        return [
            {"question_id": ranking.question_id, "passage_id": passage_id, "source": "refreshed", "rank": place, "score": score}
            for ranking in found
            for place, (passage_id, score) in enumerate(zip(ranking.passage_ids, ranking.scores, strict=True), 1)
            if (ranking.question_id, passage_id) not in judged
        ]


def _path(folder: Path, number: int | str) -> Path:
    return folder / f"refreshed-{number}.parquet"
