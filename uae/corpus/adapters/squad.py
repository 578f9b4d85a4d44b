"""SQuAD-format JSON: SQuAD 1.1 and 2.0, COVID-QA, NewsQA conversions. An article is a document, its paragraphs are sections."""

from pathlib import Path
from typing import Any, NamedTuple

from uae.corpus.reading import find_quote, optional, read_json, want
from uae.corpus.records import RawDocument, RawQuestion, Section, Source, Span
from uae.io.errors import InputError
from uae.io.files import sha256_bytes


class Asked(NamedTuple):
    text: str
    answers: list[tuple[str, int]]  # words, and where they begin in the context, in characters
    where: str


class Paragraph(NamedTuple):
    context: str
    questions: list[Asked]


class Article(NamedTuple):
    title: str
    paragraphs: list[Paragraph]
    split: str | None
    where: str


def read(path: str) -> Source:
    data = read_json(Path(path))
    if not isinstance(data, dict) or "data" not in data:
        hint = "; for rows as the hub serves them, take the format squad_hub" if _like_rows(data) else ""
        raise InputError(f"{path}: expected an object with a list 'data' (SQuAD format){hint}")
    source = Source()
    articles = [
        _article(article, f"{path}, article {number}", source)
        for number, article in enumerate(want(data, "data", list, str(path)), 1)
    ]
    add_articles(source, articles)
    return source


def add_articles(source: Source, articles: list[Article]) -> None:
    """Add a document for each article, with its questions.

    A context that stands twice in an article is one paragraph, and articles with the same paragraphs are one document: the
    questions of both are kept.
    """
    known: dict[tuple[str, str | None], RawDocument] = {}
    texts: set[str] = set()
    for article in articles:
        contexts = list(dict.fromkeys(paragraph.context for paragraph in article.paragraphs if paragraph.context.strip()))
        if len(contexts) < len(article.paragraphs):
            _count_missing(source, article)
        if not contexts:
            source.empty[article.where] = article.where
            continue
        text, sections = _joined(contexts)
        if (text, article.split) not in known:
            # Titles repeat, and a number would change with the order of articles.
            key = f"{article.title or 'article'}#{sha256_bytes(text)[:8]}"
            if text in texts:
                key = f"{key} ({article.split})"
            texts.add(text)
            known[text, article.split] = RawDocument(key, article.title or _first_line(text), text, sections, article.where)
        else:
            source.skipped.add("article with the paragraphs of an earlier one, which has its questions", article.where)
        document = known[text, article.split]
        places = dict(zip(contexts, document.sections, strict=True))
        for paragraph in article.paragraphs:
            if paragraph.context in places:
                section = places[paragraph.context]
                source.questions += [_question(asked, document, section, article.split) for asked in paragraph.questions]
    source.documents += known.values()


def _first_line(text: str) -> str:
    """The first of several lines: a paper's title. A single line is all of the text, and no title of it."""
    first, more, _ = text.strip().partition("\n")
    return first[:200] if more else ""


def _like_rows(data: Any) -> bool:
    row = data[0] if isinstance(data, list) and data else data
    return isinstance(row, dict) and {"context", "question"} <= set(row)


def _article(article: Any, where: str, source: Source) -> Article:
    title, paragraphs = optional(article, "title", str, where), []
    for place, paragraph in enumerate(want(article, "paragraphs", list, where), 1):
        context = want(paragraph, "context", str, f"{where}, paragraph {place}", blank=True)
        asked = [_asked(qa, where, source) for qa in want(paragraph, "qas", list, where)]
        paragraphs.append(Paragraph(context, [each for each in asked if each is not None]))
    return Article(title, paragraphs, None, where)


def _asked(qa: Any, where: str, source: Source) -> Asked | None:
    where = f"{where}, question {qa.get('id', '?') if isinstance(qa, dict) else '?'}"
    question = want(qa, "question", str, where, blank=True).strip()
    if qa.get("is_impossible"):
        source.skipped.add("question marked impossible" if question else "blank question marked impossible", where)
        return None
    if not question:
        raise InputError(f"{where}: the field 'question' is empty")
    answers = [
        (want(answer, "text", str, where), want(answer, "answer_start", int, where))
        for answer in optional(qa, "answers", list, where)
    ]
    return Asked(question, answers, where)


def _count_missing(source: Source, article: Article) -> None:
    seen: set[str] = set()
    for place, paragraph in enumerate(article.paragraphs, 1):
        where = f"{article.where}, paragraph {place}"
        if not paragraph.context.strip():
            source.skipped.add("paragraph without text", where)
            for asked in paragraph.questions:
                source.skipped.add("question about a document without text", asked.where)
        elif paragraph.context in seen:
            source.skipped.add("paragraph with the text of an earlier one, which has its questions", where)
        seen.add(paragraph.context)


def _joined(contexts: list[str]) -> tuple[str, tuple[Section, ...]]:
    """Contexts as they are, for answers are places in them, with a blank line between them."""
    text, sections = "", []
    for context in contexts:
        start = len(text) + 2 if text else 0
        text = f"{text}\n\n{context}" if text else context
        sections.append(Section("", start, start + len(context)))
    return text, tuple(sections)


def _question(asked: Asked, document: RawDocument, section: Section, split: str | None) -> RawQuestion:
    answers: dict[str, None] = {}
    evidence: dict[Span, None] = {}
    for words, start in asked.answers:
        # Published files hold offsets that are off by a few characters: the nearest occurrence is the one meant.
        span = find_quote(document.text[section.start : section.end], words, near=start)
        if span is None:
            raise InputError(f"{asked.where}: the answer {words[:60]!r} is not in its context")
        answers[words.strip()] = None
        evidence[Span(document.key, section.start + span[0], section.start + span[1])] = None
    return RawQuestion(asked.text, tuple(answers), document.key, tuple(evidence), asked.where, split)
