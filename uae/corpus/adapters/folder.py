"""A folder of Markdown, text and HTML files with a questions.jsonl beside them."""

import re
from itertools import pairwise
from pathlib import Path

from uae.corpus.adapters.questions_file import read_questions
from uae.corpus.reading import read_text
from uae.corpus.records import RawDocument, Section, Source, join_sections
from uae.io.errors import InputError

_HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")
_BLOCKS = {*_HEADINGS, "p", "li", "td", "th", "pre", "blockquote", "dd", "dt", "figcaption", "caption", "div", "section", "body"}
_BLOCKS |= {"article", "main", "header", "footer", "aside", "nav", "ul", "ol", "dl", "table", "tr", "form", "address", "details"}
# The first line must be a key: between two rules, a text can stand as well.
_KEY = r"\w[\w-]*[ \t]*:.*\n"
_FRONT_MATTER = re.compile(rf"---[ \t]*\n({_KEY}(?:{_KEY}|[ \t#-].*\n|\n)*?)(?:---|\.\.\.)[ \t]*(?:\n|\Z)")
_FRONT_TITLE = re.compile(r"""^title[ \t]*:[ \t]*(["']?)(\w.*?)\1[ \t]*$""", re.MULTILINE)
_UNREAD = {"script", "style", "noscript", "template", "head"}


def read(path: str) -> Source:
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder" if folder.exists() else f"{folder} does not exist")
    documents: dict[str, RawDocument] = {}
    for file in sorted(folder.rglob("*")):
        key = file.relative_to(folder).as_posix()
        parse = _PARSERS.get(file.suffix.lower())
        if parse is None or file.name == "README.md" or any(part.startswith(".") for part in Path(key).parts):
            continue
        try:
            key.encode()
        except UnicodeEncodeError:
            raise InputError(f"{folder}: the name of the file {key!a} is not UTF-8; rename it") from None
        title, text, sections = parse(read_text(file))
        if not any(text[section.start : section.end].strip() for section in sections):
            raise InputError(f"{file} holds no text: fill it or take it out of the folder")
        documents[key] = RawDocument(key, title or file.stem, text, sections, str(file))
    if not documents:
        raise InputError(f"{folder}: there is no .md, .txt or .html file in it")
    return Source(list(documents.values()), read_questions(folder / "questions.jsonl", documents))


def _markdown(text: str) -> tuple[str, str, tuple[Section, ...]]:
    from markdown_it import MarkdownIt

    front_title = None
    if front := _FRONT_MATTER.match(text):
        text = text[front.end() :]
        front_title = _FRONT_TITLE.search(front[1])
    line_starts = [0]
    for line in text.split("\n"):
        line_starts.append(line_starts[-1] + len(line) + 1)
    tokens = MarkdownIt().parse(text)
    headings = [
        (int(token.tag[1]), tokens[place + 1].content.strip(), *token.map)
        for place, token in enumerate(tokens)
        if token.type == "heading_open" and token.level == 0
    ]
    title = next((name for level, name, _, _ in headings if level == 1), "")
    sections, trail = [], []
    edges = [*headings, (0, "", len(line_starts) - 1, len(line_starts) - 1)]
    if line_starts[edges[0][2]] > 0:
        sections.append(Section("", 0, min(line_starts[edges[0][2]], len(text))))
    for (level, name, _, after), (_, _, before, _) in pairwise(edges):
        trail = [step for step in trail if step[0] < level] + [(level, name)]
        label = " > ".join(step for depth, step in trail if depth > 1)
        sections.append(Section(label, line_starts[after], min(line_starts[before], len(text))))
    return front_title[2] if front_title else title, text, tuple(s for s in sections if text[s.start : s.end].strip())


def _plain(text: str) -> tuple[str, str, tuple[Section, ...]]:
    return "", text, (Section("", 0, len(text)),)


def _html(text: str) -> tuple[str, str, tuple[Section, ...]]:
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(text, "html.parser")
    title = soup.title.get_text(" ", strip=True) if soup.title else ""
    for gap in soup.find_all(["br", "hr"]):
        gap.replace_with("\n")
    blocks: list[tuple[object, list[str]]] = []
    for string in soup.find_all(string=True):
        if type(string).__name__ != "NavigableString" or any(parent.name in _UNREAD for parent in string.parents):
            continue
        block = next((parent for parent in string.parents if parent.name in _BLOCKS), soup)
        if blocks and blocks[-1][0] is block:
            blocks[-1][1].append(string)
        else:
            blocks.append((block, [string]))
    parts, heading = [], ""
    for block, strings in blocks:
        content = " ".join("".join(strings).split())
        if content and block.name in _HEADINGS:
            title, heading = title or content, "" if block.name == "h1" else content
        elif content:
            parts.append((heading, content))
    return title, *join_sections(parts)


_PARSERS = {".md": _markdown, ".markdown": _markdown, ".txt": _plain, ".html": _html, ".htm": _html}
