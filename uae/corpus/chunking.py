"""Cut a document's sections into passages that end at sentence ends where they can, at places that the text itself decides.

Whether a text is cut behind a sentence depends on the sentences around it, not on how much text stands before. So an edit changes
the passage that it is in and seldom more than one beside it (content-defined chunking; Muthitacharoen, Chen and Mazières, "A
low-bandwidth network file system", SOSP 2001). All others keep their text, and with it their labels and vectors.
"""

from collections.abc import Iterator
from functools import cache
from itertools import accumulate
from typing import NamedTuple

from uae.corpus.records import RawDocument, Section
from uae.io.files import sha256_bytes
from uae.text.sentences import sentences
from uae.text.words import word_spans

# Chosen on COVID-QA: sizes close to those of passages that are filled up from the start, and few passages that an edit changes.
# In parts of the most words of a passage.
_LEAST = 0.45  # a passage, where sentences allow it
_AWAY = 0.45  # a cut from the ends of a long text
_TWO = 1.7  # a text of up to so much becomes two passages
_TELLING = 3  # words at a sentence's end, or so many characters: an edit at another place in it moves no cut
_TELLING_SIGNS = 8


class _Unit(NamedTuple):
    """A sentence, or a word of one that is too long."""

    start: int  # offsets into the section's text, in characters
    end: int
    words: int
    breaks: int  # how strong the boundary behind it is: as in ``Sentence``, -1 within a sentence
    tail: int  # where the end that decides begins


def cut(document: RawDocument, max_words: int) -> Iterator[tuple[str, int, int]]:
    """Yield (section path, start, end) for each passage of at most ``max_words`` words.

    A section is cut behind paragraphs rather than lines, behind lines rather than sentences, and between words only where a
    sentence alone is too long. Offsets are characters of ``document.text``; white space at the edges is left out. Sections that
    follow each other under one path of headings (a paper's paragraphs) are cut as one text.
    """
    for title, start, end in _merged(document):
        for first, last in _passages(document.text[start:end], max_words):
            yield title, start + first, start + last


def _passages(text: str, max_words: int) -> Iterator[tuple[int, int]]:
    """Start and end of each passage, in order."""
    units = list(_units(text, max_words))
    before = [0, *accumulate(unit.words for unit in units)]  # words before each unit

    @cache
    def strength(place: int) -> tuple[int, str]:
        """Of the boundary in front of a unit. Equal breaks are told apart by a hash."""
        unit = units[place - 1]
        return unit.breaks, sha256_bytes(text[unit.tail : unit.end])

    waiting = [(0, len(units))] if units else []
    while waiting:
        first, last = waiting.pop()
        total = before[last] - before[first]
        if total <= max_words or last - first == 1:
            yield units[first].start, units[last - 1].end
            continue
        least, most = _AWAY * max_words, total - _AWAY * max_words
        if total <= _TWO * max_words:
            least = max(_LEAST * max_words, total - max_words)
            most = total - least
        inner = range(first + 1, last)
        allowed = [place for place in inner if least <= before[place] - before[first] <= most]
        # Long sentences may leave none: then as near to the middle as they let.
        middle = max(allowed, key=strength) if allowed else min(inner, key=lambda at: abs(before[at] - before[first] - total / 2))
        waiting += [(middle, last), (first, middle)]


def _units(text: str, max_words: int) -> Iterator[_Unit]:
    for start, end, breaks in sentences(text):
        spans = [(start + first, start + last) for first, last in word_spans(text[start:end])]
        if len(spans) <= max_words:
            yield _Unit(start, end, len(spans), breaks, _tail(spans, len(spans)))
            continue
        for number, (first, last) in enumerate(spans, 1):
            yield _Unit(first, last, 1, breaks if number == len(spans) else -1, _tail(spans, number))


def _tail(spans: list[tuple[int, int]], number: int) -> int:
    """Where the last words of the first ``number`` begin."""
    return min(spans[max(number - _TELLING, 0)][0], max(spans[number - 1][1] - _TELLING_SIGNS, spans[0][0]))


def _merged(document: RawDocument) -> Iterator[Section]:
    current: Section | None = None
    for section in document.sections:
        if current and current.title == section.title and not document.text[current.end : section.start].strip():
            current = current._replace(end=section.end)
            continue
        if current:
            yield current
        current = section
    if current:
        yield current
