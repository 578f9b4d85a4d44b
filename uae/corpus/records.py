"""What every adapter yields: documents and questions before they get ids, passages or splits."""

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple


class Section(NamedTuple):
    title: str
    start: int  # offsets into the document's text, in characters
    end: int


class Span(NamedTuple):
    document: str  # a RawDocument's key
    start: int
    end: int


@dataclass(frozen=True)
class RawDocument:
    key: str  # unique within the source
    title: str
    text: str
    sections: tuple[Section, ...]
    where: str  # file and row, for messages
    version: str = ""
    metadata: dict = field(default_factory=dict)


@dataclass(frozen=True)
class RawQuestion:
    text: str
    answers: tuple[str, ...]
    document: str | None  # a RawDocument's key
    evidence: tuple[Span, ...]
    where: str
    split: str | None = None
    origin: str = "human"


@dataclass
class Source:
    documents: list[RawDocument] = field(default_factory=list)
    questions: list[RawQuestion] = field(default_factory=list)
    lacks_validation: bool = False  # it has splits, but validation questions must be drawn from those of train
    skipped: Counter = field(default_factory=Counter)  # why rows were left out -> how many


def join_sections(parts: list[tuple[str, str]]) -> tuple[str, tuple[Section, ...]]:
    """Join (title, text) parts into one text with a blank line between them; empty parts are left out."""
    text, sections = "", []
    for title, part in parts:
        part = part.strip()
        if not part:
            continue
        text += "\n\n" if text else ""
        sections.append(Section(title, len(text), len(text) + len(part)))
        text += part
    return text, tuple(sections)
