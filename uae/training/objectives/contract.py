"""The contract of an objective: ``objective(batch) -> loss``.

Reading params.yaml imports the objectives, for their parameters. torch takes seconds to import, so it is imported only where a
loss is computed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from uae.io.options import Options

if TYPE_CHECKING:
    from torch import Tensor


class Masks(NamedTuple):
    """What each passage of a batch is to each of its questions; bool, shape (questions, passages)."""

    candidates: Tensor  # the teacher judged the pair; at least one a row
    negatives: Tensor  # not judged, but counts against the question
    evidence: Tensor  # a person called it relevant; all False where nobody was asked


class Representations(NamedTuple):
    """What the encoder makes of a batch's texts."""

    questions: Tensor  # unit vectors, shape (questions, dim)
    passages: Tensor  # unit vectors, shape (passages, dim)


@dataclass(frozen=True)
class ScoredBatch:
    """A batch of questions and distinct passages, as an objective sees it."""

    scores: Tensor  # cosine similarities, with what BM25 adds where ``lexical_weight`` says so, shape (questions, passages)
    utilities: Tensor  # nats per answer token, same shape; to be read at candidates only
    masks: Masks  # of the same shape
    teacher_temperature: float  # nats per token
    student_temperature: float  # in units of cosine similarity
    representations: Representations | None = None  # for objectives that ask for them

    def teacher_weights(self) -> Tensor:
        """``p_T``: the softmax of utility over temperature, over the candidates of each row; see ``teacher_weights``."""
        return teacher_weights(self.utilities, self.masks.candidates, self.teacher_temperature)

    def log_student(self, counted: Tensor) -> Tensor:
        """``log p_S``: the log-softmax of score over temperature over the counted passages of each row, elsewhere -infinity."""
        return (self.scores / self.student_temperature).masked_fill(~counted, -float("inf")).log_softmax(1)

    def useful(self) -> Tensor:
        """Candidates with a positive utility. Where a question has none: its best one, or all of its best if they are equal."""
        helpful = self.masks.candidates & (self.utilities > 0)
        best = self.utilities.masked_fill(~self.masks.candidates, -float("inf")).amax(1, keepdim=True)
        return helpful.where(helpful.any(1, keepdim=True), self.masks.candidates & (self.utilities == best))


class Objective(Options, ABC):
    """A loss of a batch. The fields of a subclass are its own parameters; params.yaml gives them under ``train.objectives``."""

    needs_evidence: ClassVar[bool] = False  # only questions with evidence can be trained on
    asks_for_representations: ClassVar[bool] = False
    by_question: ClassVar[bool] = False  # the mean over questions of a value that depends on the question's own row alone

    @property
    def evidence_in_target(self) -> float:
        """The share of the target that comes from evidence. 0: evidence is not read, neither here nor by the validation score."""
        return 1.0 if self.needs_evidence else 0.0

    @abstractmethod
    def __call__(self, batch: ScoredBatch) -> Tensor:
        """A scalar with a gradient. The order of the batch's rows and columns does not matter."""


def target_weights(utilities: Tensor, masks: Masks, teacher_temperature: float, evidence_share: float) -> Tensor:
    """What the student is taught: a distribution over the passages of each row, shape (questions, passages).

    ``(1 - share) w + share e``, where ``w`` is ``teacher_weights`` and ``e`` is uniform over the question's evidence. A question
    without evidence keeps ``w``.
    """
    weights = teacher_weights(utilities, masks.candidates, teacher_temperature)
    if not evidence_share:
        return weights
    evidence = masks.evidence.to(weights.dtype)
    uniform = evidence / evidence.sum(1, keepdim=True).clamp(min=1)
    known = masks.evidence.any(1, keepdim=True)
    return ((1 - evidence_share) * weights + evidence_share * uniform).where(known, weights)


def teacher_weights(utilities: Tensor, candidates: Tensor, temperature: float) -> Tensor:
    """``softmax(utility / temperature)`` over the candidates of each row, 0 elsewhere.

    Utilities are differences of NLLs and can lie hundreds of temperatures apart, where a softmax gives exact zeros. Here a
    candidate far behind the best keeps the smallest normal weight: it never counts as one that nobody judged.
    """
    import torch

    logits = (utilities / temperature).masked_fill(~candidates, -torch.inf)
    smallest = float(torch.finfo(utilities.dtype).tiny)
    weights = logits.log_softmax(1).exp().clamp(min=smallest)
    return weights.where(candidates, 0.0)
