"""What an encoder and BM25 keep of a corpus fuses to what whole rankings fuse to: at its beginning, or all of it."""

import numpy as np
import pandas as pd
import pytest

from uae.measures.fusion import RANKS, SCORES, Fusion, fuse
from uae.retrievers.both import Words, cut, rank_beside
from uae.retrievers.cosine import Dense
from uae.retrievers.lexical import rank_bm25

WORDS = ["oil", "wick", "horn", "bell", "rope", "clock", "glass", "storm"]


@pytest.fixture
def asked(monkeypatch):
    """Passages and questions of few words, vectors that have nothing to do with them, and many ties in both."""
    rng = np.random.default_rng(2)
    texts = [" ".join(rng.choice(WORDS, 3)) for _ in range(120)]
    documents = [f"d{n % 4}" for n in range(120)]
    passages = pd.DataFrame({"passage_id": [f"p{n:03}" for n in rng.permutation(120)], "doc_id": documents, "text": texts})
    questions = pd.DataFrame(
        {
            "question_id": [f"q{n}" for n in range(8)],
            "text": [" ".join(rng.choice(WORDS, 2)) for _ in range(8)],
            "doc_id": documents[:8],
            "source": "here",
        }
    )
    of_passages, of_questions = (rng.integers(-2, 3, size=(n, 3)).astype(np.float32) for n in (120, 8))
    monkeypatch.setattr("uae.retrievers.cosine.encode", lambda encoder, texts, kind, progress="": of_questions)
    rows = dict(zip(passages.index, of_passages, strict=True))
    encoder = Dense(None, lambda texts, progress: np.stack([rows[index] for index in texts.index]))
    return questions, passages, encoder


def whole(questions, passages, encoder, scope):
    dense = {r.question_id: (r.passage_ids, r.scores) for r in encoder.rank(questions, passages, scope, None)}
    return dense, rank_bm25(questions, passages, scope, None)


@pytest.mark.parametrize("scope", ["document", "corpus"])
@pytest.mark.parametrize("kept", [1, 7, 30, 119])
def test_each_keeps_its_best_and_scores_what_the_other_keeps(asked, scope, kept):
    dense, lexical = whole(*asked, scope)
    questions, passages, encoder = asked
    words = Words(questions, passages, scope, kept)
    for found, full in zip(rank_beside(encoder, words, questions, passages, scope, "", kept), (dense, lexical), strict=True):
        for key, (ids, scores) in full.items():
            wanted = {*dense[key][0][:kept], *lexical[key][0][:kept]}
            expected = [(name, score) for name, score in zip(ids, scores, strict=True) if name in wanted]
            assert list(zip(*found[key], strict=True)) == expected
        assert cut(found, kept) == cut(full, kept)


@pytest.mark.parametrize("scope", ["document", "corpus"])
@pytest.mark.parametrize("fusion", [Fusion(SCORES, 0.5), Fusion(RANKS, 2.0)])
def test_where_all_is_kept_the_fusion_is_that_of_whole_rankings(asked, scope, fusion):
    questions, passages, encoder = asked
    words = Words(questions, passages, scope, 120)
    found = rank_beside(encoder, words, questions, passages, scope, "", 120)
    assert fuse(*found, fusion) == fuse(*whole(*asked, scope), fusion)


@pytest.mark.parametrize("kept", [10, 40])
def test_fused_places_that_nothing_left_out_could_reach_are_exact(asked, kept):
    questions, passages, encoder = asked
    full = fuse(*whole(*asked, "corpus"), Fusion(SCORES, 0.5))
    words = Words(questions, passages, "corpus", kept)
    dense, lexical = rank_beside(encoder, words, questions, passages, "corpus", "", kept)
    some = fuse(dense, lexical, Fusion(SCORES, 0.5))
    for key, (ids, scores) in some.items():
        highest = max(lexical[key][1])
        reach = cut(dense, kept)[key][1][-1] + (0.5 / highest if highest else 0) * cut(lexical, kept)[key][1][-1]
        safe = sum(score > reach for score in scores)
        assert ids[:safe] == full[key][0][:safe]
        assert safe
