"""SQuAD-format JSON: SQuAD 1.1 and 2.0, COVID-QA, NewsQA conversions. An article is a document, its paragraphs are sections."""

from pathlib import Path

from uae.corpus.reading import find_quote, optional, read_json, want
from uae.corpus.records import RawDocument, RawQuestion, Source, Span
from uae.corpus.records import Section as Part
from uae.io.errors import InputError
from uae.io.files import sha256_bytes


def read(path: str) -> Source:
    data = read_json(Path(path))
    if not isinstance(data, dict):
        raise InputError(f"{path}: expected an object with a list 'data' (SQuAD format)")
    source = Source()
    for number, article in enumerate(want(data, "data", list, str(path)), 1):
        where = f"{path}, article {number}"
        paragraphs = want(article, "paragraphs", list, where)
        title = optional(article, "title", str, where)
        text, sections = "", []
        for place, paragraph in enumerate(paragraphs, 1):
            context = want(paragraph, "context", str, f"{where}, paragraph {place}")
            start = len(text) + 2 if text else 0
            text = f"{text}\n\n{context}" if text else context
            sections.append(Part("", start, start + len(context)))
        key = f"{title or 'article'}#{sha256_bytes(text)[:8]}"  # titles repeat, and a number would change with the order
        source.documents.append(RawDocument(key, title or _first_line(text), text, tuple(sections), where))
        for section, paragraph in zip(sections, paragraphs, strict=True):
            for qa in want(paragraph, "qas", list, where):
                _add_question(source, qa, key, text, section, where)
    return source


def _add_question(source: Source, qa: dict, key: str, text: str, section: Part, where: str) -> None:
    where = f"{where}, question {qa.get('id', '?') if isinstance(qa, dict) else '?'}"
    question = want(qa, "question", str, where).strip()
    if qa.get("is_impossible"):
        source.skipped["question marked impossible"] += 1
        return
    answers, evidence = {}, {}
    for answer in optional(qa, "answers", list, where):
        words = want(answer, "text", str, where)
        start = section.start + want(answer, "answer_start", int, where)
        # Published files hold offsets that are off by a few characters: the nearest occurrence is the one meant.
        span = find_quote(text[section.start : section.end], words, near=start - section.start)
        if span is None:
            raise InputError(f"{where}: the answer {words[:60]!r} is not in its context")
        answers[words.strip()] = None
        evidence[Span(key, section.start + span[0], section.start + span[1])] = None
    source.questions.append(RawQuestion(question, tuple(answers), key, tuple(evidence), where))


def _first_line(text: str) -> str:
    return text.lstrip().split("\n", 1)[0][:200]
