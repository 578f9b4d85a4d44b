"""Utility-Modulated InfoNCE (UAE, arXiv 2604.22722) as a pure function of scores, utilities and masks."""

import torch
from torch import Tensor


def utility_infonce(
    scores: Tensor,
    utilities: Tensor,
    candidates: Tensor,
    negatives: Tensor,
    teacher_temperature: float,
    student_temperature: float,
) -> Tensor:
    """Mean over questions of ``- sum_d w_d log p_S(d | q)``.

    ``w = softmax(utility / teacher_temperature)`` over the question's candidates, and
    ``p_S = softmax(score / student_temperature)`` over its candidates and negatives together. With ``w`` one-hot this is
    InfoNCE; without negatives it is ``KL(w || p_S)`` plus the entropy of ``w``, which has no gradient.

    Everything stays in log space: a candidate far behind the best keeps a finite weight's logarithm, never a zero by accident.

    Args:
        scores: cosine similarities of each question with each passage of the batch, shape (questions, passages).
        utilities: nats per answer token, same shape; read at candidates only.
        candidates: bool, same shape: the passages that the teacher judged for the question. At least one a row.
        negatives: bool, same shape: the other passages that count against the question.
        teacher_temperature: nats per token.
        student_temperature: in units of cosine similarity.

    Returns:
        A scalar, in nats.
    """
    logits = scores / student_temperature
    log_students = logits - logits.masked_fill(~(candidates | negatives), -torch.inf).logsumexp(1, keepdim=True)
    teachers = (utilities / teacher_temperature).masked_fill(~candidates, -torch.inf).softmax(1)
    # where(), not a product with zero weights: a masked passage's log probability may be infinite
    return -torch.where(candidates, teachers * log_students, 0.0).sum(1).mean()
