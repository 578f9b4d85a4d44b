"""From a page's headings to the paths of its sections."""

from collections.abc import Sequence
from typing import NamedTuple

from uae.corpus.records import SEPARATOR, Section


class Page(NamedTuple):
    title: str  # "" where the page names none
    text: str
    sections: tuple[Section, ...]  # those with text


class Heading(NamedTuple):
    level: int  # 1 for h1
    text: str
    start: int  # offsets in the page's text, in characters: where the heading begins, with its marks
    words: int  # where its own words begin
    end: int  # where they end
    body: int  # where the text below it begins


def outline(title: str, text: str, headings: Sequence[Heading]) -> Page:
    """Cut ``text`` at its headings. Each heading's text is kept: as the title, in a section's path, or as a section's text.

    The title is the one that is given, else the first h1. A first h1 with the same words as the title is in no path. A heading
    with nothing below it, neither text nor headings, is a text itself, under the headings above it.

    Args:
        title: what the page's head or front matter says; "" for nothing.
        headings: in the order of the text.
    """
    first = next((heading for heading in headings if heading.level == 1), None)
    title = title or (first.text if first else "")
    sections = [Section("", 0, headings[0].start if headings else len(text))]
    trail: list[Heading] = []
    for place, heading in enumerate(headings):
        below = headings[place + 1] if place + 1 < len(headings) else None
        trail = [step for step in trail if step.level < heading.level]
        above = _path(trail)
        if not (heading is first and _same(heading.text, title)):
            trail.append(heading)
        end = below.start if below else len(text)
        if text[heading.body : end].strip():
            sections.append(Section(_path(trail), heading.body, end))
        elif heading in trail and not (below and below.level > heading.level):
            sections.append(Section(above, heading.words, heading.end))
    return Page(title, text, tuple(section for section in sections if text[section.start : section.end].strip()))


def _path(trail: Sequence[Heading]) -> str:
    return SEPARATOR.join(heading.text for heading in trail if heading.text)


def _same(heading: str, title: str) -> bool:
    return heading.split() == title.split()
