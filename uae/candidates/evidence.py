"""The evidence passages, where they may join. The teacher is not told which they are."""

from uae.candidates.miner import Miner, Pool


def miner(pool: Pool) -> Miner:
    return lambda question: question.evidence if pool.amounts.gold else ()
