"""QASPER (Dasigi et al., NAACL 2021) in both public schemas.

``qasper``: the release's v0.3 JSON, nested and keyed by paper id. ``qasper_hub``: the rows that the hub serves
(``hf:allenai/qasper@REVISION``, or a local .jsonl of such rows), where lists of objects have become objects of lists.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from uae.corpus.reading import read_json, want
from uae.corpus.records import RawDocument, RawQuestion, Source, Span, join_sections
from uae.errors import InputError

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
        title=paper.get("title") or "",
        abstract=paper.get("abstract") or "",
        sections=[(s.get("section_name") or "", s.get("paragraphs") or []) for s in want(paper, "full_text", list, where)],
        questions=[
            (want(q, "question", str, where), [want(a, "answer", dict, where) for a in want(q, "answers", list, where)])
            for q in want(paper, "qas", list, where)
        ],
        split=None,
        where=where,
    )


def _from_row(row: dict, split: str | None, where: str) -> _Paper:
    full_text, qas = want(row, "full_text", dict, where), want(row, "qas", dict, where)
    return _Paper(
        key=want(row, "id", str, where),
        title=row.get("title") or "",
        abstract=row.get("abstract") or "",
        sections=[(n or "", p or []) for n, p in zip(full_text["section_name"], full_text["paragraphs"], strict=True)],
        questions=[(q, a["answer"]) for q, a in zip(qas["question"], qas["answers"], strict=True)],
        split=split,
        where=where,
    )


def _hub_rows(path: str) -> Iterator[tuple[dict, str | None, str]]:
    import datasets

    try:
        if path.startswith("hf:"):
            name, _, revision = path.removeprefix("hf:").partition("@")
            splits = datasets.load_dataset(name, revision=revision or None)
        else:
            # The file is read by our own reader first: its errors name the line, those of datasets do not.
            from uae.corpus.reading import read_jsonl

            splits = {"": datasets.Dataset.from_list([row for _, row in read_jsonl(Path(path))])}
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{path}: the rows cannot be loaded through datasets: {error}") from error
    for split, rows in splits.items():
        for number, row in enumerate(rows, 1):
            yield row, _SPLITS.get(split), f"{path}, {split} row {number}".replace(",  row", ", row")


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
    for answer in answers:
        for name in _ANSWER_FIELDS:
            if name not in answer:
                raise InputError(f"{paper.where}, question {question[:60]!r}: an answer lacks the field {name!r}")
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
            where=f"{paper.where}, question {question[:60]!r}",
            split=paper.split,
        )
    )


def _answer_text(answer: dict) -> str:
    if answer["extractive_spans"]:
        return ", ".join(span.strip() for span in answer["extractive_spans"])
    if answer["yes_no"] is not None:
        return "Yes" if answer["yes_no"] else "No"
    return (answer["free_form_answer"] or "").strip()
