"""BEIR folders (Thakur et al., NeurIPS 2021): corpus.jsonl, queries.jsonl, qrels/{train,dev,test}.tsv.

BEIR has no answers. A query's ``metadata.answers`` is used where there is one; without answers retrieval can be evaluated,
but the teacher has nothing to label with, and validation says so.
"""

import csv
import io
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from uae.corpus.reading import optional, optional_strings, read_jsonl, read_text, want
from uae.corpus.records import RawDocument, RawQuestion, Source, Span, join_sections
from uae.io.errors import InputError

_SPLITS = {"train": "train", "dev": "validation", "test": "test"}


def read(path: str) -> Source:
    folder = Path(path)
    documents: dict[str, RawDocument] = {}
    source = Source()
    for where, row in read_jsonl(folder / "corpus.jsonl"):
        key = want(row, "_id", str, where)
        if key in documents:
            raise InputError(f"{where}: the _id {key!r} is used already in {documents[key].where}")
        title = optional(row, "title", str, where)
        text, sections = join_sections([("", want(row, "text", str, where))])
        documents[key] = RawDocument(key, title, text, sections, where, metadata=optional(row, "metadata", dict, where))
    queries: dict[str, tuple[str, dict]] = {}
    for where, row in read_jsonl(folder / "queries.jsonl"):
        key = want(row, "_id", str, where)
        if key in queries:
            raise InputError(f"{where}: the _id {key!r} is used already in {queries[key][0]}")
        queries[key] = (where, row)
    found = [split for split in _SPLITS if (folder / "qrels" / f"{split}.tsv").exists()]
    if not found:
        raise InputError(f"{folder / 'qrels'}: there is no train.tsv, dev.tsv or test.tsv")
    judged: set[str] = set()
    for name in found:
        for query, relevant in _qrels(folder / "qrels" / f"{name}.tsv", queries, documents).items():
            if query in judged:
                source.skipped["query judged in two splits, kept in the first"] += 1
                continue
            judged.add(query)
            where, row = queries[query]
            answers = optional_strings(optional(row, "metadata", dict, where), "answers", f"{where}, metadata")
            source.questions.append(
                RawQuestion(
                    text=want(row, "text", str, where).strip(),
                    answers=tuple(answers),
                    document=None,
                    evidence=tuple(Span(key, 0, len(documents[key].text)) for key in relevant),
                    where=where,
                    split=_SPLITS[name] if len(found) > 1 else None,
                )
            )
    source.documents = list(documents.values())
    source.lacks_validation = found == ["train", "test"]
    source.skipped["query without judgements"] += len(queries) - len(judged)
    return source


def _qrels(path: Path, queries: dict, documents: dict) -> dict[str, list[str]]:
    relevant: dict[str, list[str]] = defaultdict(list)
    for where, row in _tsv(path):
        if len(row) != 3:
            raise InputError(f"{where}: expected query-id, corpus-id and score, separated by tabs")
        query, document, score = row
        if query not in queries:
            raise InputError(f"{where}: there is no query {query!r}")
        if document not in documents:
            raise InputError(f"{where}: there is no document {document!r}")
        try:
            if int(score) > 0:
                relevant[query].append(document)
        except ValueError:
            raise InputError(f"{where}: the score must be a whole number, not {score!r}") from None
    return relevant


def _tsv(path: Path) -> Iterator[tuple[str, list[str]]]:
    """(where, fields) of each line but the heading and blank ones."""
    lines = csv.reader(io.StringIO(read_text(path)), delimiter="\t")
    try:
        for number, row in enumerate(lines):
            if "".join(row).strip() and not (number == 0 and row[0] == "query-id"):
                yield f"{path}, line {lines.line_num}", row
    except csv.Error as error:
        raise InputError(f"{path}, line {lines.line_num}: broken TSV: {error}") from None
