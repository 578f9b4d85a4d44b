"""The base encoder's first passages."""

from uae.candidates.miner import Miner, Pool


def miner(pool: Pool) -> Miner:
    return Miner(lambda question: question.passage_ids[: pool.amounts.top_k], lambda question_id, evidence: ())
