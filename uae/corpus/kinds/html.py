"""HTML as the web has it: the title from the head, sections by headings, words as a browser shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from uae.corpus.kinds.front_matter import split_front_matter
from uae.corpus.kinds.outline import Heading, Page, outline

if TYPE_CHECKING:
    from bs4 import BeautifulSoup, Tag
    from bs4.element import NavigableString

_HEADINGS = {"h1", "h2", "h3", "h4", "h5", "h6"}
_BLOCKS = {*_HEADINGS, "p", "li", "td", "th", "pre", "blockquote", "dd", "dt", "figcaption", "figure", "caption", "div", "body"}
_BLOCKS |= {"section", "article", "main", "header", "footer", "aside", "nav", "ul", "ol", "dl", "table", "tr", "form", "address"}
_BLOCKS |= {"details", "summary", "fieldset", "legend", "dialog", "hgroup", "menu", "search", "center", "option", "optgroup"}
_UNREAD = {"script", "style", "noscript", "template"}
_BOXES = ["img", "input", "select", "textarea", "button", "svg", "picture", "video", "audio", "canvas", "iframe", "object"]
# These change how a part of a word looks: what stands on both sides of their edges is one word.
_LETTERING = {"b", "i", "em", "strong", "sub", "sup", "u", "s", "small", "big", "font", "mark", "ins", "del", "strike", "tt"}
_LETTERING |= {"var", "wbr", "bdi", "bdo", "ruby", "rb", "rt", "rp", "rtc", "nobr"}
_VERBATIM = {"pre", "code", "kbd", "samp", "math"}  # where each space counts
_SOFT_HYPHEN = "\u00ad"


def parse(text: str) -> Page:
    from bs4 import BeautifulSoup

    title, text = split_front_matter(text)
    soup = BeautifulSoup(text, "html.parser")
    head_title = _head_title(soup)
    if head_title is not None:
        title = title or " ".join(head_title.get_text().split())
        head_title.decompose()
    _keep_apart(soup)
    parts: list[str] = []
    headings: list[Heading] = []
    end = 0
    for block, content in _blocks(soup):
        start = end + 2 if parts else 0
        end = start + len(content)
        if block in _HEADINGS:
            headings.append(Heading(int(block[1]), content, start, start, end, end))
        parts.append(content)
    return outline(title, "\n\n".join(parts), headings)


def _head_title(soup: BeautifulSoup) -> Tag | None:
    """The page's title. A title in the body belongs to a drawing (SVG). A page may leave out the tags of the head."""
    for title in soup.find_all("title"):
        if all(parent.name in ("head", "html", soup.name) for parent in title.parents):
            return title
    return None


def _keep_apart(soup: BeautifulSoup) -> None:
    """Put white space where a browser shows a gap without any: at line breaks, around boxes, between two links or labels."""
    from bs4 import Tag

    for gap in soup.find_all(["br", "hr"]):
        gap.replace_with("\n")
    for box in soup.find_all(_BOXES):
        box.insert_before(" ")
        box.insert_after(" ")
    for item in soup.find_all(True):
        after = item.next_sibling
        if (
            isinstance(after, Tag)
            and not {item.name, after.name} & _LETTERING
            and not any(parent.name in _VERBATIM for parent in item.parents)
        ):
            item.insert_after(" ")


def _blocks(soup: BeautifulSoup) -> list[tuple[str, str]]:
    """(name of its element, text) of each block that has text, in order."""
    groups: list[tuple[Tag, list[str]]] = []
    for string in soup.find_all(string=True):
        # Exactly this type: comments, declarations and the like are its subclasses.
        if type(string).__name__ != "NavigableString" or any(parent.name in _UNREAD for parent in string.parents):
            continue
        block = _block_of(string, soup)
        if groups and groups[-1][0] is block:
            groups[-1][1].append(string)
        else:
            groups.append((block, [string]))
    blocks = []
    for block, strings in groups:
        text = "".join(strings).replace(_SOFT_HYPHEN, "")
        content = text.strip("\n").rstrip() if block.name == "pre" else " ".join(text.split())
        if content:
            blocks.append((block.name, content))
    return blocks


def _block_of(string: NavigableString, soup: BeautifulSoup) -> Tag:
    """The element whose text it is: a heading or a ``pre`` around it, else the nearest block."""
    nearest: Tag | None = None
    for parent in string.parents:
        if parent.name in _HEADINGS or parent.name == "pre":
            return parent
        if nearest is None and parent.name in _BLOCKS:
            nearest = parent
    return nearest if nearest is not None else soup
