"""The candidates stage: top-k of the base encoder, evidence, what holds an answer, and random passages."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from uae.io.errors import ArtefactError
from uae.io.files import sha256_bytes
from uae.io.tables import CANDIDATES, PASSAGES, QUESTIONS, read_table, write_table
from uae.measures.ranking import rank
from uae.retrievers.dense import encode, load_encoder
from uae.text.answer_match import normalised, telling, texts_holding
from uae.text.passage_template import TEXT_ALONE, PassageTemplate

_LABELLED_SPLITS = ("train", "validation")


def mine(
    passages_path: Path,
    questions_path: Path,
    candidates_path: Path,
    encoder_path: Path,
    scope: str,
    top_k: int,
    holding_answer: int,
    random: int,
    gold: bool,
    device: str,
    seed: int,
    read_as: PassageTemplate = TEXT_ALONE,
) -> dict:
    """Write the pairs to label for the train and validation questions. Returns counts.

    A passage enters once, under the first source that brings it: dense, gold, answer, random.

    Args:
        top_k: of the base encoder's ranking.
        holding_answer: passages that hold one of the question's gold answers word for word (see ``holders``), at most so many,
            the base encoder's first ones. Where nobody marked evidence, they are most likely what it would be.
        random: drawn from the rest of the scope.
        read_as: what the encoder reads of a passage. Answers are looked for in the text alone.
        gold: the evidence passages, too.

    Raises:
        ArtefactError: no question is in these splits, or none has a passage in its scope.
    """
    passages = read_table(passages_path, PASSAGES)
    questions = read_table(questions_path, QUESTIONS)
    questions = questions[questions["split"].isin(_LABELLED_SPLITS)]
    if questions.empty:
        raise ArtefactError(f"{questions_path}: no question is in the split train or validation; add some and run ingest again")
    if scope == "document":  # the other documents' passages can be nobody's candidates
        passages = passages[passages["doc_id"].isin(set(questions["doc_id"]))]
    encoder = load_encoder(encoder_path, device)
    question_vectors = encode(encoder, questions["text"].tolist(), "query", "questions")
    passage_vectors = encode(encoder, read_as.texts(passages), "document", "passages")
    rankings = rank(questions, passages, question_vectors, passage_vectors, scope)
    holding = holders(questions, passages, scope) if holding_answer else {}
    rows = []
    for ranking, evidence in zip(rankings, questions["evidence"], strict=True):
        held = holding.get(ranking.question_id, frozenset())
        sources = {
            "dense": ranking.passage_ids[:top_k],
            "gold": evidence if gold else [],
            "answer": [passage_id for passage_id in ranking.passage_ids if passage_id in held][:holding_answer],
        }
        rows += pick(ranking.question_id, ranking.passage_ids, ranking.scores, sources, random, seed)
    if not rows:
        raise ArtefactError(
            f"{passages_path}: no question has a passage in its scope ({scope}): name their documents or set scope=corpus"
        )
    write_table(candidates_path, CANDIDATES, rows)
    table = pd.DataFrame(rows)
    return {
        "questions": len(questions),
        "candidates": len(rows),
        "candidates_per_question": round(len(rows) / max(1, len(questions)), 2),
        "candidates_by_source": table["source"].value_counts().to_dict(),
    }


def holders(questions: pd.DataFrame, passages: pd.DataFrame, scope: str) -> dict[str, frozenset[str]]:
    """question_id -> ids of the passages in its scope that hold one of its gold answers word for word.

    Both are normalised as SQuAD does. An answer of one short word, or in more than 20 passages of the scope, does not count:
    it stands there by chance. Questions without any are left out.
    """
    scopes = [(questions, passages)]
    if scope == "document":
        of_document = dict(list(passages.groupby("doc_id")))
        scopes = [(asked, of_document[doc_id]) for doc_id, asked in questions.groupby("doc_id") if doc_id in of_document]
    found: dict[str, frozenset[str]] = {}
    for asked, within in scopes:
        ids = within.groupby("text")["passage_id"].agg(list)
        answers = {
            question_id: {answer for answer in map(normalised, own) if telling(answer)}
            for question_id, own in zip(asked["question_id"], asked["answers"], strict=True)
        }
        holding = texts_holding(set().union(*answers.values()), ids.index)
        for question_id, own in answers.items():
            if texts := {text for answer in own for text in holding.get(answer, ())}:
                found[question_id] = frozenset(passage_id for text in texts for passage_id in ids[text])
    return found


def pick(
    question_id: str,
    passage_ids: list[str],
    scores: list[float],
    brought: Mapping[str, Sequence[str]],
    random: int,
    seed: int,
) -> list[dict]:
    """The candidates of one question, from the base encoder's ranking of its whole scope (best first).

    The random draw depends on the seed and the question only, so that adding questions changes no other question's pairs.

    Args:
        brought: source -> passages, the first source first; what is not in the ranking is outside the scope, and left out.
    """
    places = {passage_id: place for place, passage_id in enumerate(passage_ids)}
    sources: dict[str, str] = {}
    for source, brings in brought.items():
        for passage_id in brings:
            if passage_id in places:
                sources.setdefault(passage_id, source)
    rest = [passage_id for passage_id in passage_ids if passage_id not in sources]
    generator = np.random.default_rng(int(sha256_bytes(str(seed), question_id)[:16], 16))
    for place in generator.choice(len(rest), size=min(random, len(rest)), replace=False) if rest else []:
        sources[rest[place]] = "random"
    return [
        {
            "question_id": question_id,
            "passage_id": passage_id,
            "source": source,
            "rank": places[passage_id] + 1,
            "score": scores[places[passage_id]],
        }
        for passage_id, source in sorted(sources.items(), key=lambda item: places[item[0]])
    ]
