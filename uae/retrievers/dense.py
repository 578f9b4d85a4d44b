"""The bi-encoder: loading it from safetensors, and turning texts into unit vectors."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from uae.io.errors import ModelError

if TYPE_CHECKING:
    import numpy as np
    from sentence_transformers import SentenceTransformer

# Where safetensors are missing, sentence-transformers reads pickles: it is told not to for the body alone.
_PICKLES = {".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"}
_NO_PICKLE = "openvino_model"  # how the .bin files of OpenVINO begin, which the models of the hub have beside the others


def load_encoder(folder: Path, device: str) -> "SentenceTransformer":
    """Load a model in the sentence-transformers layout.

    Raises:
        ModelError: the folder does not hold one, or has pickles in it: all its weights must be safetensors.
    """
    from sentence_transformers import SentenceTransformer

    from uae.io.compute import hide_loading_bars, pick_device

    if not (Path(folder) / "config.json").exists() and not (Path(folder) / "modules.json").exists():
        raise ModelError(f"{folder} holds no sentence-transformers model (no modules.json, no config.json)")
    refuse_pickles(folder)
    hide_loading_bars()
    try:
        return SentenceTransformer(
            str(folder), device=pick_device(device), model_kwargs={"use_safetensors": True}, local_files_only=True
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder} cannot be loaded as an encoder: {str(error).splitlines()[0]}") from error


def refuse_pickles(folder: Path) -> None:
    """
    Raises:
        ModelError: a file in the folder may be a pickle, which can run code when it is read.
    """
    for path in sorted(Path(folder).rglob("*")):
        if path.suffix.lower() in _PICKLES and not path.name.startswith(_NO_PICKLE):
            raise ModelError(
                f"{path} may be a pickle, and none is loaded. If the same weights lie beside it as .safetensors, remove it; "
                "else save the model anew with safetensors (SentenceTransformer(...).save_pretrained), where you trust it"
            )


def encode(encoder: "SentenceTransformer", texts: Sequence[str], kind: str, progress: str = "") -> "np.ndarray":
    """Unit vectors of queries (``kind="query"``) or passages (``kind="document"``), shape (n, dim), float32.

    Prompts that the model defines for its kind are applied. ``progress`` names a progress bar.
    """
    import numpy as np
    from tqdm import tqdm

    method = {"query": encoder.encode_query, "document": encoder.encode_document}[kind]
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))  # equal lengths together: little padding
    vectors = np.zeros((len(texts), encoder.get_embedding_dimension()), dtype=np.float32)
    batch = 64
    for start in tqdm(range(0, len(order), batch), desc=progress, unit="batch", disable=not progress):
        rows = order[start : start + batch]
        vectors[rows] = method([texts[i] for i in rows], normalize_embeddings=True, show_progress_bar=False, batch_size=batch)
    return vectors
