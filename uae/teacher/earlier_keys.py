"""Readings that an earlier version stored under ids, found again under the texts that they are about.

In format 1 of the label store a reading's key held the ids of its question and passage. Those ids were hashes of the whole
document. The tables tell what each id was, where the document stands as it stood then. So an upgrade asks no teacher again.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import pandas as pd
import pyarrow as pa

from uae.io.files import sha256_bytes
from uae.io.tables import LABELS
from uae.teacher.asking import Asked
from uae.teacher.keys import NO_PASSAGE, text_key
from uae.teacher.prompts import Template


@dataclass(frozen=True)
class EarlierKeys:
    """
    Attributes:
        questions: earlier question_id -> key of today.
        passages: hash of a template -> earlier passage_id -> key of today.
    """

    questions: Mapping[str, str]
    passages: Mapping[str, Mapping[str, str]]

    @classmethod
    def of(
        cls,
        documents: Iterable[pd.DataFrame],
        passages: Iterable[pd.DataFrame],
        questions: pd.DataFrame,
        teachers: Iterable[Asked],
        wanted: Collection[str],
    ) -> "EarlierKeys":
        """
        Args:
            documents, passages, questions: of their schemas, as ingest makes them today; the first two some rows at a time, all
                passages of a document together. No text is kept.
            teachers: whose templates say what was read of a passage.
            wanted: earlier passage_ids; of others nothing is kept.
        """
        docs = {"": ""}
        for part in documents:
            columns = [part[name] for name in ("doc_id", "source", "title", "version", "text")]
            docs |= {doc_id: sha256_bytes(*parts)[:24] for doc_id, *parts in zip(*columns, strict=True)}
        asked = {
            sha256_bytes(docs[doc_id], text)[:24]: text_key(text)
            for doc_id, text in zip(questions["doc_id"], questions["text"], strict=True)
            if doc_id in docs
        }
        templates = _templates(teachers)
        read = {template.hash: {NO_PASSAGE: NO_PASSAGE} for template in templates}
        for part in passages:
            columns = [part[name] for name in ("passage_id", "doc_id", "start", "end", "text", "section")]
            then = {
                passage_id: sha256_bytes(docs[doc_id], str(start), str(end), text, *([section] if section else []))[:24]
                for passage_id, doc_id, start, end, text, section in zip(*columns, strict=True)
                if doc_id in docs
            }
            for template in templates:
                texts = template.passages(part)
                read[template.hash] |= {id: text_key(texts[today]) for today, id in then.items() if id in wanted}
        return cls(asked, read)

    def __call__(self, table: pa.Table) -> pa.Table:
        """The readings of a part of format 1 that are known today, as LABELS has them now; the others are left out."""
        frame = table.to_pandas()
        pairs = zip(frame["template"], frame["passage_id"], strict=True)
        found = frame.assign(
            question=frame["question_id"].map(dict(self.questions)),
            passage=[self.passages.get(template, {}).get(passage_id) for template, passage_id in pairs],
        ).dropna(subset=["question", "passage"])
        return pa.Table.from_pandas(found[LABELS.names], schema=LABELS, preserve_index=False)


def _templates(teachers: Iterable[Asked]) -> dict[Template, None]:
    return dict.fromkeys(template for asked in teachers for template in (*asked.templates, *asked.check_templates))
