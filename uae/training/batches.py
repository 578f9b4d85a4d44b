"""Batches of questions with their judged passages, each passage encoded once however many questions share it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from sentence_transformers.base.sampler import DefaultBatchSampler
from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator
from torch import Tensor

from uae.training.examples import Example
from uae.training.lexical import LexicalPart
from uae.training.objectives.contract import Masks
from uae.training.passage_queries import passage_queries


@dataclass
class UtilityCollator(SentenceTransformerDataCollator):
    """Rows ``{"key": question_id}`` to the features of the questions, of the batch's distinct passages, and labels.

    Passage queries (see ``passage_queries``) follow the questions, as questions of their own.

    The label tensor has shape (5, questions, passages): utilities, the three ``Masks``, and what is added to the
    cosines. As columns are distinct passages, a passage that is a candidate of two questions is never a false negative of
    either. ``examples`` may be changed between batches.
    """

    examples: Mapping[str, Example] = field(default_factory=dict, repr=False)
    in_batch_negatives: bool = True
    passage_queries: float = 0.0  # for each question of the batch
    prompts_by_kind: Mapping[str, str | None] = field(default_factory=dict)
    added: LexicalPart | None = field(default=None, repr=False)  # None: nothing is added to the cosines
    # text -> vector of passages whose encoder does not change; None: they are encoded in every batch
    passage_vectors: Callable[[list[str]], Tensor] | None = None

    def __call__(self, features: list[dict[str, str]]) -> dict[str, Any]:
        rows = [self.examples[row["key"]] for row in features]
        if number := round(self.passage_queries * len(rows)):
            rows += passage_queries(rows, number)
        distinct = list(dict.fromkeys(text for row in rows for text in row.passages))
        batch: dict[str, Any] = {"label": self._labels(rows, distinct)}
        self._add(batch, "question", "query", [row.question for row in rows])
        if self.passage_vectors is None:
            self._add(batch, "passage", "document", distinct)
        else:
            batch["passage_sentence_embedding"] = self.passage_vectors(distinct)
        return batch

    def _labels(self, rows: list[Example], distinct: list[str]) -> Tensor:
        utilities, masks = label_rows(rows, distinct, self.in_batch_negatives)
        labels = torch.zeros(5, *utilities.shape)  # filled in place: of a large batch each plane is tens of megabytes
        for plane, values in zip(labels, (utilities, *masks), strict=False):
            plane.copy_(values)
        if self.added is not None:
            for own, row in zip(labels[4], rows, strict=True):
                own.copy_(torch.from_numpy(self.added(row.question, row.document, distinct)))
        return labels

    def _add(self, batch: dict[str, Any], column: str, kind: str, texts: list[str]) -> None:
        for key, value in self.preprocess_fn(texts, prompt=self.prompts_by_kind.get(kind) or None, task=kind).items():
            batch[f"{column}_{key}"] = value


def label_rows(rows: list[Example], distinct: list[str], in_batch_negatives: bool) -> tuple[Tensor, Masks]:
    """Utilities (0 where there is none) and masks, shape (questions, passages), of the batch's ``distinct`` passages."""
    column = {text: place for place, text in enumerate(distinct)}
    utilities = torch.zeros(len(rows), len(distinct))
    candidates, negatives, evidence = (torch.zeros(utilities.shape, dtype=torch.bool) for _ in Masks._fields)
    negatives.fill_(in_batch_negatives)
    for place, row in enumerate(rows):
        judged = [not np.isnan(value) for value in row.utilities]
        columns = torch.tensor([column[text] for text in row.passages])
        candidates[place, columns] = torch.tensor(judged)
        utilities[place, columns] = torch.tensor(row.utilities).nan_to_num()
        for mask, texts, value in (
            (negatives, row.ignored, False),
            (negatives, row.negatives, True),
            (evidence, row.evidence, True),
        ):
            mask[place, [column[text] for text in texts if text in column]] = value
    negatives &= ~candidates & ~evidence
    return utilities, Masks(candidates, negatives, evidence)


class DocumentBatchSampler(DefaultBatchSampler):
    """Fill batches with the questions of one document after another, documents and questions in seeded random order.

    Questions of one document share candidates, so a batch holds fewer distinct passages (less to encode) and its in-batch
    negatives are the hard ones: passages of the same document.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        drop_last: bool,
        valid_label_columns: list[str] | None = None,
        generator: torch.Generator | None = None,
        seed: int = 0,
    ):
        self.documents: dict[str, list[int]] = {}
        for row, document in enumerate(dataset["document"]):
            self.documents.setdefault(document, []).append(row)
        super().__init__(range(len(dataset)), batch_size=batch_size, drop_last=drop_last, generator=generator, seed=seed)

    def __iter__(self) -> Iterator[list[int]]:
        # Not seed + epoch, by which one seed's second epoch would be the next seed's first.
        (number,) = np.random.SeedSequence([self.seed, self.epoch]).generate_state(1)
        generator = torch.Generator().manual_seed(int(number))
        groups = list(self.documents.values())
        order = [
            group[place]
            for number in torch.randperm(len(groups), generator=generator).tolist()
            for group in [groups[number]]
            for place in torch.randperm(len(group), generator=generator).tolist()
        ]
        for start in range(0, len(order), self.batch_size):
            yield order[start : start + self.batch_size]

    def __len__(self) -> int:
        return -(-sum(map(len, self.documents.values())) // self.batch_size)
