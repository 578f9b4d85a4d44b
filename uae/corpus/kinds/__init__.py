"""The kinds of files that the folder format reads, one a file. A new kind is one new file and one line here."""

from collections.abc import Callable

from uae.corpus.kinds import html, markdown, plain
from uae.corpus.kinds.outline import Page

KINDS: dict[str, Callable[[str], Page]] = {
    ".md": markdown.parse,
    ".markdown": markdown.parse,
    ".txt": plain.parse,
    ".html": html.parse,
    ".htm": html.parse,
}
