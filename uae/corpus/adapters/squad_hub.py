"""SQuAD as the hub serves it (``hf:rajpurkar/squad@REVISION``, or a local .jsonl of such rows).

A row is a question with its context: ``{"title", "context", "question", "answers": {"text": [...], "answer_start": [...]}}``.
Some exports write the two lists as the columns ``answers.text`` and ``answers.answer_start``. The contexts of one title, in the
order of the rows, are a document's paragraphs. Where rows have no title, each context is a document. A row without answers is
what SQuAD 2.0 calls impossible.
"""

from typing import Any

from uae.corpus.adapters.squad import Article, Asked, Paragraph, add_articles
from uae.corpus.hub import hub_rows
from uae.corpus.reading import optional, optional_strings, want
from uae.corpus.records import Source
from uae.io.errors import InputError


def read(path: str) -> Source:
    source = Source()
    articles: dict[tuple[str | None, str], Article] = {}
    paragraphs: dict[tuple[str | None, str, str], Paragraph] = {}
    for row, split, where in hub_rows(path):
        title, context = optional(row, "title", str, where), want(row, "context", str, where, blank=True)
        name = title or f"context {context}"
        article = articles.setdefault((split, name), Article(title, [], split, where))
        if (split, name, context) not in paragraphs:
            paragraphs[split, name, context] = Paragraph(context, [])
            article.paragraphs.append(paragraphs[split, name, context])
        if asked := _asked(row, where, source):
            paragraphs[split, name, context].questions.append(asked)
    add_articles(source, list(articles.values()))
    return source


def _asked(row: dict[str, Any], where: str, source: Source) -> Asked | None:
    question, answers = want(row, "question", str, where, blank=True).strip(), _answers(row, where)
    if not answers:
        reason = "question without an answer (impossible in SQuAD 2.0)" if question else "blank question without an answer"
        source.skipped.add(reason, where)
        return None
    if not question:
        raise InputError(f"{where}: the field 'question' is empty")
    return Asked(question, answers, where)


def _answers(row: dict[str, Any], where: str) -> list[tuple[str, int]]:
    given = row if "answers.text" in row else optional(row, "answers", dict, where)
    prefix = "answers." if given is row else ""
    texts = optional_strings(given, f"{prefix}text", where)
    starts: list[Any] = optional(given, f"{prefix}answer_start", list, where)
    if len(texts) != len(starts):
        raise InputError(f"{where}: the lists 'text' and 'answer_start' of the answers are of unequal length")
    if not all(isinstance(start, int) and not isinstance(start, bool) for start in starts):
        raise InputError(f"{where}: 'answer_start' must be a list of whole numbers")
    if any(not text.strip() for text in texts):
        raise InputError(f"{where}: one of the answers is empty")
    return list(zip(texts, starts, strict=True))
