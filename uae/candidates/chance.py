"""Random passages that no other miner brought: those with the smallest hashes of (seed, question, passage text)."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from uae.candidates.miner import NOTHING, Miner, Pool, Ranked
from uae.io.files import sha256_bytes
from uae.measures.ranking import Ids, Rows, compact, rows_by_document, strings

Hashes = npt.NDArray[np.uint64]

_ROWS = 1 << 14  # that are looked at together


def miner(pool: Pool) -> Miner:
    """A new passage joins a question's draw only if its hash is among the smallest, and then it takes one place.

    So a corpus that grows by 1 % changes about 1 % of the draws. Ids and places in a file do not count: texts do. Of equal texts
    the first id is drawn first.
    """
    if not pool.amounts.random:
        return NOTHING
    ids = compact(pool.passages["passage_id"])
    hashes = np.fromiter(map(_hash, pool.texts), dtype=np.uint64, count=len(pool.texts))
    scopes = _scopes(pool)
    asked = {
        question_id: (_hash(str(pool.seed), text), doc_id)
        for question_id, text, doc_id in zip(
            pool.questions["question_id"], pool.questions["text"], pool.questions["doc_id"], strict=True
        )
    }

    def first(question_id: str, number: int) -> list[str]:
        own, doc_id = asked[question_id]
        rows = scopes.get(doc_id if pool.scope == "document" else "", range(0))
        return _smallest(hashes, np.uint64(own), ids, rows, number)

    def mined(question: Ranked) -> list[str]:
        order = first(question.question_id, pool.amounts.random + len(question.taken))
        return [passage_id for passage_id in order if passage_id not in question.taken][: pool.amounts.random]

    def within(question_id: str, evidence: Sequence[str]) -> list[str]:
        most = pool.amounts.top_k + pool.amounts.bm25_top_k + pool.amounts.holding_answer + len(evidence)  # that can be taken
        return first(question_id, pool.amounts.random + most)

    return Miner(mined, within)


def _scopes(pool: Pool) -> Mapping[str, Rows | range]:
    """doc_id ("": the whole corpus) -> the rows of its passages."""
    return rows_by_document(pool.passages["doc_id"]) if pool.scope == "document" else {"": range(len(pool.passages))}


def _hash(*parts: str) -> int:
    return int(sha256_bytes(*parts)[:16], 16)


def _mixed(values: Hashes) -> Hashes:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): two values that differ in a bit differ in about half."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _smallest(hashes: Hashes, own: np.uint64, ids: Ids, rows: Rows | range, number: int) -> list[str]:
    """The ids of the ``number`` rows whose hashes, mixed with the question's own, are smallest, in their order.

    Equal ones come by id. Block by block, only what may still be among the smallest is kept.
    """
    values, kept = np.empty(0, np.uint64), np.empty(0, np.intp)
    for start in range(0, len(rows), _ROWS):
        block = np.asarray(rows[start : start + _ROWS], np.intp)
        values, kept = np.concatenate([values, _mixed(hashes[block] ^ own)]), np.concatenate([kept, block])
        if number < len(values):
            chosen = values <= np.partition(values, number - 1)[number - 1]
            values, kept = values[chosen], kept[chosen]
    return [found for _, found in sorted(zip(values.tolist(), strings(ids[kept]), strict=True))][:number]
