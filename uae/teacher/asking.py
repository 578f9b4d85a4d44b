"""What a teacher is asked about each candidate pair: the answer's likelihood, the query's, or a judgement in grades.

All three come down to the likelihood of a text after a prompt, so that one engine serves them:

- ``answer_likelihood``: the gold answers after passage and question, and after the question alone (arXiv 2604.22722);
- ``query_likelihood``: the question after the passage, and without it; needs no answers (Ponte and Croft, SIGIR 1998; for LLMs
  Sachan et al., arXiv 2204.07496);
- ``judgement``: each grade, such as "No" and "Yes", after passage, question and an instruction.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from uae.io.errors import InputError
from uae.teacher.keys import NO_PASSAGE, answer_id, text_key
from uae.teacher.prompts import Template
from uae.teacher.protocol import Pair, ReadingKey, Teacher
from uae.text.passage_template import PassageTemplate


@dataclass(frozen=True)
class Asked:
    """A teacher and what it is asked. ``open`` loads it; its fingerprint is known before."""

    name: str
    fingerprint: str
    method: str
    grades: tuple[str, ...]  # worst first; of a judgement only
    weight: float
    templates: tuple[Template, ...]
    check_templates: tuple[Template, ...]  # asked of a sample, to see how much the wording matters
    open: Callable[[], Teacher]

    @property
    def subtracts_baseline(self) -> bool:
        return self.method != "judgement"

    @property
    def reads_neighbours(self) -> bool:
        """Whether what it reads of a passage depends on other passages of the document."""
        return any(PassageTemplate(each.passage_template).has_neighbours for each in (*self.templates, *self.check_templates))


def scored_texts(
    method: str, grades: Sequence[str], question: str, answers: Sequence[str], answers_per_question: int
) -> list[str]:
    """The texts whose likelihood is asked for one question, each once."""
    texts = {
        "answer_likelihood": list(answers[:answers_per_question]),
        "query_likelihood": [question],
        "judgement": list(grades),
    }[method]
    return list(dict.fromkeys(texts))


def sample(candidates: pd.DataFrame, questions: int) -> pd.DataFrame:
    """The candidates of so many questions: always the same ones, and chosen at random, for ids are content hashes."""
    return candidates[candidates["question_id"].isin(sorted(candidates["question_id"].unique())[:questions])]


def wanted(
    asked: Asked,
    template: Template,
    candidates: pd.DataFrame,
    questions: pd.DataFrame,
    passages: Mapping[str, str],
    answers_per_question: int,
) -> Iterator[Pair]:
    """Every pair to read under one template, those of a passage together; first the readings without any passage.

    A pair whose texts are those of another one is read once. Tables are of their schemas, ``questions`` indexed by question_id.

    Raises:
        InputError: a question has no answer, or a blank one.
    """
    rows = sorted(zip(candidates["passage_id"], candidates["question_id"], strict=True))
    if asked.subtracts_baseline:
        rows = [(NO_PASSAGE, question_id) for question_id in sorted(candidates["question_id"].unique())] + rows
    chosen = questions.loc[candidates["question_id"].unique()]
    wording: dict[str, str] = dict(zip(chosen.index, chosen["text"], strict=True))
    texts = {
        question_id: scored_texts(asked.method, asked.grades, wording[question_id], answers, answers_per_question)
        for question_id, answers in zip(chosen.index, chosen["answers"], strict=True)
    }
    _check(texts, wording, dict(zip(chosen.index, chosen["source"], strict=True)))
    asked_of = {question_id: text_key(text) for question_id, text in wording.items()}
    read_of = {passage_id: text_key(passages[passage_id]) for passage_id in candidates["passage_id"].unique()}
    read_of[NO_PASSAGE] = NO_PASSAGE
    seen: set[ReadingKey] = set()
    for passage_id, question_id in rows:
        question = "" if asked.method == "query_likelihood" else wording[question_id]
        for text in texts[question_id]:
            key = (asked_of[question_id], read_of[passage_id], answer_id(text), template.hash, asked.fingerprint)
            if key not in seen:
                seen.add(key)
                yield Pair(key, question, text, passages[passage_id] if passage_id else None)


def _check(texts: Mapping[str, Sequence[str]], wording: Mapping[str, str], sources: Mapping[str, str]) -> None:
    if faulty := [question_id for question_id, of in texts.items() if not of or not all(text.strip() for text in of)]:
        some = "; ".join(f"{wording[q][:60]!r} ({sources[q]})" for q in faulty[:5])
        raise InputError(
            f"{len(faulty)} questions have no answer, or a blank one: {some}. Answer them or remove them; a teacher with "
            "method: query_likelihood or judgement needs no answers (then set validate.require_answers to false as well)"
        )
