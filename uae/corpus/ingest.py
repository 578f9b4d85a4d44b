"""The ingest stage: read a source, give everything an id that outlives edits, cut passages, map evidence to them, assign splits.

A document's id is the ledger's, so it stays when the document is edited, renamed or moved. A passage's id is of its document and
of the text that it holds, so it stays when other parts of the document change. A question's is of its document and its words.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from uae.corpus.accounting import account, refuse_empty
from uae.corpus.chunking import cut
from uae.corpus.ledger import DOCUMENT, DRAWN, QUESTION, Ledger
from uae.corpus.records import RawDocument, RawQuestion, Source
from uae.corpus.repeated_questions import RepeatedQuestions, RepeatRule, told
from uae.corpus.source import read_source
from uae.corpus.splits import SPLITS
from uae.corpus.watch import Watch
from uae.io.errors import InputError
from uae.io.files import sha256_bytes, write_json
from uae.io.tables import DOCUMENTS, PASSAGES, QUESTIONS, write_table
from uae.text.words import count_words

Row = dict[str, Any]  # of a table
Documents = dict[str, tuple[str, RawDocument]]  # key -> (doc_id, document)


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
    ids = ledger.documents(_texts(source.documents))
    documents = _documents(source, ids, max_documents)
    passages = {key: _passages(doc_id, raw, passage_words) for key, (doc_id, raw) in documents.items()}
    if not any(passages.values()):
        raise InputError(f"{path}: the source holds no text")
    questions, merged = _questions(source, documents, passages)
    _split(questions, ledger)
    if source.lacks_validation:
        sources = {row["passage_id"]: row["source"] for group in passages.values() for row in group}
        _draw_validation(questions, sources, split, ledger)
    all_passages = [row for group in passages.values() for row in group]
    questions, dropped = _in_one_split(questions, all_passages, repeated, source)
    rows = sorted((_document_row(doc_id, raw) for doc_id, raw in documents.values()), key=lambda row: row["doc_id"])
    flat = sorted(all_passages, key=lambda r: (r["doc_id"], r["position"]))
    questions.sort(key=lambda row: row["question_id"])
    counts = _counts(source, rows, flat, questions) | {
        "repeated_questions_merged": merged,
        "repeated_questions_dropped": {name: sum(row["split"] == name for row in dropped) for name in ("train", "validation")},
        "splits_decided_by": ledger.decisions(),
    }
    ledger.write(ledger_path)  # before what follows from it: a run that is killed in between decides nothing anew
    write_table(documents_path, DOCUMENTS, rows)
    write_table(passages_path, PASSAGES, flat)
    write_table(questions_path, QUESTIONS, questions)
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


def _counts(source: Source, documents: list[Row], passages: list[Row], questions: list[Row]) -> dict[str, Any]:
    words = [count_words(row["text"]) for row in passages]
    return {
        "documents": len(documents),
        "passages": len(passages),
        "words_per_passage": round(sum(words) / len(words), 1),
        "questions": len(questions),
        "questions_by_split": {name: sum(q["split"] == name for q in questions) for name in SPLITS},
        "questions_without_evidence": sum(not q["evidence"] for q in questions),
        "files": dict(sorted(source.files.items())),
        "skipped": {reason: count for reason, count in sorted(source.skipped.items()) if count},
    }


def _texts(documents: Iterable[RawDocument]) -> dict[str, str]:
    """source key -> text.

    Raises:
        InputError: two documents have one key.
    """
    by_key: dict[str, RawDocument] = {}
    for raw in documents:
        if raw.key in by_key:
            other = by_key[raw.key]
            same = (raw.title, raw.version, raw.text) == (other.title, other.version, other.text)
            said = (
                f"is the same as {other.where}; remove one"
                if same
                else f"has the id of {other.where}; give each its own id, or remove one"
            )
            raise InputError(f"{raw.where}: this document {said} of them")
        by_key[raw.key] = raw
    return {key: raw.text for key, raw in by_key.items()}


def _documents(source: Source, ids: Mapping[str, str], limit: int | None) -> Documents:
    """At most ``limit`` documents, those with questions first.

    Args:
        ids: source key -> doc_id.
    """
    if not source.documents:
        raise InputError("the source holds no documents")
    asked = {question.document for question in source.questions}
    asked |= {span.document for question in source.questions for span in question.evidence}
    order = sorted(source.documents, key=lambda raw: (raw.key not in asked, ids[raw.key]))[:limit]
    return {raw.key: (ids[raw.key], raw) for raw in order}


def _document_row(doc_id: str, raw: RawDocument) -> Row:
    return {
        "doc_id": doc_id,
        "source": raw.key,
        "title": raw.title,
        "version": raw.version,
        "text": raw.text,
        "sections": [section._asdict() for section in raw.sections],
        "metadata": _metadata(raw),
    }


def _metadata(raw: RawDocument) -> str:
    try:
        return json.dumps(raw.metadata, sort_keys=True, ensure_ascii=False, allow_nan=False)
    except RecursionError:
        raise InputError(f"{raw.where}: the metadata of document {raw.key!r} are nested too deep") from None
    except ValueError:
        field = next(name for name, value in raw.metadata.items() if not _is_finite(value))
        raise InputError(
            f"{raw.where}: in the metadata of document {raw.key!r} the field {field!r} holds NaN or Infinity, which is no JSON; "
            "leave it out or write null"
        ) from None


def _is_finite(value: object) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True


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


def _questions(source: Source, documents: Documents, passages: dict[str, list[Row]]) -> tuple[list[Row], int]:
    """Question rows, the same question about the same document merged into one with all its answers.

    One that the source puts into two splits stays in both. Where it names the split only once, that counts for all copies.
    """
    read = []
    for raw in source.questions:
        if raw.document is not None and raw.document not in documents:
            continue  # beyond max_documents
        if any(span.document not in documents for span in raw.evidence):
            source.skipped.add("question whose evidence lies beyond max_documents", raw.where)
            continue
        read.append(_question_row(raw, documents, passages))
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


def _question_row(raw: RawQuestion, documents: Documents, passages: dict[str, list[Row]]) -> Row:
    doc_id = documents[raw.document][0] if raw.document is not None else ""
    evidence: dict[str, None] = {}
    for span in raw.evidence:
        for passage in passages[span.document]:
            if passage["start"] < span.end and span.start < passage["end"]:
                evidence[passage["passage_id"]] = None
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
    questions: list[Row], passages: list[Row], rule: RepeatRule, source: Source
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
    known = RepeatedQuestions(_table(questions, QUESTIONS), _table(passages, PASSAGES), rule.scope, rule.near_duplicate)
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
