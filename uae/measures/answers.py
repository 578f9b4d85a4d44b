"""How good an answer is: by the gold answers, and by the passages that its reader was given."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from uae.text.answer_match import normalised

ANSWER_METRICS = ("token_f1", "exact_match", "answer_recall", "k_precision")


def answer_metrics(prediction: str, answers: Sequence[str], passages: Sequence[str]) -> dict[str, float]:
    """An answer's metrics by the names of ``ANSWER_METRICS``, each in [0, 1]. Words are compared as SQuAD normalises them.

    ``token_f1`` and ``exact_match`` are SQuAD's, by torchmetrics. ``answer_recall`` is the share of a gold answer's words that
    the answer holds: unlike F1 it forgives an answer in whole sentences. ``k_precision`` is the share of the answer's words that
    stand in the passages: it says how faithful the answer is, and not whether it is right. Both count a word as often as it
    stands in both texts (Adlakha et al., TACL 2024, arXiv 2307.16877). An answer without words has 0 everywhere.

    Args:
        answers: gold ones, at least one; the best-matching counts, for each metric by itself.
        passages: what the reader was given.
    """
    from torchmetrics.functional.text import squad

    gold: dict[str, Any] = {"answers": {"text": list(answers), "answer_start": [0] * len(answers)}, "id": "0"}
    scores = squad([{"prediction_text": prediction, "id": "0"}], [gold])
    said = normalised(prediction).split()
    return {
        "token_f1": float(scores["f1"]) / 100,
        "exact_match": float(scores["exact_match"]) / 100,
        "answer_recall": max(_share(normalised(answer).split(), said) for answer in answers),
        "k_precision": _share(said, normalised(" ".join(passages)).split()),
    }


def _share(words: Sequence[str], others: Sequence[str]) -> float:
    """Of ``words`` that are among ``others``, each of which counts once."""
    return sum((Counter(words) & Counter(others)).values()) / len(words) if words else 0.0
