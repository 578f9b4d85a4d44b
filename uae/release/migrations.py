"""Manifests of earlier formats, brought to this version's in memory. The folder and its fingerprint stay as they are.

A new format comes with one function here, from the format before it, and one line in ``MIGRATIONS``.
"""

from collections.abc import Callable
from typing import Any

FORMAT = 4
_PLAIN = "{text}"  # before format 3, encoders read a passage's text and nothing else


def _from_2(old: dict[str, Any]) -> dict[str, Any]:
    """Format 2: one dense retriever at the root of the release, and perhaps its base in the folder ``base``."""
    legs = {"dense": _dense_from_2(old, "")}
    if old["base"] is not None:
        legs["base"] = _dense_from_2(old["base"], "base")
    names = {"uae": "dense", "base": "base"}
    return {
        "format": 3,
        "systems": {system: {"legs": {leg: 1.0}, "fusion": None} for system, leg in names.items() if leg in legs},
        "legs": legs,
        "chunking": old["chunking"],
        "passages": old["passages"],
        "passage_texts": old["passage_texts"],
        "files": old["files"],
        "fingerprint": old["fingerprint"],
    }


def _dense_from_2(part: dict[str, Any], folder: str) -> dict[str, Any]:
    kept = (
        "encoder",
        "document_encoder",
        "dimension",
        "max_tokens",
        "prompts",
        "pooling",
        "normalised",
        "encoded_with",
        "serving",
    )
    return {
        "kind": "dense",
        "folder": folder,
        "passage_template": _PLAIN,
        "read_texts": part["passage_texts"],
        **{name: part[name] for name in kept},
        # Format 2 does not say which FAISS built the index, or how near the trained encoder came. Such an index is not taken
        # over.
        "index": part["index"] | {"metric": "inner product of unit vectors", "built_with": {}},
        "probe": {"served": part["probe"], "trained": None},
    }


def _from_3(old: dict[str, Any]) -> dict[str, Any]:
    """Format 3: systems of one leg each. Its systems keep their names: a release has no ``dense`` and no ``bm25`` there."""
    return old | {"format": 4}


MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {2: _from_2, 3: _from_3}


def migrate(manifest: dict[str, Any], found: int) -> dict[str, Any]:
    """The manifest in this version's format.

    Args:
        found: its format, one of ``MIGRATIONS`` or ``FORMAT``.

    Raises:
        KeyError, TypeError, ValueError: it is not of that format.
    """
    for number in range(found, FORMAT):
        manifest = MIGRATIONS[number](manifest)
    return manifest
