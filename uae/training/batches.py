"""Batches of questions with their judged passages, each passage encoded once however many questions share it."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from sentence_transformers.base.sampler import DefaultBatchSampler
from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator


@dataclass
class UtilityCollator(SentenceTransformerDataCollator):
    """Rows ``{question, passages, utilities}`` to the features of the questions, of the batch's distinct passages, and labels.

    The label tensor has shape (2, questions, passages): utilities, and 1 where the teacher judged the pair. As columns are
    distinct passages, a passage that is a candidate of two questions is never a false negative of either.
    """

    query_prompt: str = ""
    document_prompt: str = ""

    def __call__(self, features: list[dict]) -> dict:
        distinct = list(dict.fromkeys(text for row in features for text in row["passages"]))
        column = {text: place for place, text in enumerate(distinct)}
        label = torch.zeros(2, len(features), len(distinct))
        for place, row in enumerate(features):
            for text, utility in zip(row["passages"], row["utilities"], strict=True):
                label[0, place, column[text]] = utility
                label[1, place, column[text]] = 1
        batch = {"label": label}
        texts = {"question": [row["question"] for row in features], "passage": distinct}
        prompts = {"question": self.query_prompt, "passage": self.document_prompt}
        for name in ("question", "passage"):
            for key, value in self.preprocess_fn(texts[name], prompt=prompts[name] or None).items():
                batch[f"{name}_{key}"] = value
        return batch


class DocumentBatchSampler(DefaultBatchSampler):
    """Fill batches with the questions of one document after another, documents and questions in seeded random order.

    Questions of one document share candidates, so a batch holds fewer distinct passages (less to encode) and its in-batch
    negatives are the hard ones: passages of the same document.
    """

    def __init__(self, dataset, batch_size: int, drop_last: bool, valid_label_columns=None, generator=None, seed: int = 0):
        self.documents: dict[str, list[int]] = {}
        for row, document in enumerate(dataset["document"]):
            self.documents.setdefault(document, []).append(row)
        super().__init__(range(len(dataset)), batch_size=batch_size, drop_last=drop_last, generator=generator, seed=seed)

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
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
