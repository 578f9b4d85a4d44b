"""Utility-Modulated InfoNCE (UAE, arXiv 2604.22722) as a pure function of scores, utilities, masks and temperatures."""

from typing import NamedTuple

import torch
from torch import Tensor


class Masks(NamedTuple):
    """What each passage of a batch is to each of its questions; bool, shape (questions, passages)."""

    candidates: Tensor  # the teacher judged the pair; at least one a row
    negatives: Tensor  # not judged, but counts against the question
    evidence: Tensor  # a person called it relevant; all False where nobody was asked


def utility_infonce(
    scores: Tensor,
    utilities: Tensor,
    masks: Masks,
    teacher_temperature: float,
    student_temperature: float,
    evidence_share: float = 0.0,
) -> Tensor:
    """Mean over questions of ``- sum_d w_d log p_S(d | q)``.

    ``w = softmax(utility / teacher_temperature)`` over the question's candidates, and
    ``p_S = softmax(score / student_temperature)`` over its candidates and negatives together. With ``w`` one-hot this is
    InfoNCE; without negatives it is ``KL(w || p_S)`` plus the entropy of ``w``, which has no gradient.

    Args:
        scores: cosine similarities of each question with each passage of the batch, shape (questions, passages).
        utilities: nats per answer token, same shape; read at candidates only.
        masks: of the same shape.
        teacher_temperature: nats per token.
        student_temperature: in units of cosine similarity.
        evidence_share: between 0 (evidence is not read: UAE) and 1. ``w`` becomes ``(1 - share) w + share e``, where ``e`` is
            uniform over the question's evidence; a question without evidence keeps ``w``.

    Returns:
        A scalar, in nats.
    """
    weights = target_weights(utilities, masks, teacher_temperature, evidence_share)
    counted = masks.candidates | masks.evidence if evidence_share else masks.candidates
    log_students = log_student(scores, counted | masks.negatives, student_temperature)
    # where(), not a product with zero weights: a masked passage's log probability is infinite
    return -torch.where(counted, weights * log_students, 0.0).sum(1).mean()


def target_weights(utilities: Tensor, masks: Masks, teacher_temperature: float, evidence_share: float) -> Tensor:
    """What the student is taught, a distribution a row, as ``utility_infonce`` has it."""
    weights = teacher_weights(utilities, masks.candidates, teacher_temperature)
    if not evidence_share:
        return weights
    evidence = masks.evidence.to(weights.dtype)
    uniform = evidence / evidence.sum(1, keepdim=True).clamp(min=1)
    known = masks.evidence.any(1, keepdim=True)
    return torch.where(known, (1 - evidence_share) * weights + evidence_share * uniform, weights)


def teacher_weights(utilities: Tensor, candidates: Tensor, temperature: float) -> Tensor:
    """``softmax(utility / temperature)`` over the candidates of each row, 0 elsewhere.

    Utilities are differences of NLLs and can lie hundreds of temperatures apart, where a softmax gives exact zeros. Here a
    candidate far behind the best keeps the smallest normal weight: it never counts as one that nobody judged.
    """
    logits = (utilities / temperature).masked_fill(~candidates, -torch.inf)
    smallest = float(torch.finfo(utilities.dtype).tiny)
    weights = logits.log_softmax(1).exp().clamp(min=smallest)
    return torch.where(candidates, weights, 0.0)


def log_student(scores: Tensor, counted: Tensor, temperature: float) -> Tensor:
    """``log softmax(score / temperature)`` over the counted passages of each row; minus infinity elsewhere."""
    return (scores / temperature).masked_fill(~counted, -torch.inf).log_softmax(1)
