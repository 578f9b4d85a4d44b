"""Which side of the encoder is trained: both, the queries' only, or a linear adapter on the queries' vectors.

In the last two the document vectors stay what the base encoder makes of them, so an index of them outlives retraining. Such a
student is a ``Router`` of sentence-transformers with a query and a document route, made of its own module classes. It saves and
loads as any model does, without code of ours.
"""

import copy
from collections.abc import Callable, Sequence

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Module, Normalize, Router
from torch import Tensor

from uae.io.errors import ConfigError, ModelError
from uae.retrievers.dense import encode
from uae.retrievers.document_side import route
from uae.retrievers.protocol import Vectors
from uae.training.device import full_precision


def build_student(encoder: SentenceTransformer, towers: str) -> SentenceTransformer:
    """The student that training starts from. It gives the vectors of ``encoder``, whose modules become part of it.

    ``both`` is the encoder itself. ``query`` trains a copy for the queries; the original, frozen, serves the documents. Both
    are saved, so the folder is twice as large. ``adapter`` freezes the encoder and turns its query vectors ``q``, shape (dim,),
    into ``q + A q``. It trains ``A``, shape (dim, dim), zero at first. So weight decay pulls towards the base encoder. There is
    no bias, so that the length of ``q`` does not matter.

    A Router has no default route here: encoding without saying for which side is an error, not a vector of the wrong side.

    Raises:
        ConfigError: ``towers`` is none of the three.
    """
    if towers == "both":
        return encoder
    queries, documents = route(encoder, "query"), route(encoder, "document")
    if towers == "query":
        queries = _trainable_copy(queries)
    elif towers == "adapter":
        queries = [*queries, _adapter(encoder)]
        if isinstance(documents[-1], Normalize):
            queries.append(copy.deepcopy(documents[-1]))
    else:
        raise ConfigError(f"train.towers: {towers!r} is none of both, query, adapter")
    for module in documents:
        module.requires_grad_(False)
    return SentenceTransformer(
        modules=[Router.for_query_document(queries, documents, default_route=None, allow_empty_key=False)],
        device=str(encoder.device),
        prompts=dict(encoder.prompts),  # type: ignore[arg-type]  # it takes what it gives, None among it
        default_prompt_name=encoder.default_prompt_name,
        similarity_fn_name=encoder.similarity_fn_name,
        truncate_dim=encoder.truncate_dim,
    )


def frozen_documents(encoder: SentenceTransformer) -> bool:
    """Whether training this encoder leaves document vectors as they are.

    False for any model just loaded from a folder: freezing is not saved. ``build_student`` freezes.
    """
    return not any(parameter.requires_grad for module in route(encoder, "document") for parameter in module.parameters())


class FrozenVectors:
    """Document vectors of an encoder whose document side is not trained: each text is encoded once, without gradient.

    They lie in main memory, as batches do before they go to the device. A text that is not known yet is encoded when it is
    looked up; data loaders with worker processes need all ``texts`` at the start.
    """

    def __init__(
        self,
        encoder: SentenceTransformer,
        texts: Sequence[str] = (),
        encoded: Callable[[Sequence[str], str], Vectors] | None = None,
    ):
        """
        Args:
            encoded: gives the vectors of texts, such as ``PassageVectors``; None: the encoder computes them.

        Raises:
            ModelError: the document side is trained.
        """
        if not frozen_documents(encoder):
            raise ModelError("the document side of this encoder is trained: vectors kept now would be wrong after a step")
        self._encoder = encoder
        self._encoded = encoded or (lambda missing, progress: encode(encoder, missing, "document", progress))
        self._vectors: dict[str, Tensor] = {}
        self._encode(texts, "encoding passages once")

    def __call__(self, texts: Sequence[str]) -> Tensor:
        return self.lookup(texts)

    def lookup(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors in the order of ``texts``, shape (n, dim), float32."""
        self._encode(texts)
        return torch.stack([self._vectors[text] for text in texts])

    def _encode(self, texts: Sequence[str], progress: str = "") -> None:
        missing = [text for text in dict.fromkeys(texts) if text not in self._vectors]
        if not missing:
            return
        training = self._encoder.training
        with full_precision(self._encoder):
            vectors = torch.from_numpy(self._encoded(missing, progress))
        self._encoder.train(training)  # encoding switches dropout off, and we may be in the middle of training
        self._vectors.update(zip(missing, vectors, strict=True))


def _trainable_copy(modules: list[Module]) -> list[Module]:
    """Copies of modules with weights. Those without (pooling, normalising) are shared: the two sides cannot differ in them."""
    copies = copy.deepcopy(modules)
    chosen = [new if any(True for _ in old.parameters()) else old for new, old in zip(copies, modules, strict=True)]
    for module in chosen:
        module.requires_grad_(True)
    return chosen


def _adapter(encoder: SentenceTransformer) -> Dense:
    with encoder.truncate_embeddings(None):
        dimension = encoder.get_embedding_dimension()
    if dimension is None:
        raise ModelError("this encoder does not say how many dimensions its vectors have: train.towers cannot be adapter")
    zero = torch.zeros(dimension, dimension)
    dense = Dense(dimension, dimension, bias=False, activation_function=None, init_weight=zero, use_residual=True)
    return dense.to(device=encoder.device, dtype=encoder.dtype)
