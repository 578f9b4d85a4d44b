"""Rows of a data set on the Hugging Face hub, or of a local .jsonl of such rows."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from uae.corpus.reading import read_jsonl
from uae.io.errors import InputError

_SPLITS = {"train": "train", "validation": "validation", "dev": "validation", "test": "test"}


def hub_rows(path: str) -> Iterator[tuple[dict[str, Any], str | None, str]]:
    """Yield (row, split, where) of ``hf:NAME@REVISION`` or of a file; a file's rows have no split.

    Raises:
        InputError: the rows cannot be loaded.
    """
    if not path.startswith("hf:"):
        # Not through datasets: its errors name no line, and rows of several types are too much for it.
        yield from ((row, None, where) for where, row in read_jsonl(Path(path)))
        return
    import datasets

    name, _, revision = path.removeprefix("hf:").partition("@")
    try:
        splits = datasets.load_dataset(name, revision=revision or None)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{path}: the rows cannot be loaded through datasets: {error}") from error
    for split, rows in splits.items():
        for number, row in enumerate(rows, 1):
            yield row, _SPLITS.get(split), f"{path}, {split} row {number}"
