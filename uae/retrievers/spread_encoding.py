"""Passages embedded by workers of a cluster, each of which keeps the encoder loaded."""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from uae.execution.options import ExecutionOptions
from uae.execution.ray import RayPool
from uae.io.errors import ModelError
from uae.io.models import require_model
from uae.retrievers.dense import TextBatch, encode, encode_batch, load_encoder
from uae.retrievers.protocol import Vectors

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


class SpreadEncoder:
    """As ``encode`` of documents, in the same batches, by workers; they start with the first text and end with the context.

    Args:
        encoder: as it is loaded here; the workers' must have its document fingerprint.
        folder: of the encoder's model, which the workers open.
    """

    def __init__(self, execution: ExecutionOptions, encoder: "SentenceTransformer", folder: Path, document_fingerprint: str):
        self._execution, self._encoder = execution, encoder
        self._made = {
            "folder": str(Path(folder).resolve()),
            "expected": document_fingerprint,
            "device": "auto" if execution.worker_gpus else "cpu",
            "dimension": encoder.truncate_dim,
            "threads": execution.worker_cpus,
        }
        self._pool: RayPool | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._pool is not None:
            self._pool.close()

    def __call__(self, texts: Sequence[str], progress: str = "") -> Vectors:
        """Unit vectors, shape (n, dim), float32.

        Raises:
            ExecutionError: as ``RayPool``.
            ModelError: a vector holds NaN or an infinite number.
        """
        if self._pool is None:
            doing = f"embedding with {Path(str(self._made['folder'])).name}"
            self._pool = RayPool(self._execution, f"{__name__}:make_worker", self._made, doing)
        return encode(self._encoder, texts, "document", progress, self._pool.spread)


class EncoderWorker:
    """Implements ``execution.ray.Worker``."""

    slots = 1  # the threads of one batch are torch's

    def __init__(self, encoder: "SentenceTransformer", threads: int):
        self._encoder, self._threads = encoder, threads

    def facts(self) -> dict[str, Any]:
        return {"device": self._encoder.device.type}

    def work(self, batch: TextBatch) -> Vectors:
        return encode_batch(self._encoder, batch.texts, "document")

    def start_thread(self) -> None:
        import torch

        torch.set_num_threads(self._threads)  # part of the setting is the thread's, not the process's


def make_worker(folder: str, expected: str, device: str, dimension: int | None, threads: int) -> EncoderWorker:
    """On the worker's machine.

    Args:
        expected: the document fingerprint of the encoder.
        dimension: to which its vectors are cut.

    Raises:
        ModelError: this machine cannot see the encoder's files, or has others in their place.
    """
    require_model(Path(folder), None)

    from uae.retrievers.document_side import document_fingerprint

    encoder = load_encoder(Path(folder), device)
    encoder.truncate_dim = dimension
    if document_fingerprint(Path(folder), encoder) != expected:
        raise ModelError(
            f"{folder} is another encoder there than on the machine that started the run: copy its files, or put them on a disk "
            "that all nodes see"
        )
    return EncoderWorker(encoder, threads)
