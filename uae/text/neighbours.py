"""The sentences around a passage: the last one of the passage before in its document, the first one of the passage behind."""

import numpy as np
import numpy.typing as npt

from uae.io.errors import InputError
from uae.text.sentences import sentences

NONE = -1


def neighbour_rows(
    documents: npt.NDArray[np.int64], positions: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Of each row, the row of the passage before it and of the one behind; NONE where a document begins or ends.

    Args:
        documents: [rows] a number of each row's document.
        positions: [rows] places within the document: 0, 1, 2 ...

    Raises:
        InputError: a document lacks a passage, so that a passage before would be another one.
    """
    order = np.lexsort((positions, documents))
    first = np.ones(len(order), dtype=bool)
    first[1:] = documents[order][1:] != documents[order][:-1]
    steps = np.diff(positions[order], prepend=NONE)
    steps[first] = positions[order][first] + 1
    if len(wrong := order[steps != 1]):
        raise InputError(
            f"the passage at position {positions[wrong[0]]} of its document has none before it: the template's {{before}} and "
            "{after} need all passages of a document (run the stage ingest again)"
        )
    before = np.full(len(order), NONE, dtype=np.int64)
    after = before.copy()
    inner = np.flatnonzero(~first)
    before[order[inner]] = order[inner - 1]
    after[order[inner - 1]] = order[inner]
    return before, after


def last_sentence(text: str) -> str:
    """The sentence that a passage ends with; "" where there is none."""
    found = sentences(text)
    return text[found[-1].start : found[-1].end] if found else ""


def first_sentence(text: str) -> str:
    """The sentence that a passage begins with; "" where there is none."""
    found = sentences(text)
    return text[found[0].start : found[0].end] if found else ""
