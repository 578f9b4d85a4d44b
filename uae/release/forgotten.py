"""What was forgotten is not served again: a store of releases keeps hashes of the passages that no release may bring back.

forgotten.json        {"passages": [sha256 of a text, ...]}

Hashes, because the texts themselves are what has to be gone. A rename changes no text, so a renamed copy is refused as well.
"""

from collections.abc import Container, Iterable
from pathlib import Path

from filelock import FileLock

from uae.io.errors import ArtefactError
from uae.io.files import read_json, sha256_bytes, write_json
from uae.release.manifest import templates_of
from uae.release.passages import Passages
from uae.text.passage_template import PLAIN

_FILE = "forgotten.json"


def passage_texts(release: Path) -> dict[str, set[str]]:
    """Source key of a document -> the texts of its passages.

    Raises:
        ArtefactError: the release's tables are missing or damaged.
    """
    passages = Passages(release)
    try:
        found: dict[str, set[str]] = {}
        for source, text in zip(passages.sources(), passages.read_all(PLAIN), strict=True):
            found.setdefault(source, set()).add(text)
        return found
    finally:
        passages.close()


def remember_forgotten(store: Path, texts: Iterable[str]) -> None:
    """From now on the store takes, activates and goes back to no release with one of these passages.

    Args:
        store: its folder.
    """
    store.mkdir(parents=True, exist_ok=True)
    with FileLock(store / ".forgotten.lock"):
        hashes = _read(store) | {sha256_bytes(text) for text in texts}
        write_json(store / _FILE, {"passages": sorted(hashes)})


def refuse_forgotten(store: Path, release: Path) -> None:
    """
    Raises:
        ArtefactError: the release holds a passage that was forgotten, or forgotten.json is broken.
    """
    forgotten = _read(store)
    if not forgotten:
        return
    passages = Passages(release, mapped=False)  # beside a service, in a container that has little disk
    try:
        for source, text in zip(passages.sources(), passages.read_all(PLAIN), strict=True):
            if sha256_bytes(text) in forgotten:
                raise ArtefactError(
                    f"{release} holds passages of {source} that were forgotten (uae forget): it may not be served. "
                    "Take a release that was built since"
                )
    finally:
        passages.close()


def _read(store: Path) -> set[str]:
    path = store / _FILE
    if not path.exists():
        return set()
    found = read_json(path)
    if not isinstance(found, dict) or not isinstance(found.get("passages"), list):
        raise ArtefactError(f"{path} is not what uae forget writes: bring it back from a copy, or what was forgotten may return")
    return set(found["passages"])


def as_read(release: Path, texts: Container[str], templates: Iterable[str]) -> set[str]:
    """These passages as the release's encoders read them, as ``templates`` do, and plain. It needs manifest and tables alone.

    Raises:
        ArtefactError: the release is damaged.
    """
    wanted = {PLAIN, *templates, *templates_of(release)}
    passages = Passages(release)
    try:
        rows = [row for row, text in enumerate(passages.read_all(PLAIN)) if text in texts]
        return {text for template in wanted for text in passages.read(template, rows)}
    finally:
        passages.close()
