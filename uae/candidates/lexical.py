"""BM25's first passages: what a release with a lexical leg will find, and the dense one must learn to order."""

from uae.candidates.miner import Miner, Pool, Ranked
from uae.retrievers.lexical import Lexical


def miner(pool: Pool) -> Miner:
    """Passages that share no word with the question are left out: BM25 has no opinion of them."""
    most = pool.amounts.bm25_top_k
    if not most:
        return lambda question: ()
    ranked = Lexical().rank(pool.questions, pool.read, pool.scope, most)
    found = {
        ranking.question_id: [passage_id for passage_id, score in zip(ranking.passage_ids, ranking.scores, strict=True) if score > 0]
        for ranking in ranked
    }

    def mined(question: Ranked) -> list[str]:
        return found[question.question_id]

    return mined
