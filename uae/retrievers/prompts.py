"""The instruction that stands before a text, by side: "query: " and "passage: " of E5, the query instruction of BGE.

A model's folder says them in ``config_sentence_transformers.json``. Where it does not, or says others, ``models.student_prompts``
in params.yaml gives them. They are then written into a copy of the folder. So whatever opens the folder applies them, and the
model's fingerprint covers them.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from filelock import FileLock

from uae.io.files import atomic_path, sha256_bytes
from uae.io.models import fingerprint, resolve
from uae.io.options import Options

_CONFIG = "config_sentence_transformers.json"
# What models call the prompt of a passage: the first that has one counts. sentence-transformers 6.2 goes in this order, too. But
# it gives every model an empty "document", and so never comes to "passage".
_OF_DOCUMENTS = ("document", "passage", "corpus")


class Prompts(Options):
    """What stands before each text, with the space that it ends in."""

    query: str
    document: str


def by_side(prompts: Mapping[str, str | None]) -> dict[str, str]:
    """The prompts of ``query`` and ``document`` among those of a model; "" where it has none."""
    documents = (prompts.get(name) for name in _OF_DOCUMENTS)
    return {"query": prompts.get("query") or "", "document": next(filter(None, documents), "")}


def base_encoder(reference: str, prompts: Prompts | None, cache: Path) -> Path:
    """The folder of a model reference, with these prompts; None: with those that it comes with.

    Raises:
        ModelError: as ``uae.io.models.resolve``.
    """
    folder = resolve(reference, cache)
    return folder if prompts is None else _with_prompts(folder, prompts, cache)


def _with_prompts(folder: Path, prompts: Prompts, cache: Path) -> Path:
    """A copy of a model's folder in ``cache`` that has these prompts. It is made once."""
    key = sha256_bytes(fingerprint(folder), prompts.query, prompts.document)[:8]
    target = cache / f"{folder.name}-prompts-{key}"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f".{target.name}.lock"):
        if not target.is_dir():
            with atomic_path(target) as partial:
                _copy(folder, partial)
                path = partial / _CONFIG
                config = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
                config |= {"prompts": prompts.model_dump(), "default_prompt_name": None}
                path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return target


def _copy(folder: Path, target: Path) -> None:
    if (folder / "modules.json").exists():
        shutil.copytree(folder, target, ignore=shutil.ignore_patterns(".*"))
        return
    # A model of transformers alone, whose prompts would not be read: it is saved with the pooling that it gets when loaded.
    from uae.retrievers.dense import load_encoder

    load_encoder(folder, "cpu").save(str(target), create_model_card=False)
