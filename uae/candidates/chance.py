"""Passages drawn by chance from what nobody brought."""

import numpy as np

from uae.candidates.miner import Miner, Pool, Ranked
from uae.io.files import sha256_bytes


def miner(pool: Pool) -> Miner:
    """The draw depends on the seed, the question and its ranking only: other questions change no pair of this one."""

    def mined(question: Ranked) -> list[str]:
        rest = [passage_id for passage_id in question.passage_ids if passage_id not in question.taken]
        generator = np.random.default_rng(int(sha256_bytes(str(pool.seed), question.question_id)[:16], 16))
        if not rest:
            return []
        return [rest[place] for place in generator.choice(len(rest), size=min(pool.amounts.random, len(rest)), replace=False)]

    return mined
