"""How many tokens an encoder reads of texts, and how many texts it cuts because they have more."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from sentence_transformers import SentenceTransformer

from uae.retrievers.document_side import route
from uae.retrievers.protocol import Side

_BATCH = 1000  # texts tokenised at once


def count_truncated(encoder: SentenceTransformer, texts: Iterable[str], kind: Side) -> int:
    """The number of ``texts`` of which the encoder reads only the beginning.

    They are read once. Tokens are counted as the encoder gets them: with the prompt of ``kind`` and the tokenizer's marks. An
    encoder without a limit or without a tokenizer cuts nothing.
    """
    limit = _limit(encoder, kind)
    return 0 if limit is None else sum(length > limit for length in _lengths(encoder, texts, kind))


def count_tokens(encoder: SentenceTransformer, texts: Iterable[str], kind: Side) -> int:
    """The tokens that the encoder reads of all ``texts`` together; 0 where it has no tokenizer to ask."""
    limit = _limit(encoder, kind)
    return sum(length if limit is None else min(length, limit) for length in _lengths(encoder, texts, kind))


def _limit(encoder: SentenceTransformer, kind: Side) -> int | None:
    return getattr(route(encoder, kind)[0], "max_seq_length", None)


def _lengths(encoder: SentenceTransformer, texts: Iterable[str], kind: Side) -> Iterator[int]:
    """Tokens of each text, uncut."""
    tokenizer: Any = getattr(route(encoder, kind)[0], "tokenizer", None)
    if tokenizer is None or not callable(tokenizer):
        return
    prompt = encoder.prompts.get(kind) or ""
    waiting = iter(texts)
    while read := [prompt + text for text in islice(waiting, _BATCH)]:
        yield from map(len, tokenizer(read, truncation=False, padding=False, verbose=False)["input_ids"])
