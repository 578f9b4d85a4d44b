"""What an encoder was trained on, as hashes that its release carries; and the check that nobody measures it on any of that.

Splits do not move by themselves (``uae.corpus.ledger``). They move where a ledger is lost, or a source names other splits than
before. Then a champion of last month can meet its training questions in this month's test set.
"""

import logging
from pathlib import Path

import pandas as pd

from uae.io.errors import ArtefactError
from uae.io.files import sha256_bytes
from uae.io.tables import TRAINED_ON, read_table, write_table
from uae.text.words import words

log = logging.getLogger(__name__)

FILE = "trained_on.parquet"  # in a release
_DOCUMENT, _QUESTION = "document", "question"  # learnt
_ENCODER = "encoder"  # whose record it is
_KNOWN_DOCUMENT, _KNOWN_QUESTION = "known document", "known question"  # there, and not learnt: what is newer came since
_SPLITS = ("train", "validation")  # validation chooses the epoch and the temperature
_SHOWN = 5


def write_trained_on(path: Path, questions: pd.DataFrame, passages: pd.DataFrame, encoder: str = "") -> None:
    """Write the hashes of the source keys and of the texts of all training and validation questions, as TRAINED_ON.

    What was there and held out is noted, too: later one can tell which test documents came since (``came_since``).

    Args:
        questions: of its schema.
        passages: columns doc_id and source, of each document at least once.
        encoder: fingerprint of what learnt from them, for ``check_is_of``; "": it is not told.
    """
    learnt = questions[questions["split"].isin(_SPLITS)]
    keys = set(learnt["doc_id"].map(_sources(passages)).dropna())
    rows = {(_DOCUMENT, _hash(_DOCUMENT, key)) for key in keys} | {(_QUESTION, _of_question(text)) for text in learnt["text"]}
    others = passages[["source", "doc_id"]].drop_duplicates()
    others = others[~others["source"].isin(keys)]
    rows |= {(_KNOWN_DOCUMENT, _hash(_DOCUMENT, name)) for name in (*others["source"], *others["doc_id"])}
    alone = questions[(questions["doc_id"] == "") & ~questions["split"].isin(_SPLITS)]
    rows |= {(_KNOWN_QUESTION, _of_question(text)) for text in alone["text"]}
    rows |= {(_ENCODER, encoder[:24])} if encoder else set()
    write_table(path, TRAINED_ON, [{"kind": kind, "key": key} for kind, key in sorted(rows)])


def check_is_of(path: Path, encoder: str) -> None:
    """Check that a record is of this encoder: beside another one it would let that be measured on what it learnt.

    Args:
        encoder: fingerprint. A record of an earlier version does not say whose it is, and passes.

    Raises:
        ArtefactError: it is of another encoder.
    """
    table = read_table(path, TRAINED_ON)
    told = set(table["key"][table["kind"] == _ENCODER])
    if told and encoder[:24] not in told:
        whose = ", ".join(key[:12] for key in told)
        raise ArtefactError(
            f"{path} is of encoder {whose}, and the encoder is {encoder[:12]}: run the stage train again (uae train)"
        )


def came_since(release: Path, questions: pd.DataFrame, passages: pd.DataFrame) -> set[str] | None:
    """The question_ids whose documents came after the release's encoder was trained; None where it does not say what it knew.

    A document is known by its source key or by its id, so a renamed one is no new one. Questions without a document are known by
    their text.

    Args:
        release: its folder.
        questions, passages: of their schemas.
    """
    path = release / FILE
    if not path.exists():
        return None
    table = read_table(path, TRAINED_ON)
    known = set(zip(table["kind"], table["key"], strict=True))
    if not any(kind in (_KNOWN_DOCUMENT, _KNOWN_QUESTION) for kind, _ in known):
        return None  # of an earlier version, which did not note it
    sources = _sources(passages)

    def is_new(doc_id: str, text: str) -> bool:
        if doc_id == "":
            return not {(_QUESTION, _of_question(text)), (_KNOWN_QUESTION, _of_question(text))} & known
        names = {_hash(_DOCUMENT, name) for name in (doc_id, sources.get(doc_id, doc_id))}
        return not {(kind, name) for kind in (_DOCUMENT, _KNOWN_DOCUMENT) for name in names} & known

    rows = zip(questions["question_id"], questions["doc_id"], questions["text"], strict=True)
    return {question_id for question_id, doc_id, text in rows if is_new(doc_id, text)}


def check_not_trained_on(release: Path, name: str, questions: pd.DataFrame, passages: pd.DataFrame, scope: str) -> None:
    """Refuse to measure a release on what it was trained on.

    A document counts in either scope. A question's text counts where it is asked of the whole corpus: within a document, "What is
    the conclusion?" may be asked of every paper.

    Args:
        release: its folder. One of an earlier version does not say what it was trained on: a warning says so.
        name: of the release, for the message.
        questions, passages: that it is to be measured on, of their schemas.
        scope: ``document`` or ``corpus``.

    Raises:
        ArtefactError: it was trained on some of the documents or questions. They are named.
    """
    path = release / FILE
    if not path.exists():
        log.warning("%s does not say what it was trained on: whether that is in the test set is not known", name)
        return
    table = read_table(path, TRAINED_ON)
    known = set(zip(table["kind"], table["key"], strict=True))
    sources = _sources(passages)
    keys = sorted({key for key in questions["doc_id"].map(sources).dropna() if (_DOCUMENT, _hash(_DOCUMENT, key)) in known})
    open_questions = questions[(questions["doc_id"] == "") | (scope == "corpus")]
    repeated = [
        f"{text!r} ({source})"
        for text, source in zip(open_questions["text"], open_questions["source"], strict=True)
        if (_QUESTION, _of_question(text)) in known
    ]
    told = [_told(kind, found) for kind, found in (("documents", keys), ("questions", repeated)) if found]
    if told:
        raise ArtefactError(
            f"{name} was trained on what it is to be measured on: {'; '.join(told)}. Its figures would prove nothing. Bring back "
            "the ledger of splits that it was trained with (data/ledger.parquet; dvc pull), or have the source name those splits"
        )


def _told(kind: str, found: list[str]) -> str:
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return f"{len(found)} {kind}: {', '.join(found[:_SHOWN])}{more}"


def _sources(passages: pd.DataFrame) -> dict[str, str]:
    return dict(zip(passages["doc_id"], passages["source"], strict=True))


def _of_question(text: str) -> str:
    """Equal for questions that differ in case and punctuation alone."""
    return _hash(_QUESTION, " ".join(words(text)) or text)


def _hash(kind: str, name: str) -> str:
    return sha256_bytes(kind, name)[:24]
