"""What every adapter gives: documents and questions before they get ids, passages or splits."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from uae.corpus.documents import RawDocument, RawDocuments, Section

__all__ = ["SEPARATOR", "LeftOut", "RawDocument", "RawDocuments", "RawQuestion", "Section", "Source", "Span", "join_sections"]

SEPARATOR = " > "  # between the steps of a heading path
_LISTED = 1000  # places that are kept for one reason


class Span(NamedTuple):
    document: str  # a RawDocument's key
    start: int
    end: int


@dataclass(frozen=True)
class RawQuestion:
    text: str
    answers: tuple[str, ...]
    document: str | None  # a RawDocument's key
    evidence: tuple[Span, ...]
    where: str
    split: str | None = None
    origin: str = "human"


class LeftOut(Counter[str]):
    """Why something in the source is in no table -> how much of it. The places of the first of them are kept, too."""

    def __init__(self) -> None:
        super().__init__()
        self.places: defaultdict[str, list[str]] = defaultdict(list)

    def add(self, reason: str, place: str) -> None:
        """Count one more.

        Args:
            place: what a person looks for: a file, or a file and its line.
        """
        self[reason] += 1
        if len(self.places[reason]) < _LISTED:
            self.places[reason].append(place)


@dataclass
class Source:
    documents: RawDocuments = field(default_factory=RawDocuments)
    questions: list[RawQuestion] = field(default_factory=list)
    lacks_validation: bool = False  # it has splits, but validation questions must be drawn from those of train
    skipped: LeftOut = field(default_factory=LeftOut)
    empty: dict[str, str] = field(default_factory=dict)  # key of a document without text -> where it stands
    files: Counter[str] = field(default_factory=Counter)  # suffix -> how many files were read, where a source is many files


def join_sections(parts: Iterable[tuple[Sequence[str], str]]) -> tuple[str, tuple[Section, ...]]:
    """Join (headings from the outermost to the innermost, text) into one text with a blank line between the parts.

    A part without text is left out, but its innermost heading is kept. The heading stands in the paths of the parts below.
    Where there are none, it becomes a text under the headings above it.
    """
    text, sections = "", []
    for headings, part in _kept([(tuple(headings), part.strip()) for headings, part in parts]):
        text += "\n\n" if text else ""
        sections.append(Section(SEPARATOR.join(headings), len(text), len(text) + len(part)))
        text += part
    return text, tuple(sections)


def _kept(parts: list[tuple[tuple[str, ...], str]]) -> list[tuple[tuple[str, ...], str]]:
    kept = []
    named = {headings[:depth] for headings, part in parts if part for depth in range(1, len(headings) + 1)}
    for headings, part in parts:
        if part:
            kept.append((headings, part))
        elif any(headings) and headings not in named:
            named.add(headings)
            kept.append((headings[:-1], headings[-1]))
    return kept
