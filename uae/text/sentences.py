"""Sentences of a text, with their places. A blank line ends one, and so does a line break that no small letter follows."""

import re
from typing import NamedTuple

# Unicode's default rules (UAX 29) in short. A full stop ends a sentence where white space and no small letter follow, ! and ?
# where white space follows, East Asian marks in any case. Closing quotes and brackets belong to the sentence before. The looks
# behind keep a long row of dots from being tried at each of them.
_CLOSE = r"""["'’”»)\]}」』】）]*"""
_END = re.compile(
    rf"(?P<stop>(?<![.…])[.…]+{_CLOSE}\s+)|(?P<line>\n\s*)|(?<![!?‽])[!?‽]+{_CLOSE}\s+|(?<![。｡！？])[。｡！？]+{_CLOSE}\s*"
)


class Sentence(NamedTuple):
    start: int  # offsets into the text, in characters; no white space at the edges
    end: int
    breaks: int  # how strong the boundary behind it is: 2 a blank line or the text's end, 1 a line break, 0 a sentence's end


def sentences(text: str) -> list[Sentence]:
    """The sentences in their order. They hold every character that is no white space."""
    found: list[Sentence] = []
    start = 0
    for match in _END.finditer(text):
        newlines = match[0].count("\n")
        goes_on = match["stop"] is not None or match["line"] is not None
        if goes_on and newlines < 2 and text[match.end() : match.end() + 1].islower():
            continue
        _add(found, text, start, match.end(), min(newlines, 2))
        start = match.end()
    _add(found, text, start, len(text), 2)
    return found


def _add(found: list[Sentence], text: str, start: int, end: int, breaks: int) -> None:
    piece = text[start:end]
    lead = len(piece) - len(piece.lstrip())
    if stripped := piece.strip():
        found.append(Sentence(start + lead, start + lead + len(stripped), breaks))
