"""Cut a document's sections into passages that end at sentence ends where they can."""

from collections.abc import Iterator

from uae.corpus.records import RawDocument, Section
from uae.text.words import count_words


def cut(document: RawDocument, max_words: int) -> Iterator[tuple[str, int, int]]:
    """Yield (section path, start, end) for each passage of at most ``max_words`` words.

    Sections are cut by the largest unit that fits (paragraph, then Unicode sentence, then word), and neighbouring units are
    joined while they fit. Offsets are characters of ``document.text``; white space at the edges is left out. Sections that
    follow each other under one path of headings (a paper's paragraphs) are cut as one text.
    """
    from semantic_text_splitter import TextSplitter

    splitter = TextSplitter.from_callback(count_words, max_words)
    for title, start, end in _merged(document):
        for offset, chunk in splitter.chunk_indices(document.text[start:end]):
            lead = len(chunk) - len(chunk.lstrip())
            text = chunk.strip()
            if text:
                yield title, start + offset + lead, start + offset + lead + len(text)


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
