"""Passage queries: runs of a passage's own words that have to find it again among the passages of a batch.

The inverse cloze task (Lee et al., ACL 2019, arXiv 1906.00300), with the run left in the passage as in independent cropping
(Contriever, Izacard et al., arXiv 2112.09118). What it is worth: docs/experiments.md.
"""

import numpy as np

from uae.io.files import sha256_bytes
from uae.text.words import word_spans
from uae.training.examples import Example

_SHORTEST, _LONGEST = 6, 16  # words of a run, about those of a question


def passage_queries(rows: list[Example], number: int) -> list[Example]:
    """``number`` examples whose questions are runs of 6 to 16 words of the rows' passages, no two of one passage.

    The passage is its only candidate, and its evidence: under every objective it is what should be found. Other passages that
    hold the same run do not count against it. Fewer are made where there are fewer passages of more than 6 words. The same rows
    give the same runs, so that a resumed training goes on as it would have gone on.
    """
    homes = {text: row.document for row in rows for text in row.passages}
    texts = list(homes)
    seed = sha256_bytes(*(row.question for row in rows))
    generator = np.random.default_rng(int(seed[:16], 16))
    made: list[Example] = []
    for place in generator.permutation(len(texts)):
        if len(made) == number:
            break
        text = texts[place]
        spans = word_spans(text)
        if len(spans) <= _SHORTEST:
            continue
        length = int(generator.integers(_SHORTEST, min(_LONGEST, len(spans) - 1), endpoint=True))
        first = int(generator.integers(len(spans) - length, endpoint=True))
        run = text[spans[first][0] : spans[first + length - 1][1]]
        twins = frozenset(other for other in texts if other != text and run in other)
        made.append(Example(run, homes[text], (text,), (0.0,), frozenset(), frozenset({text}), twins))
    return made
