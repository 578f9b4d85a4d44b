"""How many numbers of an encoder's vectors are used: the first ones, normalised again (Matryoshka, arXiv 2205.13147).

A model may come with a number: ``truncate_dim`` in sentence-transformers' configuration. Then it is trained at that number, too.
A release may serve fewer. Its encoder's folder says so in a file of its own, which ``uae.io.models.fingerprint`` leaves out:
the encoder is the one that was trained, and MLflow finds its run by that. The release's fingerprint covers the file.
"""

from pathlib import Path

from uae.io.errors import ModelError
from uae.io.files import read_json, write_json
from uae.io.models import SERVED_DIMENSION


def served_dimension(folder: Path) -> int | None:
    """The first numbers of a vector that are used; None: all.

    Raises:
        ModelError: the file does not say a number above 0.
    """
    path = folder / SERVED_DIMENSION
    if not path.exists():
        return None
    said = read_json(path)
    dimension = said.get("dimension") if isinstance(said, dict) else None
    if not isinstance(dimension, int) or dimension < 1:
        raise ModelError(f'{path} must hold {{"dimension": N}} with a number above 0: build the release again')
    return dimension


def serve_dimension(folder: Path, dimension: int) -> None:
    """Have the model in ``folder`` give the first ``dimension`` numbers of its vectors."""
    write_json(folder / SERVED_DIMENSION, {"dimension": dimension})
