"""How often the gate errs, by simulation: equal candidates taken for better ones, planted losses let through, what it can see.

    python benchmarks/gate.py [--documents 16 40 200] [--questions 13] [--promotions 200] [--lives 200] [--weeks 52]

Two retrainings of one recipe answer different questions right. So each question has a chance that is its own, its document's
share in it included, and candidate and champion draw their reciprocal ranks by it apart from each other. Decisions are made by
``uae.registry.gate`` itself, with the bounds of params.yaml. Five experiments for each number of documents:

- promotions: ``--promotions`` equal candidates, each on a test set of its own, at the first look, which may spend most;
- lives: ``--lives`` champions, each challenged by an equal candidate for ``--weeks`` weeks on one frozen test set;
- planted losses: as many candidates that lose five points of MAP and Recall@1. At the retraining's gate they draw apart from the
  champion; at the refresh's they are the champion's own answers, of which some are lost;
- refreshes: as many over a corpus that changed 1 % of the first places, half of them for the better;
- creeping losses: as many lives of one encoder whose refreshes lose one point each, 30 at most, until the gate refuses. It tells
  how much MAP was lost by then, by the gate as it is and by one that compares with the champion alone.

Prints one JSON line last. ``gate`` of ``benchmarks/lifecycle.py`` is this line.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from uae.pipeline.settings import load_settings
from uae.registry.budget import Look, next_look
from uae.registry.compared import FROZEN, SHARED, QuestionSet
from uae.registry.gate import Bounds, decide_crept, decide_refreshed, decide_retrained

LOSS = 0.05
DOCUMENTS, QUESTIONS, PROMOTIONS, LIVES, WEEKS, SEED = (16, 40, 200), 13, 200, 200, 52, 13  # what is simulated by default
CHURN = 0.005  # of the first places, each way, that a refresh changes
CREEP, REFRESHES = 0.01, 30  # what each of a life's refreshes loses, and how many there are
_RANKS = 10  # deeper ones are worth as little as none


class TestSet:
    """Questions on documents, and how well one recipe answers each.

    Args:
        questions: of a document, on average; their number varies, as it does in real sets.
    """

    __test__ = False  # pytest is not meant

    def __init__(self, documents: int, questions: int, rng: np.random.Generator):
        sizes = rng.poisson(questions, documents).clip(1)
        owner = np.repeat(np.arange(documents), sizes)
        self._rng = rng
        # Logits that give a Recall@1 of about 0.65 and let a document's questions share some of their difficulty.
        self._logit = rng.normal(0.8, 1.6, len(owner)) + rng.normal(0, 0.7, documents)[owner]
        ids = [f"q{number}" for number in range(len(owner))]
        self.documents = pd.Series([f"d{number}" for number in owner], index=pd.Index(ids, name="question_id"))

    def answered(self, loss: float = 0.0) -> pd.DataFrame:
        """One retraining's metrics. ``loss`` moves Recall@1 and MAP down by that much: right answers turn into misses."""
        right = 1 / (1 + np.exp(-self._logit))
        first = self._rng.random(len(right)) < right
        rank = np.where(first, 1, 2 + self._rng.geometric(0.45, len(right)) - 1)
        rank = np.where(rank > _RANKS, 0, rank)
        if loss:
            lost = first & (self._rng.random(len(right)) < loss / right.mean())
            rank = np.where(lost, 0, rank)
        value = np.divide(1.0, rank, out=np.zeros(len(rank)), where=rank > 0)
        return pd.DataFrame({"map": value, "recall@1": (rank == 1).astype(float)}, index=self.documents.index)

    def compared(self, name: str, loss: float = 0.0, champion: pd.DataFrame | None = None) -> QuestionSet:
        return QuestionSet(name, self.answered(loss), self.answered() if champion is None else champion, self.documents)


def lost_in(metrics: pd.DataFrame, loss: float, rng: np.random.Generator) -> pd.DataFrame:
    """The same encoder's answers over another corpus: equal, but that right ones turned into misses."""
    first = metrics["recall@1"].to_numpy() == 1
    lost = first & (rng.random(len(first)) < loss / first.mean())
    return metrics.mul(~lost, axis=0)


def churned(metrics: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """As a refresh without a loss leaves them: as many first places are lost as won."""
    first = metrics["recall@1"].to_numpy() == 1
    drawn = rng.random(len(first)) * len(first)
    lost, won = (
        first & (drawn < CHURN * len(first) ** 2 / first.sum()),
        ~first & (drawn < CHURN * len(first) ** 2 / (~first).sum()),
    )
    changed = metrics.mul(~lost, axis=0)
    changed.loc[won] = 1.0
    return changed


def creep(first: QuestionSet, bounds: Bounds, rng: np.random.Generator, whole: bool) -> float:
    """MAP lost in truth by a life of refreshes when the gate refuses the next one.

    Args:
        first: its ``reference`` is the first release of the encoder.
        whole: also compare with that one, as the gate does.
    """
    served = first.reference
    for _ in range(REFRESHES):
        candidate = lost_in(served, CREEP, rng)
        passed = decide_refreshed(QuestionSet(SHARED, candidate, served, first.documents), "the champion", bounds).passed
        if whole:
            crept = QuestionSet(SHARED, candidate, first.reference, first.documents)
            passed = passed and decide_crept(crept, "the first", bounds).passed
        if not passed:
            break
        served = candidate
    return float((first.reference["map"] - served["map"]).mean())


def gains(questions: QuestionSet, bounds: Bounds, look: Look) -> tuple[bool, bool, dict[str, float]]:
    """Whether a gain was claimed, whether the candidate passed, and the smallest true gains that would have been found."""
    decision = decide_retrained([questions], "the champion", bounds, look)
    tested = [finding for finding in decision.findings if finding.p_value is not None]
    claimed = min(finding.p_value or 0.0 for finding in tested) <= look.level / len(tested)
    return claimed, decision.passed, {finding.metric: finding.detectable or np.inf for finding in tested}


def simulate(
    documents: int, questions: int, bounds: Bounds, promotions: int, lives: int, weeks: int, rng: np.random.Generator
) -> dict[str, Any]:
    first = next_look(bounds.error_budget, documents, [])
    fresh = [gains(TestSet(documents, questions, rng).compared(FROZEN), bounds, first) for _ in range(promotions)]
    erring, weekly, later = 0, 0, {}
    for _ in range(lives):
        frozen = TestSet(documents, questions, rng)
        champion = frozen.answered()
        claims = []
        for week in range(weeks):
            look = next_look(bounds.error_budget, documents, [documents] * week)
            claimed, _, later = gains(frozen.compared(FROZEN, champion=champion), bounds, look)
            claims.append(claimed)
        erring += any(claims)
        weekly += sum(claims)
    passed, kept = {"retrain": 0, "refresh": 0}, 0
    crept: dict[str, list[float]] = {"gate": [], "champion_alone": []}
    for _ in range(promotions):
        planted = TestSet(documents, questions, rng).compared(FROZEN, LOSS)
        passed["retrain"] += gains(planted, bounds, first)[1]
        same = QuestionSet(SHARED, lost_in(planted.reference, LOSS, rng), planted.reference, planted.documents)
        passed["refresh"] += decide_refreshed(same, "the champion", bounds).passed
        refreshed = QuestionSet(SHARED, churned(planted.reference, rng), planted.reference, planted.documents)
        kept += decide_refreshed(refreshed, "the champion", bounds).passed
        for name in crept:
            crept[name].append(creep(planted, bounds, rng, whole=name == "gate"))
    medians = {metric: float(np.median([seen[metric] for _, _, seen in fresh])) for metric in fresh[0][2]}
    return {
        "documents": documents,
        "questions": documents * questions,
        "aa_gain_share": sum(claimed for claimed, _, _ in fresh) / len(fresh),
        "aa_passed_share": sum(good for _, good, _ in fresh) / len(fresh),
        "aa_share_of_lives_with_a_gain": erring / lives,
        "aa_gain_share_of_weeks": weekly / (lives * weeks),
        "planted_loss_passed": passed,
        "equal_refreshes_passed_share": kept / promotions,
        "crept": {name: {"median": float(np.median(lost)), "most": max(lost)} for name, lost in crept.items()},
        "detectable_effect": {"first_look": medians, "last_week": later},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, nargs="+", default=DOCUMENTS)
    parser.add_argument("--questions", type=int, default=QUESTIONS, help="of a document, on average")
    parser.add_argument("--promotions", type=int, default=PROMOTIONS)
    parser.add_argument("--lives", type=int, default=LIVES)
    parser.add_argument("--weeks", type=int, default=WEEKS)
    parser.add_argument("--seed", type=int, default=SEED)
    print(json.dumps(measure(**vars(parser.parse_args()))))


def measure(
    documents: Sequence[int] = DOCUMENTS, questions: int = QUESTIONS, promotions: int = PROMOTIONS, lives: int = LIVES,
    weeks: int = WEEKS, seed: int = SEED,
) -> dict[str, Any]:  # fmt: skip
    """What ``main`` prints. ``aa_gain_share`` and ``planted_loss_passed`` are the worst of all sizes."""
    settings = load_settings(Path(__file__).parents[1] / "params.yaml").promote
    bounds = Bounds(**settings.model_dump(exclude={"model", "alias"}) | {"guarded": ("recall@1",)})
    rng = np.random.default_rng(seed)
    sizes = [simulate(number, questions, bounds, promotions, lives, weeks, rng) for number in documents]
    shares = ("aa_gain_share", "aa_share_of_lives_with_a_gain")
    return {
        "aa_gain_share": max(size[share] for size in sizes for share in shares),
        "planted_loss_passed": max(sum(size["planted_loss_passed"].values()) for size in sizes),
        "detectable_effect": {size["documents"]: size["detectable_effect"] for size in sizes},
        "planted_loss": LOSS,
        "promotions": promotions,
        "weeks": weeks,
        "by_size": sizes,
    }


if __name__ == "__main__":
    main()
