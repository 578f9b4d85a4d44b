"""The bi-encoder: loading it from safetensors, and turning texts into unit vectors."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
from tqdm import tqdm

from uae.io.errors import ModelError
from uae.io.weights import check_finite, check_report, loading_report, quiet_loading, refuse_pickles, refuse_remote_code
from uae.retrievers.dimension import served_dimension
from uae.retrievers.prompts import by_side
from uae.retrievers.protocol import Side, Vectors

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Transformer

_BATCH = 64  # texts
_MODULES = ("Transformer", "Pooling", "Dense", "LayerNorm", "Dropout", "Normalize")  # beside a Router of these


def load_encoder(folder: Path, device: str) -> "SentenceTransformer":
    """Load a model in the sentence-transformers layout.

    Raises:
        ModelError: the folder does not hold one, has pickles in it, asks for code of its own, or has a module that is not
            supported. Or its weights are not all there, of the right shape and finite.
    """
    from sentence_transformers import SentenceTransformer

    from uae.io.compute import pick_device

    folder = Path(folder)
    if not (folder / "config.json").exists() and not (folder / "modules.json").exists():
        raise ModelError(f"{folder} holds no sentence-transformers model (no modules.json, no config.json)")
    refuse_remote_code(folder)
    refuse_pickles(folder)
    try:
        with quiet_loading():
            encoder = SentenceTransformer(
                str(folder),
                device=pick_device(device),
                # Shapes that differ are named by the check below; the library's own error does not name them.
                model_kwargs={"use_safetensors": True, "ignore_mismatched_sizes": True},
                local_files_only=True,
            )
    except Exception as error:  # transformers, safetensors and the modules raise a dozen kinds
        reason = (str(error).strip().splitlines() or [""])[0] or type(error).__name__
        raise ModelError(f"{folder} cannot be loaded as an encoder: {reason}") from error
    _refuse_modules(encoder, folder)
    for module, home in _transformers(encoder, folder):
        _check_transformer(module, home)
    check_finite(encoder, str(folder))
    encoder.prompts = dict(by_side(encoder.prompts))
    encoder.truncate_dim = served_dimension(folder) or encoder.truncate_dim
    encoder.default_prompt_name = None  # of texts without a side, and we encode none
    return encoder


def _refuse_modules(encoder: "SentenceTransformer", folder: Path) -> None:
    """Refuse what training cannot fit: what has no attention mask, or reads more of a text than its tokens.

    Raises:
        ModelError: names the first such module and those that are taken.
    """
    from sentence_transformers.sentence_transformer.modules import Router

    parts: list[Any] = []
    for module in encoder.children():
        routes = cast("Iterable[Iterable[Any]]", module.sub_modules.values()) if isinstance(module, Router) else [[module]]
        parts += [part for modules in routes for part in modules]
    for part in parts:
        if type(part).__name__ not in _MODULES:
            raise ModelError(
                f"{folder} has a module {type(part).__name__}, which is not supported. Take a model whose modules are "
                f"{', '.join(_MODULES)}"
            )
    if not parts or type(parts[0]).__name__ != "Transformer":
        raise ModelError(
            f"{folder} does not begin with a module Transformer, which turns a text into tokens: take a model that does"
        )


def _check_transformer(module: "Transformer", home: Path) -> None:
    model: Any = module.model
    outputs = {entry.get("method_output_name") for entry in module.modality_config.values() if isinstance(entry, dict)}
    pools_itself = "pooler_output" in outputs
    report = loading_report(model, home)
    check_report(report, str(home), lambda name: name.startswith("pooler.") and not pools_itself)
    if any(name.startswith("pooler.") for name in report["missing_keys"]):
        model.pooler = None  # Many encoders are published without it, and nothing reads it. Random numbers there would be hashed.


def _transformers(encoder: "SentenceTransformer", folder: Path) -> Iterator[tuple["Transformer", Path]]:
    """Each module that holds a model of transformers, once, with the folder of its files."""
    from sentence_transformers.sentence_transformer.modules import Router, Transformer

    listed = folder / "modules.json"
    paths = [entry["path"] for entry in json.loads(listed.read_text(encoding="utf-8"))] if listed.exists() else [""]
    seen: set[int] = set()
    for module, path in zip(encoder.children(), paths, strict=False):  # without a list, pooling is added to the one module
        parts = [(module, folder / path)]
        if isinstance(module, Router):
            routes = json.loads((folder / path / "router_config.json").read_text(encoding="utf-8"))["structure"]
            parts = [
                (part, folder / path / name)
                for route, names in routes.items()
                for part, name in zip(cast("Iterable[Any]", module.sub_modules[route]), names, strict=True)
            ]
        for part, home in parts:
            if isinstance(part, Transformer) and id(part) not in seen:
                seen.add(id(part))
                yield part, home


class TextBatch(NamedTuple):
    """Texts that go through the encoder together."""

    rows: list[int]  # their places among all texts
    texts: list[str]


Spread = Callable[[Iterable[TextBatch]], Iterable[tuple[TextBatch, Vectors]]]  # each batch with its vectors, in any order


def encode(
    encoder: "SentenceTransformer", texts: Sequence[str], kind: Side, progress: str = "", spread: Spread | None = None
) -> Vectors:
    """Unit vectors of queries (``kind="query"``) or passages (``kind="document"``), shape (n, dim), float32.

    Prompts that the model defines for its kind are applied. ``progress`` names a progress bar.

    Args:
        spread: has the batches encoded elsewhere; None: here. The batches are the same.

    Raises:
        ModelError: a vector holds NaN or an infinite number.
    """
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))  # equal lengths together: little padding
    parts = [order[start : start + _BATCH] for start in range(0, len(order), _BATCH)]
    batches = (TextBatch(rows, [texts[row] for row in rows]) for rows in parts)
    vectors = np.zeros((len(texts), embedding_dimension(encoder)), dtype=np.float32)
    done = spread(batches) if spread else ((batch, encode_batch(encoder, batch.texts, kind)) for batch in batches)
    for batch, found in tqdm(done, total=len(parts), desc=progress, unit="batch", disable=not progress):
        vectors[batch.rows] = found
        check_vectors(found, batch.texts)
    return vectors


def encode_batch(encoder: "SentenceTransformer", texts: Sequence[str], kind: Side) -> Vectors:
    """As ``encode``, in one pass and unchecked."""
    method = {"query": encoder.encode_query, "document": encoder.encode_document}[kind]
    found: Vectors = method(list(texts), normalize_embeddings=True, show_progress_bar=False, batch_size=_BATCH)
    return found


def embedding_dimension(encoder: "SentenceTransformer") -> int:
    """Numbers in a vector.

    Raises:
        ModelError: the model's modules do not tell.
    """
    dimension = encoder.get_embedding_dimension()
    if dimension is None:
        raise ModelError("the encoder does not say how many numbers its vectors have: its last modules are none that pool")
    return int(dimension)


def check_vectors(vectors: Vectors, texts: Sequence[str]) -> None:
    """
    Args:
        vectors: of the texts, shape (n, dim).

    Raises:
        ModelError: a vector holds NaN or an infinite number.
    """
    sound = np.isfinite(vectors).all(axis=1)
    if not sound.all():
        text = texts[int(np.argmin(sound))]
        raise ModelError(
            f"the encoder gives a vector that is not finite for the text {text[:60]!r}: its weights are damaged or its number "
            "format is too small (float16); take another copy, or one in float32"
        )
