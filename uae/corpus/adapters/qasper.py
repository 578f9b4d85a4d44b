"""QASPER (Dasigi et al., NAACL 2021) as it was released: the v0.3 JSON, nested and keyed by paper id."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from uae.corpus.reading import optional, optional_strings, read_json, want
from uae.corpus.records import RawDocument, RawQuestion, Source, Span, join_sections
from uae.io.errors import InputError

_ANSWER_FIELDS = ("unanswerable", "extractive_spans", "yes_no", "free_form_answer", "evidence")
_STEPS = ":::"  # between the names of a section and those above it


class Paper(NamedTuple):
    key: str
    title: str
    abstract: str
    sections: list[tuple[str, list[str]]]
    questions: list[tuple[str, list[dict[str, Any]]]]  # text and the annotators' answers
    split: str | None
    where: str


def read(path: str) -> Source:
    papers = read_json(Path(path))
    if not isinstance(papers, dict):
        raise InputError(f"{path}: expected an object keyed by paper id (QASPER v0.3)")
    return source_of(paper_of(key, paper, f"{path}, paper {key}") for key, paper in papers.items())


def paper_of(key: str, paper: Any, where: str) -> Paper:
    """A paper from its object in the release.

    Raises:
        InputError: a field is missing or of another type.
    """
    return Paper(
        key=key,
        title=optional(paper, "title", str, where),
        abstract=optional(paper, "abstract", str, where),
        sections=[
            _section(section, f"{where}, section {number}")
            for number, section in enumerate(want(paper, "full_text", list, where), 1)
        ],
        questions=[
            (want(q, "question", str, where), [want(a, "answer", dict, where) for a in want(q, "answers", list, where)])
            for q in want(paper, "qas", list, where)
        ],
        split=None,
        where=where,
    )


def _section(section: Any, where: str) -> tuple[str, list[str]]:
    return optional(section, "section_name", str, where), optional_strings(section, "paragraphs", where)


def source_of(papers: Iterable[Paper]) -> Source:
    """Documents and questions of the papers. Questions of a paper without text are left out with it."""
    source = Source()
    seen: dict[str, str] = {}
    for paper in papers:
        if paper.key in seen:
            raise InputError(f"{paper.where}: the paper id {paper.key!r} is used already in {seen[paper.key]}")
        seen[paper.key] = paper.where
        # One part a paragraph, so that an evidence paragraph is found again as exactly one span.
        parts: list[tuple[tuple[str, ...], str]] = [(("Abstract",), paper.abstract)] if paper.abstract.strip() else []
        for name, paragraphs in paper.sections:
            headings = tuple(step.strip() for step in name.split(_STEPS) if step.strip())
            parts += [(headings, paragraph) for paragraph in paragraphs] or [(headings, "")]
        text, sections = join_sections(parts)
        if not sections:
            source.empty[paper.key] = paper.where
            for question, _ in paper.questions:
                source.skipped.add("question about a document without text", f"{paper.where}, question {question[:60]!r}")
            continue
        source.documents.append(RawDocument(paper.key, paper.title, text, sections, paper.where))
        spans = {text[s.start : s.end]: Span(paper.key, s.start, s.end) for s in reversed(sections)}
        for question, answers in paper.questions:
            _add_question(source, paper, question, answers, spans)
    return source


def _add_question(source: Source, paper: Paper, question: str, answers: list[dict[str, Any]], spans: dict[str, Span]) -> None:
    where = f"{paper.where}, question {question[:60]!r}"
    for answer in answers:
        _check(answer, where)
    answerable = [answer for answer in answers if not answer["unanswerable"]]
    texts = [text for answer in answerable if (text := _answer_text(answer))]
    if not texts:
        source.skipped.add("question marked unanswerable", where)
        return
    evidence: dict[Span, None] = {}
    for answer in answerable:
        for paragraph in answer["evidence"]:
            if (span := spans.get(paragraph.strip())) is not None:
                evidence[span] = None
            else:
                kind = "a figure or table" if paragraph.startswith("FLOAT SELECTED") else "not a paragraph of the paper"
                source.skipped.add(f"evidence that is {kind}", where)
    source.questions.append(
        RawQuestion(
            text=question.strip(),
            answers=tuple(dict.fromkeys(texts)),
            document=paper.key,
            evidence=tuple(evidence),
            where=where,
            split=paper.split,
        )
    )


def _check(answer: dict[str, Any], where: str) -> None:
    for name in _ANSWER_FIELDS:
        if name not in answer:
            raise InputError(f"{where}: an answer lacks the field {name!r}")
    want(answer, "unanswerable", bool, where)
    want(answer, "evidence", list, where)
    for name in ("evidence", "extractive_spans"):
        optional_strings(answer, name, where)
    optional(answer, "yes_no", bool, where)
    optional(answer, "free_form_answer", str, where)


def _answer_text(answer: dict[str, Any]) -> str:
    if answer["extractive_spans"]:
        return ", ".join(span.strip() for span in answer["extractive_spans"])
    if answer["yes_no"] is not None:
        return "Yes" if answer["yes_no"] else "No"
    return (answer["free_form_answer"] or "").strip()
