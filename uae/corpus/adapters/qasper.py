"""QASPER (Dasigi et al., NAACL 2021) in both public schemas.

``qasper``: the release's v0.3 JSON, nested and keyed by paper id. ``qasper_hub``: the rows that the hub serves
(``hf:allenai/qasper@REVISION``, or a local .jsonl of such rows), where lists of objects have become objects of lists.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from uae.corpus.reading import optional, optional_strings, read_json, read_jsonl, want
from uae.corpus.records import RawDocument, RawQuestion, Source, Span, join_sections
from uae.io.errors import InputError

_SPLITS = {"train": "train", "validation": "validation", "dev": "validation", "test": "test"}


_ANSWER_FIELDS = ("unanswerable", "extractive_spans", "yes_no", "free_form_answer", "evidence")


class _Paper(NamedTuple):
    key: str
    title: str
    abstract: str
    sections: list[tuple[str, list[str]]]
    questions: list[tuple[str, list[dict]]]  # text and the annotators' answers
    split: str | None
    where: str


def read(path: str) -> Source:
    papers = read_json(Path(path))
    if not isinstance(papers, dict):
        raise InputError(f"{path}: expected an object keyed by paper id (QASPER v0.3)")
    return _source(_from_release(key, paper, f"{path}, paper {key}") for key, paper in papers.items())


def read_hub(path: str) -> Source:
    return _source(_from_row(row, split, where) for row, split, where in _hub_rows(path))


def _from_release(key: str, paper: dict, where: str) -> _Paper:
    return _Paper(
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


def _from_row(row: dict, split: str | None, where: str) -> _Paper:
    key = want(row, "id", str, where)
    sections = _rows(row, "full_text", ("section_name", "paragraphs"), where)
    questions = _rows(row, "qas", ("question", "answers"), where)
    for question in questions:
        answers = want(question["answers"], "answer", list, f"{where}, question {question['question']!r:.60}")
        question["answers"] = [{"answer": answer} for answer in answers]
    return _from_release(key, row | {"full_text": sections, "qas": questions}, where)._replace(split=split)


def _rows(row: dict, name: str, columns: tuple[str, str], where: str) -> list[dict]:
    """The list of objects that stands in ``row`` as an object of lists."""
    table = want(row, name, dict, where)
    lists = [want(table, column, list, f"{where}, {name}") for column in columns]
    if len(set(map(len, lists))) > 1:
        raise InputError(f"{where}, {name}: the lists {' and '.join(map(repr, columns))} are of unequal length")
    return [dict(zip(columns, values, strict=True)) for values in zip(*lists, strict=True)]


def _section(section: dict, where: str) -> tuple[str, list[str]]:
    return optional(section, "section_name", str, where), optional_strings(section, "paragraphs", where)


def _hub_rows(path: str) -> Iterator[tuple[dict, str | None, str]]:
    if not path.startswith("hf:"):
        # Not through datasets: its errors name no line, and rows of several types are too much for it.
        yield from ((row, None, where) for where, row in read_jsonl(Path(path)))
        return
    import datasets

    name, _, revision = path.removeprefix("hf:").partition("@")
    try:
        splits = datasets.load_dataset(name, revision=revision or None)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{path}: the rows cannot be loaded through datasets: {error}") from error
    for split, rows in splits.items():
        for number, row in enumerate(rows, 1):
            yield row, _SPLITS.get(split), f"{path}, {split} row {number}"


def _source(papers: Iterator[_Paper]) -> Source:
    source = Source()
    seen: dict[str, str] = {}
    for paper in papers:
        if paper.key in seen:
            raise InputError(f"{paper.where}: the paper id {paper.key!r} is used already in {seen[paper.key]}")
        seen[paper.key] = paper.where
        # One part a paragraph, so that an evidence paragraph is found again as exactly one span.
        parts = [("Abstract", paper.abstract)] + [(name, p) for name, paragraphs in paper.sections for p in paragraphs]
        text, sections = join_sections(parts)
        source.documents.append(RawDocument(paper.key, paper.title, text, sections, paper.where))
        spans = {text[s.start : s.end]: Span(paper.key, s.start, s.end) for s in reversed(sections)}
        for question, answers in paper.questions:
            _add_question(source, paper, question, answers, spans)
    return source


def _add_question(source: Source, paper: _Paper, question: str, answers: list[dict], spans: dict[str, Span]) -> None:
    where = f"{paper.where}, question {question[:60]!r}"
    for answer in answers:
        _check(answer, where)
    answerable = [answer for answer in answers if not answer["unanswerable"]]
    texts = [text for answer in answerable if (text := _answer_text(answer))]
    if not texts:
        source.skipped["question marked unanswerable"] += 1
        return
    evidence: dict[Span, None] = {}
    for answer in answerable:
        for paragraph in answer["evidence"]:
            if (span := spans.get(paragraph.strip())) is not None:
                evidence[span] = None
            else:
                kind = "a figure or table" if paragraph.startswith("FLOAT SELECTED") else "not a paragraph of the paper"
                source.skipped[f"evidence that is {kind}"] += 1
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


def _check(answer: dict, where: str) -> None:
    for name in _ANSWER_FIELDS:
        if name not in answer:
            raise InputError(f"{where}: an answer lacks the field {name!r}")
    want(answer, "unanswerable", bool, where)
    want(answer, "evidence", list, where)
    for name in ("evidence", "extractive_spans"):
        optional_strings(answer, name, where)
    optional(answer, "yes_no", bool, where)
    optional(answer, "free_form_answer", str, where)


def _answer_text(answer: dict) -> str:
    if answer["extractive_spans"]:
        return ", ".join(span.strip() for span in answer["extractive_spans"])
    if answer["yes_no"] is not None:
        return "Yes" if answer["yes_no"] else "No"
    return (answer["free_form_answer"] or "").strip()
