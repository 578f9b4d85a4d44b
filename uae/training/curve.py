"""What training shows of itself: the learning curve, and the validation questions that changed most."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from uae.retrievers.dense import load_encoder
from uae.training.agreement import METRIC, Agreement
from uae.training.examples import Example
from uae.training.lexical import LexicalPart

_SHOWN_QUESTIONS = 10


def learning_curve(before: float, history: Sequence[Mapping[str, float]]) -> str:
    """The learning curve as CSV: a line a step, validation scores where they were taken.

    Args:
        before: the validation score of the base encoder.
        history: the trainer's log.
    """
    rows = [f"0,,,{before:.6f}"]
    for record in history:
        values = [record.get(name) for name in ("loss", "grad_norm", f"eval_{METRIC}")]
        if values[0] is not None or values[2] is not None:
            rows.append(",".join([str(int(record["step"])), *("" if value is None else f"{value:.6f}" for value in values)]))
    return "\n".join([f"step,train_loss,gradient_norm,{METRIC}", *rows]) + "\n"


def changed_most(
    examples: Mapping[str, Example],
    base_path: Path,
    student_path: Path,
    teacher_temperature: float,
    evidence_share: float,
    device: str,
    added: LexicalPart | None = None,
) -> list[dict[str, Any]]:
    """Up to ten validation questions: those that lost and those that gained most, with what stood first before and after.

    Args:
        teacher_temperature, evidence_share, added: see ``Agreement``.
    """
    evaluator = Agreement(examples, teacher_temperature, evidence_share, added=added)
    base, student = (load_encoder(path, device) for path in (base_path, student_path))
    before, old = evaluator.by_question(base), evaluator.scores(base)
    after, new = evaluator.by_question(student), evaluator.scores(student)
    changed = sorted(before, key=lambda key: (after[key] - before[key], key))
    half = _SHOWN_QUESTIONS // 2
    return [
        {
            "question": examples[key].question,
            "ndcg_before": round(before[key], 4),
            "ndcg_after": round(after[key], 4),
            "first_before": evaluator.judged[key][int(np.argmax(old[key]))],
            "first_after": evaluator.judged[key][int(np.argmax(new[key]))],
        }
        for key in dict.fromkeys(changed[:half] + changed[-half:])
    ]
