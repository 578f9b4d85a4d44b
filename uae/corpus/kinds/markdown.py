"""Markdown (CommonMark): sections by headings, the title from front matter or the first h1."""

from uae.corpus.kinds.front_matter import split_front_matter
from uae.corpus.kinds.outline import Heading, Page, outline


def parse(text: str) -> Page:
    from markdown_it import MarkdownIt

    title, text = split_front_matter(text)
    lines = [0]  # where each line begins
    for line in text.split("\n"):
        lines.append(lines[-1] + len(line) + 1)
    tokens = MarkdownIt().parse(text)
    headings = []
    for place, token in enumerate(tokens):
        if token.type == "heading_open" and token.level == 0 and token.map:  # those in quotes and lists are text
            name = tokens[place + 1].content.strip()
            start, body = lines[token.map[0]], min(lines[token.map[1]], len(text))
            words = text.find(name, start, body)  # -1 where its lines are indented: then the heading keeps its marks
            words, end = (words, words + len(name)) if words >= 0 else (start, body)
            headings.append(Heading(int(token.tag[1]), name, start, words, end, body))
    return outline(title, text, headings)
