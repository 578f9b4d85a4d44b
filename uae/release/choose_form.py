"""Which form of an encoder serves it: the fastest that does what the trained encoder does, measured on real questions."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from uae.io.errors import ConfigError, ModelError
from uae.release.legs.dense import ParityEntry, ServingEntry
from uae.release.parity import Corpus, Parity, is_within, measure_parity
from uae.retrievers.dense import encode, load_encoder
from uae.retrievers.onnx_export import export_encoder, quantise
from uae.retrievers.protocol import Vectors
from uae.retrievers.serving_forms import open_encoder

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

# The fastest first, as measured; see docs/decisions.md.
FORMS = ("onnx_int8", "onnx_int8_mixed", "onnx", "torch")
# What ``uae.io.models.fingerprint`` covers. The rest of a model's folder (a card, other formats) determines no vector.
_ENCODER_FILES = {".safetensors", ".json", ".txt", ".model", ".jinja"}


class Gate(NamedTuple):
    """What a form must reach."""

    serving: str  # auto, or the one form that is allowed
    max_recall_loss: float
    min_cosine: float


class Trial(NamedTuple):
    """The questions and passages on which forms are compared with the trained encoder."""

    questions: pd.DataFrame  # as QUESTIONS
    searched: Corpus
    scope: str
    probed: Sequence[str]  # what the encoder reads of a few passages


def choose_form(
    encoder: "SentenceTransformer", encoder_path: Path, folder: Path, asked: Vectors, trial: Trial, gate: Gate, device: str
) -> ServingEntry:
    """Put the first form that passes the gate into ``folder``.

    Args:
        asked: the questions' vectors by ``encoder``, shape (n, dim).

    Raises:
        ConfigError: the one form that is allowed does not pass.
    """
    refused: dict[str, str] = {}
    # Not what the index gives back: what its codes lose is no fault of the encoder that serves.
    documents = encode(encoder, list(trial.probed), "document")
    for backend in FORMS if gate.serving == "auto" else (gate.serving,):
        if backend == "torch":
            if not (folder / "encoder").exists():
                copy_encoder(encoder_path, folder / "encoder")
            return ServingEntry(backend="torch", parity=None, refused=refused)
        place = folder / "serving"
        try:
            make_form(backend, encoder_path, place)
            served = open_encoder(folder, backend, device, None)
            try:
                parity = measure_parity(
                    asked, served.encode(trial.questions["text"].tolist(), "query"), trial.questions, trial.searched, trial.scope
                )
                reason = _failure(parity, gate) or _document_failure(documents, served.encode(trial.probed, "document"), gate)
            finally:
                served.close()
        except ModelError as error:
            reason = str(error)
        if reason is None:
            figures = {name: round(value, 4) if isinstance(value, float) else value for name, value in parity._asdict().items()}
            return ServingEntry.model_validate({"backend": backend, "parity": ParityEntry(**figures), "refused": refused})
        refused[backend] = reason
        shutil.rmtree(place, ignore_errors=True)
    raise ConfigError(f"index.serving: {gate.serving} is not good enough for this encoder: {refused[gate.serving]}. Use auto")


def copy_encoder(source: Path, target: Path) -> None:
    """Copy the files of a model that determine its vectors."""
    source = Path(source)
    for path in sorted(source.rglob("*")):
        if path.suffix in _ENCODER_FILES:
            place = target / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)


def make_form(backend: str, encoder_path: Path, place: Path) -> None:
    """Write the serving folder of an encoder for ONNX Runtime.

    Args:
        backend: onnx, onnx_int8 or onnx_int8_mixed.

    Raises:
        ModelError: the encoder cannot be exported.
    """
    full = place if backend == "onnx" else place.with_name(".float32")
    try:
        # Loaded anew: on the CPU, in float32, and apart from the model that others still use.
        export_encoder(load_encoder(encoder_path, "cpu").float(), full)
        if full != place:
            quantise(full, place, mixed=backend == "onnx_int8_mixed")
    finally:
        if full != place:
            shutil.rmtree(full, ignore_errors=True)


def _failure(parity: Parity, gate: Gate) -> str | None:
    if not parity.cosine >= gate.min_cosine:
        return (
            f"a question's vector has a cosine of {parity.cosine:.4f} with the trained encoder's; "
            f"index.min_cosine is {gate.min_cosine:g}"
        )
    if not is_within(parity.recall_loss, gate.max_recall_loss):
        return (
            f"Recall@1 is {parity.served_recall:.4f} against {parity.trained_recall:.4f} of the trained encoder; "
            f"index.max_recall_loss is {gate.max_recall_loss:g} of it"
        )
    return None


def _document_failure(trained: Vectors, served: Vectors, gate: Gate) -> str | None:
    """Queries and documents may go through graphs of their own: one says nothing of the other."""
    cosine = float(np.einsum("nd,nd->n", trained.astype(np.float64), served.astype(np.float64)).min())
    if cosine >= gate.min_cosine:
        return None
    return f"a passage's vector has a cosine of {cosine:.4f} with the trained encoder's; index.min_cosine is {gate.min_cosine:g}"
