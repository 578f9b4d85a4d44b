"""Which class serves an encoder: torch, or ONNX Runtime with weights of 32 or 8 bits."""

from pathlib import Path

from uae.retrievers.onnx_encoder import OnnxEncoder
from uae.retrievers.protocol import Encoder


def open_encoder(folder: Path, backend: str, device: str, threads: int | None) -> Encoder:
    """The encoder of a release, or of its base. No torch is imported unless torch has to serve it.

    Args:
        folder: the release's folder, or ``base`` in it.
        backend: as the manifest names it: torch, onnx, onnx_int8 or onnx_int8_mixed.
        device: of torch.
        threads: of ONNX Runtime; None: as many as there are cores.

    Raises:
        ArtefactError, ModelError: the files are missing or damaged.
    """
    if backend == "torch":
        from uae.retrievers.torch_encoder import TorchEncoder

        return TorchEncoder(Path(folder) / "encoder", device)
    return OnnxEncoder(Path(folder) / "serving", threads)
