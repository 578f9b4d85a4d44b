"""BM25's first passages: what a release with a lexical leg will find, and the dense one must learn to order."""

from uae.candidates.miner import NOTHING, Miner, Pool
from uae.measures.ranking import Ranking
from uae.retrievers.lexical import Lexical


def miner(pool: Pool) -> Miner:
    """Passages that share no word with the question are left out: BM25 has no opinion of them."""
    most = pool.amounts.bm25_top_k
    if not most:
        return NOTHING
    ranked = Lexical().rank(pool.questions, pool.passages, pool.scope, most, texts=pool.read)
    found = {ranking.question_id: _sharing_a_word(ranking) for ranking in ranked}
    return Miner(lambda question: found[question.question_id], lambda question_id, evidence: found[question_id])


def _sharing_a_word(ranking: Ranking) -> list[str]:
    return [passage_id for passage_id, score in zip(ranking.passage_ids, ranking.scores, strict=True) if score > 0]
