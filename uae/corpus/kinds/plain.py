"""Plain text: one section, no title."""

from uae.corpus.kinds.outline import Page
from uae.corpus.records import Section


def parse(text: str) -> Page:
    return Page("", text, (Section("", 0, len(text)),) if text.strip() else ())
