"""How well a student's order of the judged passages agrees with what it is taught: the score that early stopping goes by."""

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.evaluation import BaseEvaluator
from sklearn.metrics import ndcg_score

from uae.io.errors import ArtefactError
from uae.retrievers.dense import encode
from uae.training.batches import label_rows
from uae.training.device import full_precision
from uae.training.examples import Example
from uae.training.lexical import LexicalPart
from uae.training.objectives.contract import target_weights

METRIC = "validation_ndcg"


class Agreement(BaseEvaluator):
    """nDCG of a student's order, with what it is taught (``target_weights``) as gains. The mean over questions.

    A question's passages are ranked. Where no question has two of them, each question's passage is ranked among the passages of
    all these questions. The others' passages count as useless to it; known false negatives are left out.

    Attributes:
        judged: question_id -> the texts that are ranked.
    """

    def __init__(
        self,
        examples: Mapping[str, Example],
        teacher_temperature: float,
        evidence_share: float,
        frozen: Callable[[list[str]], torch.Tensor] | None = None,
        added: LexicalPart | None = None,
    ):
        """
        Args:
            examples: of the validation questions, by question_id.
            teacher_temperature: nats per token.
            evidence_share: of the target. 0: no evidence label is read.
            frozen: gives the passages' vectors where training leaves them as they are; None: the model encodes them each time.
            added: to the cosines. None: nothing is.

        Raises:
            ArtefactError: there is nothing to rank.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self.primary_metric = METRIC
        self.frozen = frozen
        self.examples = {key: example for key, example in examples.items() if len(example.passages) > 1}
        self.judged = {key: example.passages for key, example in self.examples.items()}
        if not self.judged:
            self.examples, self.judged = dict(examples), _among_all(examples)
        gains = {
            key: _gains(example, self.judged[key], teacher_temperature, evidence_share) for key, example in self.examples.items()
        }
        self.gains = {key: values for key, values in gains.items() if len(values) > 1 and values.any()}
        self.added = None if added is None else self._lexical(added)
        self.passages = list(dict.fromkeys(text for texts in self.judged.values() for text in texts))
        if not self.gains:
            raise ArtefactError(
                "the validation questions have one passage in all: there is nothing to rank, and no score for early stopping. "
                "Label more candidates a question (candidates.top_k, candidates.random), or take a larger ingest.split.validation"
            )

    def __call__(  # type: ignore[override]  # of all models, this one takes encoders
        self, model: SentenceTransformer, output_path: str | None = None, epoch: int = -1, steps: int = -1
    ) -> dict[str, float]:
        """
        Raises:
            ArtefactError: training made the weights infinite or NaN.
        """
        return {METRIC: float(np.mean(list(self.by_question(model).values())))}

    def by_question(self, model: SentenceTransformer) -> dict[str, float]:
        """question_id -> nDCG."""
        with full_precision(model):
            scores = self.scores(model)
        return {key: float(ndcg_score([gains], [scores[key]])) for key, gains in self.gains.items()}

    def scores(self, model: SentenceTransformer) -> dict[str, npt.NDArray[np.float32]]:
        """question_id -> score of each of its passages: its cosine similarity, and what BM25 adds to it."""
        if not all(bool(torch.isfinite(weights).all()) for weights in model.parameters()):
            raise ArtefactError(
                "training has made weights of the student infinite or NaN: take a lower train.learning_rate, a longer "
                "train.warmup or a higher train.student_temperature"
            )
        questions = encode(model, [example.question for example in self.examples.values()], "query")
        found = self.frozen(self.passages).numpy() if self.frozen is not None else None
        if found is None or found.shape[1] != questions.shape[1]:  # the model is measured at another dimension
            found = encode(model, self.passages, "document")
        vectors = dict(zip(self.passages, found, strict=True))
        cosines = {
            key: np.stack([vectors[text] for text in self.judged[key]]) @ question
            for key, question in zip(self.examples, questions, strict=True)
        }
        return cosines if self.added is None else {key: values + self.added[key] for key, values in cosines.items()}

    def _lexical(self, added: LexicalPart) -> dict[str, npt.NDArray[np.float32]]:
        return {
            key: added(example.question, example.document, self.judged[key]).astype(np.float32)
            for key, example in self.examples.items()
        }


def _among_all(examples: Mapping[str, Example]) -> dict[str, tuple[str, ...]]:
    """question_id -> its passages and those of all other questions."""
    texts = list(dict.fromkeys(text for example in examples.values() for text in example.passages))
    return {
        key: (*example.passages, *(text for text in texts if text not in {*example.passages, *example.ignored}))
        for key, example in examples.items()
    }


def _gains(
    example: Example, passages: tuple[str, ...], teacher_temperature: float, evidence_share: float
) -> npt.NDArray[np.float64]:
    utilities, masks = label_rows([example], list(passages), in_batch_negatives=False)
    weights = target_weights(utilities.to(torch.float64), masks, teacher_temperature, evidence_share)
    gains: npt.NDArray[np.float64] = weights[0].numpy()
    return gains
