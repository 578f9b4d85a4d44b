"""How well a student's order of the judged passages agrees with what it is taught: the score that early stopping goes by."""

from collections.abc import Mapping

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.evaluation import BaseEvaluator
from sklearn.metrics import ndcg_score

from uae.retrievers.dense import encode
from uae.training.batches import label_rows
from uae.training.examples import Example
from uae.training.objectives.utility_infonce import target_weights

METRIC = "validation_ndcg"


class Agreement(BaseEvaluator):
    """nDCG with the weights of the objective as gains. With an evidence share of 0 no evidence label is used."""

    def __init__(self, examples: Mapping[str, Example], teacher_temperature: float, evidence_share: float):
        super().__init__()
        self.primary_metric = METRIC
        self.examples = {key: example for key, example in examples.items() if len(example.passages) > 1}
        self.gains = {key: _gains(example, teacher_temperature, evidence_share) for key, example in self.examples.items()}
        self.passages = list(dict.fromkeys(text for example in self.examples.values() for text in example.passages))

    def __call__(self, model: SentenceTransformer, output_path=None, epoch: int = -1, steps: int = -1) -> dict[str, float]:
        return {METRIC: float(np.mean(list(self.by_question(model).values())))}

    def by_question(self, model: SentenceTransformer) -> dict[str, float]:
        return {
            key: float(ndcg_score([self.gains[key]], [scores]))
            for key, scores in self.scores(model).items()
            if self.gains[key].any()
        }

    def scores(self, model: SentenceTransformer) -> dict[str, np.ndarray]:
        """question_id -> cosine similarity of each of its passages."""
        vectors = dict(zip(self.passages, encode(model, self.passages, "document"), strict=True))
        questions = encode(model, [example.question for example in self.examples.values()], "query")
        return {
            key: np.stack([vectors[text] for text in example.passages]) @ question
            for (key, example), question in zip(self.examples.items(), questions, strict=True)
        }


def _gains(example: Example, teacher_temperature: float, evidence_share: float) -> np.ndarray:
    utilities, masks = label_rows([example], list(example.passages), in_batch_negatives=False)
    return target_weights(utilities.to(torch.float64), masks, teacher_temperature, evidence_share)[0].numpy()
