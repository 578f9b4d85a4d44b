"""Releases as earlier versions of uae wrote them, made from a release of today's format.

The writer was checked once against the last version of format 2 (commit bd6c3b9): the same inputs gave the same bytes.
"""

import json
import shutil
from pathlib import Path

from uae.io.files import sha256_bytes, sha256_file

# In the order in which version 2 wrote them.
_PART = ("encoder", "document_encoder", "dimension", "max_tokens", "prompts", "pooling", "normalised", "passage_texts")
_INDEX = ("file", "factory", "dtype", "recall_target", "recall", "parameters")


def write_format_2(release: Path, target: Path) -> Path:
    """The same release as format 2 had it: the trained encoder's files at the root, the base's in ``base``.

    Args:
        release: of today's format, with legs that read a passage's plain text.
        target: a folder that is made.
    """
    new = json.loads((release / "manifest.json").read_text(encoding="utf-8"))
    target.mkdir(parents=True)
    for name in ("passages.parquet", "documents.parquet"):
        shutil.copyfile(release / name, target / name)
    shutil.copytree(release / "legs" / "dense", target, dirs_exist_ok=True)
    if "base" in new["legs"]:
        shutil.copytree(release / "legs" / "base", target / "base")
    files = sorted(path for path in target.rglob("*") if path.is_file())
    manifest = {
        "format": 2,
        **_part(new["legs"]["dense"]),
        "metric": "inner product of unit vectors",
        "chunking": new["chunking"],
        "passages": new["passages"],
        "base": _part(new["legs"]["base"]) if "base" in new["legs"] else None,
        "files": {path.relative_to(target).as_posix(): sha256_file(path) for path in files},
    }
    manifest["fingerprint"] = sha256_bytes(json.dumps(manifest, sort_keys=True))
    (target / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return target


def _part(leg: dict) -> dict:
    """What format 2 said of one encoder and its index."""
    places = {"legs/dense/index.faiss": "index.faiss", "legs/base/index.faiss": "base/index.faiss"}
    return {
        **{name: leg["read_texts" if name == "passage_texts" else name] for name in _PART},
        "encoded_with": {name: leg["encoded_with"][name] for name in ("sentence-transformers", "transformers")},
        "index": {name: places[leg["index"]["file"]] if name == "file" else leg["index"][name] for name in _INDEX},
        "serving": leg["serving"],
        "probe": leg["probe"]["served"],
    }


def write_format_3(release: Path, target: Path) -> Path:
    """The same release as format 3 had it: without a lexical leg, ``uae`` being the dense one alone.

    Args:
        release: of today's format, in which BM25 does not join the dense leg.
        target: a folder that is made.
    """
    shutil.copytree(release, target)
    shutil.rmtree(target / "legs" / "bm25")
    manifest = json.loads((release / "manifest.json").read_text(encoding="utf-8"))
    del manifest["fingerprint"], manifest["legs"]["bm25"], manifest["systems"]["bm25"], manifest["systems"]["dense"]
    files = {name: value for name, value in manifest["files"].items() if not name.startswith("legs/bm25/")}
    manifest |= {"format": 3, "files": files}
    manifest["fingerprint"] = sha256_bytes(json.dumps(manifest, sort_keys=True))
    (target / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return target
