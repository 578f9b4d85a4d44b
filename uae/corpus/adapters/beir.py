"""BEIR folders (Thakur et al., NeurIPS 2021): corpus.jsonl, queries.jsonl, qrels/{train,dev,test}.tsv.

BEIR has no answers. A query's ``metadata.answers`` is used where there is one; without answers retrieval can be evaluated,
but the teacher has nothing to label with, and validation says so.

Published sets hold documents without text, judgements of queries or documents that are missing, and queries that nobody judged. A
title stands in for an empty text; the rest is left out and counted.
"""

import csv
import io
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from uae.corpus.decoding import read_text
from uae.corpus.reading import optional, optional_strings, read_jsonl, want
from uae.corpus.records import LeftOut, RawDocument, RawQuestion, Source, Span, join_sections
from uae.io.errors import InputError

_SPLITS = dict.fromkeys(("dev", "valid", "validation", "val"), "validation")
_SPLITS = {"train": "train"} | _SPLITS | {"test": "test"}  # in this order: a query judged in two stays in the first


class _Query(NamedTuple):
    text: str
    answers: tuple[str, ...]
    where: str


def read(path: str) -> Source:
    folder = Path(path)
    source = Source()
    _read_documents(folder / "corpus.jsonl", source)
    queries = _queries(folder / "queries.jsonl", source.skipped)
    files = _judgement_files(folder / "qrels", source.skipped)
    judged: dict[str, str] = {}
    for file in files:
        relevant = _relevant(file, queries, source)
        for name, found in relevant.items():
            if name in judged:
                place = f"{file}, query {name} (kept in {judged[name]}.tsv)"
                source.skipped.add("query judged in two splits, kept in the first", place)
                continue
            judged[name] = file.stem
            source.questions.append(
                RawQuestion(
                    text=queries[name].text,
                    answers=queries[name].answers,
                    document=None,
                    evidence=tuple(Span(key, 0, len(source.documents.of(key).text)) for key in found),
                    where=queries[name].where,
                    split=_SPLITS[file.stem] if len(files) > 1 else None,
                )
            )
    for name, query in queries.items():
        if name not in judged:
            source.skipped.add("query without judgements", query.where)
    source.lacks_validation = [file.stem for file in files] == ["train", "test"]
    return source


def _read_documents(path: Path, source: Source) -> None:
    documents = source.documents
    for where, row in read_jsonl(path):
        key = _id(row, where)
        title = optional(row, "title", str, where)
        text, sections = join_sections([((), _text(row, where) or title)])
        metadata: dict[str, Any] = optional(row, "metadata", dict, where)
        document = RawDocument(key, title, text, sections, where, metadata=metadata)
        if key in documents:
            known = documents.of(key)
            if (title, text) != (known.title, known.text):
                raise InputError(f"{where}: the _id {key!r} is used already in {known.where}, for another text")
            source.skipped.add("document that stands there twice", where)
        elif sections:
            documents.append(document)
        else:
            source.empty[key] = where


def _queries(path: Path, skipped: LeftOut) -> dict[str, _Query]:
    queries: dict[str, _Query] = {}
    for where, row in read_jsonl(path):
        key, text = _id(row, where), want(row, "text", str, where, blank=True).strip()
        metadata: dict[str, Any] = optional(row, "metadata", dict, where)
        query = _Query(text, tuple(optional_strings(metadata, "answers", f"{where}, metadata")), where)
        if not text:
            skipped.add("query without text", where)
        elif key not in queries:
            queries[key] = query
        elif query[:2] == queries[key][:2]:
            skipped.add("query that stands there twice", where)
        else:
            raise InputError(f"{where}: the _id {key!r} is used already in {queries[key].where}, for another query")
    return queries


def _id(row: dict[str, Any], where: str) -> str:
    number = row.get("_id")
    return str(number) if isinstance(number, int) and not isinstance(number, bool) else want(row, "_id", str, where)


def _text(row: dict[str, Any], where: str) -> str:
    return "" if row.get("text", "") is None else want(row, "text", str, where, blank=True).strip()


def _judgement_files(folder: Path, skipped: LeftOut) -> list[Path]:
    """The files of judgements, train before validation before test."""
    files = [folder / f"{name}.tsv" for name in _SPLITS]
    found = [file for file in files if file.exists()]
    if not found:
        raise InputError(f"{folder}: there is no file of judgements ({', '.join(file.name for file in files)})")
    for file in sorted(folder.iterdir()):
        if file not in found and not file.name.startswith("."):
            skipped.add("file in qrels that no split is named after", str(file))
    return found


def _relevant(path: Path, queries: Mapping[str, _Query], source: Source) -> dict[str, list[str]]:
    """query -> the documents judged relevant to it, of those that the source holds."""
    relevant: dict[str, list[str]] = defaultdict(list)
    for where, (query, document, score) in _judgements(path):
        if not score > 0:
            continue
        if query not in queries:
            source.skipped.add("judgement of a query that is not in queries.jsonl", f"{where}: {query}")
        elif document in source.empty:
            source.skipped.add("judgement of a document without text", f"{where}: {document}")
        elif document not in source.documents:
            source.skipped.add("judgement of a document that is not in corpus.jsonl", f"{where}: {document}")
        elif document not in relevant[query]:
            relevant[query].append(document)
    return {query: found for query, found in relevant.items() if found}


def _judgements(path: Path) -> Iterator[tuple[str, tuple[str, str, float]]]:
    """(where, (query, document, score)) of each line but the heading and blank ones.

    BEIR's lines have three fields, TREC's have four, of which the second says nothing; TREC parts them by spaces as well.
    """
    for number, (where, row) in enumerate(_tsv(path)):
        fields = row[0].split() if len(row) == 1 else row
        if len(fields) not in (3, 4):
            raise InputError(f"{where}: expected query-id, corpus-id and score, separated by tabs")
        try:
            score = float(fields[-1])
        except ValueError:
            if number == 0:
                continue  # names of columns
            raise InputError(f"{where}: the score must be a number, not {fields[-1]!r}") from None
        yield where, (fields[0], fields[-2], score)


def _tsv(path: Path) -> Iterator[tuple[str, list[str]]]:
    """(where, fields) of each line that is not blank."""
    lines = csv.reader(io.StringIO(read_text(path)), delimiter="\t")
    try:
        for row in lines:
            if "".join(row).strip():
                yield f"{path}, line {lines.line_num}", row
    except csv.Error as error:
        raise InputError(f"{path}, line {lines.line_num}: broken TSV: {error}") from None
