"""How many texts an encoder cuts, because they have more tokens than it reads."""

from collections.abc import Sequence
from typing import Any

from sentence_transformers import SentenceTransformer

from uae.retrievers.document_side import route
from uae.retrievers.protocol import Side

_BATCH = 1000  # texts tokenised at once


def count_truncated(encoder: SentenceTransformer, texts: Sequence[str], kind: Side) -> int:
    """The number of ``texts`` of which the encoder reads only the beginning.

    Tokens are counted as the encoder gets them: with the prompt of ``kind`` and the tokenizer's marks. An encoder without a limit
    or without a tokenizer cuts nothing.
    """
    first: Any = route(encoder, kind)[0]
    tokenizer, limit = getattr(first, "tokenizer", None), getattr(first, "max_seq_length", None)
    if tokenizer is None or limit is None or not callable(tokenizer):
        return 0
    prompt, cut = encoder.prompts.get(kind) or "", 0
    for start in range(0, len(texts), _BATCH):
        read = [prompt + text for text in texts[start : start + _BATCH]]
        cut += sum(len(ids) > limit for ids in tokenizer(read, truncation=False, padding=False, verbose=False)["input_ids"])
    return cut
