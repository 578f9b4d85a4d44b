"""The ingest stage: read a source, give everything an id that outlives edits, cut passages, map evidence to them, assign splits.

A document's id is the ledger's, so it stays when the document is edited, renamed or moved. A passage's id is of its document and
of the text that it holds, so it stays when other parts of the document change. A question's is of its document and its words.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from uae.corpus.accounting import account, refuse_empty
from uae.corpus.chunking import cut
from uae.corpus.documents import metadata_json
from uae.corpus.ledger import DOCUMENT, DRAWN, QUESTION, Ledger
from uae.corpus.records import RawDocument, RawDocuments, RawQuestion, Source
from uae.corpus.repeated_questions import RepeatedQuestions, RepeatRule, told
from uae.corpus.source import read_source
from uae.corpus.splits import SPLITS
from uae.corpus.watch import Watch
from uae.io.errors import InputError
from uae.io.files import sha256_bytes, write_json
from uae.io.tables import DOCUMENTS, PASSAGES, QUESTIONS, write_table
from uae.text.words import count_words

Row = dict[str, Any]  # of a table


def ingest(
    path: str,
    format: str,
    documents_path: Path,
    passages_path: Path,
    questions_path: Path,
    ledger_path: Path,
    report_path: Path,
    max_documents: int | None,
    passage_words: int,
    split: dict[str, float],
    seed: int,
    repeated: RepeatRule,
    skip_empty: bool = False,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Read ``path`` as ``format`` and write the three tables and a report of what was read and what was left out.

    Args:
        format: a name in ``adapters.ADAPTERS``.
        ledger_path: of the splits that were ever decided; it is brought up to date.
        passage_words: the most words of a passage.
        split: the shares of train, validation and test, for what neither the source nor the ledger puts in a split.
        repeated: what becomes of a question that stands in two splits. Where it is kept, validation stops the run.
        skip_empty: leave out documents without text, and count them; else they are an error that names them all.
        watch: the same source as it was read before. Where much of it is gone, a person has to confirm that. None: it lies on
            this machine, and is compared with nothing.

    Returns:
        Counts for people to read.

    Raises:
        InputError: the source is not what it claims to be, or lost more than it may; nothing is written then.
        ArtefactError: the ledger is damaged, or a store does not answer.
    """
    now = watch.look() if watch else None  # before it is read: what changes meanwhile is new to the next look
    ledger = Ledger.read(ledger_path, documents_path, questions_path, split, seed)
    source = read_source(path, format, watch.mirror if watch else None)
    refuse_empty(source, skip_empty)
    if watch:
        watch.refuse_loss(source.documents, documents_path, now)
    _refuse_repeated_keys(source.documents)
    # Keys that are in memory anyway, not those of the documents as they are read again.
    ids = ledger.documents(zip(source.documents.keys(), (raw.text for raw in source.documents), strict=True))
    corpus = _Corpus(source.documents, _chosen(source, ids, max_documents), passage_words)
    if not any(map(corpus.passages, corpus.ids)):
        raise InputError(f"{path}: the source holds no text")
    questions, merged = _questions(source, corpus)
    _split(questions, ledger)
    if source.lacks_validation:
        _draw_validation(questions, corpus.document_of, split, ledger)
    questions, dropped = _in_one_split(questions, corpus, repeated, source)
    questions.sort(key=lambda row: row["question_id"])
    ledger.write(ledger_path)  # before what follows from it: a run that is killed in between decides nothing anew
    decided = ledger.decisions()
    del ledger, ids  # hundreds of bytes of each document, which nobody asks for any more
    write_table(documents_path, DOCUMENTS, corpus.document_rows())
    write_table(passages_path, PASSAGES, corpus.passage_rows())
    write_table(questions_path, QUESTIONS, questions)
    counts = _counts(source, corpus, questions) | {
        "repeated_questions_merged": merged,
        "repeated_questions_dropped": {name: sum(row["split"] == name for row in dropped) for name in ("train", "validation")},
        "splits_decided_by": decided,
    }
    if watch:
        watch.write(now)
    read = {
        "path": path,
        "format": format,
        "version": now.version if now else None,
        "objects": len(now.contents) if now else None,
    }
    write_json(report_path, account(source, counts) | {"source": read, "dropped_questions": dropped})
    return counts


class _Corpus:
    """The chosen documents and their passages. They are cut whenever they are asked for: no text is kept.

    Attributes:
        ids: source key -> doc_id.
        document_of: passage_id of evidence -> source key, of what ``evidence`` was asked for.
        written, words: how many passages ``passage_rows`` gave, and how many words they hold.
    """

    def __init__(self, documents: RawDocuments, ids: dict[str, str], passage_words: int):
        self.ids = ids
        self.document_of: dict[str, str] = {}
        self.written, self.words = 0, 0
        self._documents = documents
        # Questions about one document mostly stand together.
        self.passages = lru_cache(maxsize=16)(lambda key: _passages(ids[key], documents.of(key), passage_words))

    def evidence(self, key: str, start: int, end: int) -> list[str]:
        """The passages of a document that overlap a span of it."""
        found = [row["passage_id"] for row in self.passages(key) if row["start"] < end and start < row["end"]]
        self.document_of.update(dict.fromkeys(found, key))
        return found

    def evidence_rows(self) -> Iterator[Row]:
        """The passages of ``document_of``."""
        for key in dict.fromkeys(self.document_of.values()):
            yield from (row for row in self.passages(key) if row["passage_id"] in self.document_of)

    def document_rows(self) -> Iterator[Row]:
        return (_document_row(self.ids[key], self._documents.of(key)) for key in self._by_id())

    def passage_rows(self) -> Iterator[Row]:
        for key in self._by_id():
            for row in self.passages(key):
                self.written += 1
                self.words += count_words(row["text"])
                yield row

    def _by_id(self) -> list[str]:
        return sorted(self.ids, key=self.ids.__getitem__)


def _counts(source: Source, corpus: _Corpus, questions: list[Row]) -> dict[str, Any]:
    return {
        "documents": len(corpus.ids),
        "passages": corpus.written,
        "words_per_passage": round(corpus.words / corpus.written, 1),
        "questions": len(questions),
        "questions_by_split": {name: sum(q["split"] == name for q in questions) for name in SPLITS},
        "questions_without_evidence": sum(not q["evidence"] for q in questions),
        "files": dict(sorted(source.files.items())),
        "skipped": {reason: count for reason, count in sorted(source.skipped.items()) if count},
    }


def _refuse_repeated_keys(documents: RawDocuments) -> None:
    """
    Raises:
        InputError: two documents have one key.
    """
    if (repeated := documents.twice()) is None:
        return
    other, raw = repeated
    same = (raw.title, raw.version, raw.text) == (other.title, other.version, other.text)
    said = (
        f"is the same as {other.where}; remove one"
        if same
        else f"has the id of {other.where}; give each its own id, or remove one"
    )
    raise InputError(f"{raw.where}: this document {said} of them")


def _chosen(source: Source, ids: dict[str, str], limit: int | None) -> dict[str, str]:
    """``ids`` of at most ``limit`` documents, those with questions first.

    Args:
        ids: source key -> doc_id.
    """
    if not source.documents:
        raise InputError("the source holds no documents")
    if limit is None:
        return ids
    asked = {question.document for question in source.questions}
    asked |= {span.document for question in source.questions for span in question.evidence}
    return {key: ids[key] for key in sorted(ids, key=lambda key: (key not in asked, ids[key]))[:limit]}


def _document_row(doc_id: str, raw: RawDocument) -> Row:
    return {
        "doc_id": doc_id,
        "source": raw.key,
        "title": raw.title,
        "version": raw.version,
        "text": raw.text,
        "sections": [section._asdict() for section in raw.sections],
        "metadata": metadata_json(raw),
    }


def _passages(doc_id: str, raw: RawDocument, words: int) -> list[Row]:
    rows = []
    seen: Counter[tuple[str, str]] = Counter()
    for position, (section, start, end) in enumerate(cut(raw, words)):
        text = raw.text[start:end]
        number = seen[section, text]  # of the equal ones before it
        seen[section, text] += 1
        passage_id = sha256_bytes(doc_id, section, text, *([str(number)] if number else []))[:24]
        rows.append(
            {"passage_id": passage_id, "doc_id": doc_id, "title": raw.title, "source": raw.key, "position": position}
            | {"section": section, "start": start, "end": end, "text": text}
        )
    return rows


def _questions(source: Source, corpus: _Corpus) -> tuple[list[Row], int]:
    """Question rows, the same question about the same document merged into one with all its answers.

    One that the source puts into two splits stays in both. Where it names the split only once, that counts for all copies.
    """
    read = []
    for raw in source.questions:
        if raw.document is not None and raw.document not in corpus.ids:
            continue  # beyond max_documents
        if any(span.document not in corpus.ids for span in raw.evidence):
            source.skipped.add("question whose evidence lies beyond max_documents", raw.where)
            continue
        read.append(_question_row(raw, corpus))
    given: dict[str, str] = {}
    for row in read:
        if row["split"]:
            given.setdefault(row["question_id"], row["split"])
    rows: dict[tuple[str, str | None], Row] = {}
    for row in read:
        row["split"] = row["split"] or given.get(row["question_id"])
        known = rows.setdefault((row["question_id"], row["split"]), row)
        if known is not row:
            for field in ("answers", "evidence"):
                known[field] = list(dict.fromkeys(known[field] + row[field]))
    return list(rows.values()), len(read) - len(rows)


def _question_row(raw: RawQuestion, corpus: _Corpus) -> Row:
    doc_id = corpus.ids[raw.document] if raw.document is not None else ""
    evidence = dict.fromkeys(passage_id for span in raw.evidence for passage_id in corpus.evidence(*span))
    return {
        "question_id": sha256_bytes(doc_id, raw.text)[:24],
        "text": raw.text,
        "answers": list(raw.answers),
        "doc_id": doc_id,
        "evidence": list(evidence),
        "split": raw.split,
        "origin": raw.origin,
        "source": raw.where,
    }


def _in_one_split(
    questions: list[Row], corpus: _Corpus, rule: RepeatRule, source: Source
) -> tuple[list[Row], list[dict[str, Any]]]:
    """The questions without the copies that are given up, and those: what ``RepeatedQuestions.shown`` says of each, and
    ``kept``, the same of the question that it repeats.

    Raises:
        InputError: copies are not to be given up, and one question (the same words, the same document) stands in two splits.
            No table can hold both, so validation cannot be left to say it. All questions of two splits are named.
    """
    one_id_each = len({row["question_id"] for row in questions}) == len(questions)
    if one_id_each and not rule.drop:
        return questions, []
    evidence = _table(corpus.evidence_rows(), PASSAGES)
    known = RepeatedQuestions(_table(questions, QUESTIONS), evidence, rule.scope, rule.near_duplicate)
    if not rule.drop:
        if not known.alike:  # questions without a word, which validation refuses
            return questions, []
        raise InputError(
            "the source has questions in two splits. Remove all copies but those of one split, or leave out the copies in train "
            f"and validation by ingest.repeated_questions=drop_training_copy:\n{told(known.listed())}"
        )
    copies = known.copies()
    for place in copies:
        split = known.splits[place]
        source.skipped.add(f"{split} question that repeats one of a later split", known.rows[place]["source"])
    dropped = [known.shown(place) | {"kept": known.shown(kept)} for place, kept in sorted(copies.items())]
    return [row for place, row in enumerate(known.rows) if place not in copies], dropped


def _table(rows: Iterable[Row], schema: pa.Schema) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=schema.names)


def _split(questions: list[Row], ledger: Ledger) -> None:
    """Fill in the splits that the source does not name, by document, so that no document is in two of them."""
    of_documents = [(question, question["doc_id"]) for question in questions if question["doc_id"]]
    alone = [(question, ledger.unit(QUESTION, question["text"])) for question in questions if not question["doc_id"]]
    for kind, units in ((DOCUMENT, of_documents), (QUESTION, alone)):
        named: dict[str, set[str]] = defaultdict(set)
        for question, id in units:
            if question["split"]:
                named[id].add(question["split"])
        ledger.given(kind, named)
        ledger.fill(kind, {id for _, id in units})
        for question, id in units:
            question["split"] = question["split"] or ledger.split(kind, id)


def _draw_validation(questions: list[Row], sources: Mapping[str, str], fractions: Mapping[str, float], ledger: Ledger) -> None:
    """Move train questions to validation, as many as the two fractions ask for; those with the same first evidence together.

    Args:
        sources: passage_id -> source key.
    """
    both = fractions["train"] + fractions["validation"]
    if not both:
        return
    shares = {"train": fractions["train"] / both, "validation": fractions["validation"] / both, "test": 0.0}
    train = [question for question in questions if question["split"] == "train"]
    names = [sources[question["evidence"][0]] if question["evidence"] else question["text"] for question in train]
    ids = [ledger.unit(DRAWN, name, shares) for name in names]
    ledger.fill(DRAWN, set(ids), shares)
    for question, id in zip(train, ids, strict=True):
        question["split"] = ledger.split(DRAWN, id)
