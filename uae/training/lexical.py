"""What BM25 adds to the cosines in what is served. A student that is trained on the sum learns what BM25 lacks.

As in CLEAR (Gao et al., ECIR 2021, arXiv 2004.13969), with the sum that a release serves in place of a residual margin.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from uae.io.files import sha256_parts
from uae.measures.fusion import combined
from uae.measures.ranking import rows_by_document
from uae.retrievers.bm25_index import Bm25Index


class LexicalPart:
    """``weight * s(q, d) / highest s(q, d)``: what ``measures.fusion.combined`` adds to a cosine, of any question and passage.

    Scores ``s`` are those of a release's lexical leg. Word statistics are taken over all passages of the corpus. The highest is
    that of all passages that may be found for the question. A passage of another document, which cannot be found in scope
    ``document``, gets no more than the best one that can. Else a question that shares few words with its own document would be
    taught by nothing but the words of others.
    """

    def __init__(self, passages: pd.DataFrame, scope: str, weight: float):
        """
        Args:
            passages: the corpus, of the schema PASSAGES, as they are read (``PassageTemplate.applied``).
            scope: ``document`` or ``corpus``.
            weight: of BM25, beside 1 of the cosine.
        """
        texts = passages["text"].tolist()
        self.weight = weight
        self._index = Bm25Index.build(texts)
        self._row = {text: row for row, text in enumerate(texts)}
        self._documents = rows_by_document(passages["doc_id"]) if scope == "document" else None
        self.identity = sha256_parts([scope, *texts, *passages["doc_id"]])

    def __call__(self, question: str, document: str, texts: Sequence[str]) -> npt.NDArray[np.float64]:
        """Of each of the texts, which are passages of the corpus, for a question of the document: 0 to ``weight``."""
        scores = self._index.scores(question)
        found = scores if self._documents is None else scores[self._documents.get(document, np.arange(0))]
        highest = float(found.max(initial=0.0))
        own = scores[[self._row[text] for text in texts]]
        return np.minimum(combined(np.zeros(len(own)), own, highest, self.weight), self.weight)


def lexical_part(passages: Callable[[], pd.DataFrame], scope: str, weight: float) -> LexicalPart | None:
    """None where BM25 has no weight: no index is built, and no passage is read. Arguments as ``LexicalPart``.

    Args:
        passages: gives them.
    """
    return LexicalPart(passages(), scope, weight) if weight else None
