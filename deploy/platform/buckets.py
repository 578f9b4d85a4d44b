"""Make the buckets of the platform's store when it answers: ``python -m deploy.platform.buckets``.

An empty source gets the bundled corpus, so that there is something to begin with.
"""

import os
import time
from pathlib import Path

from uae.corpus.objects import S3, filesystem, store_errors

DVC, MLFLOW, SOURCE = "uae-dvc", "uae-mlflow", "uae-source"
DOCUMENTS = f"{S3}{SOURCE}/documents"  # what ingest.path names
_PATIENCE_S = 300


def main() -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            _make(Path(os.environ["PLATFORM_PROJECT"]) / "data" / "sample")
            return
        except store_errors() as error:  # it listens before it can store
            if time.monotonic() > deadline:
                raise SystemExit(f"the store does not answer: {error}") from error
            time.sleep(1)


def _make(sample: Path) -> None:
    store = filesystem()
    for name in (DVC, MLFLOW, SOURCE):
        if not store.exists(name):
            store.mkdir(name)
    if not store.find(DOCUMENTS.removeprefix(S3)):
        for path in sorted(sample.rglob("*")):
            if path.is_file() and path.name != "README.md":
                store.put_file(str(path), f"{DOCUMENTS.removeprefix(S3)}/{path.relative_to(sample).as_posix()}")


if __name__ == "__main__":
    main()
