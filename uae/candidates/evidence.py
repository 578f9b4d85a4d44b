"""The evidence passages, where they may join. The teacher is not told which they are."""

from uae.candidates.miner import NOTHING, Miner, Pool


def miner(pool: Pool) -> Miner:
    return Miner(lambda question: question.evidence, lambda question_id, evidence: evidence) if pool.amounts.gold else NOTHING
