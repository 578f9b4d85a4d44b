"""Releases of any vectors: the encoder looks a word up, so that nothing is computed and all else is as in any release.

A passage is one word, ``v17``, and the encoder's vector of that word is row 17 of an array. It is a language model without layers
(Llama, whose last step divides by the root mean square), averaged over one token and made a unit vector. So a unit vector comes
out as it went in, but for rounding.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerFast

from uae.io.tables import DOCUMENTS, PASSAGES, write_table
from uae.release.build import IndexRecipe, build_release
from uae.vectors.store import VectorStore

_SPECIAL = ("<pad>", "<eos>", "[UNK]")
_TOGETHER = 10  # passages of a document


def word(row: int) -> str:
    return f"v{row}"


def write_encoder(folder: Path, vectors: np.ndarray) -> Path:
    """Args:
    vectors: unit vectors, shape (n, dim), float32; the word of row i is ``word(i)``.
    """
    n, dimension = vectors.shape
    words = {name: place for place, name in enumerate([*_SPECIAL, *map(word, range(n))])}
    level = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    level.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=level, pad_token="<pad>", eos_token="<eos>", unk_token="[UNK]", model_max_length=16
    )
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=dimension, intermediate_size=dimension, num_hidden_layers=0, num_attention_heads=1,
        max_position_embeddings=16, pad_token_id=0, eos_token_id=1, bos_token_id=None,
    )  # fmt: skip
    model = LlamaModel(config)
    with torch.no_grad():
        model.embed_tokens.weight[len(_SPECIAL) :] = torch.from_numpy(vectors)
    bare = folder / "llama"
    model.save_pretrained(bare)
    tokenizer.save_pretrained(bare)
    modules = [Transformer(str(bare), max_seq_length=16), Pooling(dimension, "mean"), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder / "encoder"), create_model_card=False)
    return folder / "encoder"


def build(folder: Path, name: str, rows: Sequence[int], encoder: Path, factory: str, target: float) -> Path:
    """A release of the passages ``word(row)``. Vectors are kept in ``folder`` for the next."""
    place = folder / f"tables-{name}"
    place.mkdir()
    numbers = range((len(rows) + _TOGETHER - 1) // _TOGETHER)
    write_table(
        place / "documents",
        DOCUMENTS,
        (
            {"doc_id": f"d{n}", "source": f"{n}", "title": "", "version": "", "text": "", "sections": [], "metadata": "{}"}
            for n in numbers
        ),
    )
    write_table(
        place / "passages",
        PASSAGES,
        (
            {
                "passage_id": f"{row:08d}",
                "doc_id": f"d{n // _TOGETHER}",
                "title": "",
                "source": f"{n // _TOGETHER}",
                "section": "",
            }
            | {"position": n % _TOGETHER, "start": 0, "end": len(word(row)), "text": word(row)}
            for n, row in enumerate(rows)
        ),
    )
    build_release(
        documents_path=place / "documents", passages_path=place / "passages", questions_path=None, encoder_path=encoder,
        base_path=None, release_path=folder / name,
        recipe=IndexRecipe(factory=factory, recall_target=target, serving="torch", max_recall_loss=1.0, min_cosine=0.5),
        scope="corpus", passage_words=16, device="cpu", vectors=VectorStore(folder / "vectors"),
    )  # fmt: skip
    return folder / name
