"""A hash of what determines an encoder's *document* vectors. If it is equal, an index is still right after retraining."""

import importlib.metadata
import json
from itertools import chain
from pathlib import Path
from pprint import pformat
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Module, Router, Transformer

from uae.io.files import sha256_bytes
from uae.io.models import fingerprint
from uae.retrievers.dense import load_encoder

# Raise it when the hash below covers something else, or ``uae.retrievers.dense.encode`` makes other vectors of the same model.
_HASH_VERSION = "documents-1"
_ENCODING_LIBRARIES = ("sentence-transformers", "transformers", "torch")
# What transformers writes into a configuration about the file, not about the model.
_BOOKKEEPING = {"transformers_version", "architectures", "dtype", "torch_dtype"}


def document_fingerprint(folder: Path, encoder: SentenceTransformer | None = None) -> str:
    """Hash of what determines a model's *document* vectors: weights, configuration, tokenizer and prompt of its document side.

    It is taken from the loaded model and not from its files, because saving changes files and not vectors. So a base encoder
    and the students that keep its document vectors have one document fingerprint. The query prompt and the versions of
    libraries are no part of it.

    Args:
        encoder: the model of ``folder``, where it is loaded already.

    Raises:
        ModelError: ``folder`` holds no encoder.
    """
    encoder = load_encoder(folder, "cpu") if encoder is None else encoder
    parts = [_HASH_VERSION, encoder.prompts.get("document") or "", str(encoder.truncate_dim)]
    for position, module in enumerate(route(encoder, "document")):
        for name, part in module.named_modules():
            if isinstance(part, Module):
                tokenizer = _tokenizer(part)
                if tokenizer is None:  # one that we cannot look into: then any change of the folder counts
                    return fingerprint(folder)
                parts += [f"{position}.{name}", _configuration(part), tokenizer]
        for name, tensor in chain(module.named_parameters(), module.named_buffers()):
            data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            parts += [f"{position}.{name}", f"{tensor.dtype} {tuple(tensor.shape)}", sha256_bytes(data)]
    return sha256_bytes(*parts)


def encoded_with() -> dict[str, str]:
    """Library -> version, of those that decide with a model what its vectors are."""
    return {library: importlib.metadata.version(library) for library in _ENCODING_LIBRARIES}


def route(encoder: SentenceTransformer, task: str) -> list[Module]:
    """The modules that a text passes through, for ``task`` query or document."""
    modules: list[Any] = list(encoder.children())
    first, *others = modules
    if isinstance(first, Router):
        # The Router's own choice, as encode_query and encode_document have it made; there is no public way to ask for it.
        chosen: Any = first.sub_modules[str(first._resolve_route(task=task, modality="text"))]
        return [*chosen, *others]
    return [first, *others]


def _configuration(module: Module) -> str:
    settings = {"class": type(module).__name__, "config": module.get_config_dict()}
    if isinstance(module, Transformer):
        config = module.model.config.to_dict()
        settings["model"] = type(module.model).__name__
        settings["model_config"] = {
            name: value for name, value in config.items() if name not in _BOOKKEEPING and not name.startswith("_")
        }
    return pformat(settings)  # sorts keys, and takes those that JSON does not


def _tokenizer(module: Module) -> str | None:
    """What a module's tokenizer does, as text: "" where it has none, None where it cannot be told."""
    tokenizer = getattr(module, "tokenizer", None)
    if tokenizer is None:
        return ""
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if not hasattr(backend, "to_str"):
        return None
    rules = json.loads(backend.to_str())
    for name in ("truncation", "padding"):  # set anew by every call
        rules.pop(name, None)
    names = ("padding_side", "truncation_side", "pad_token_id", "pad_token_type_id", "model_input_names", "chat_template")
    sides = {name: getattr(tokenizer, name, None) for name in names}
    return json.dumps([rules, sides, getattr(module, "max_seq_length", None)], sort_keys=True)
