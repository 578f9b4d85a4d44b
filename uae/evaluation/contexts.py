"""How many passages a reader is given, and in which order: what each choice is worth to its answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from uae.evaluation.answers import Context, Reader, read_answers
from uae.evaluation.comparison import gains_over, summarise
from uae.evaluation.testset import BASE, UAE
from uae.measures.answers import ANSWER_METRICS
from uae.measures.fusion import Rankings
from uae.measures.statistics import Resampling

Tables = dict[str, pd.DataFrame]  # system -> its answers, as ``answers.read_answers`` gives them


@dataclass(frozen=True)
class Answering:
    """How reader LLMs are asked."""

    passages: Sequence[int]  # so many are given; the first number's answers stand among the systems' metrics
    orders: Sequence[str]  # keys of answers.ORDERS; the first is that of all numbers
    questions: int | None  # only the first so many are answered; None: all
    more_questions: int  # as ``questions``, of all contexts but the first, which cost more
    new_tokens: int  # of an answer, at most
    batch_size: int
    chat: frozenset[str] = frozenset()  # readers that are asked in their chat template

    def contexts(self) -> list[Context]:
        """Each number of passages in the first order, and the largest one in the others.

        Of one or two passages all orders are the same.
        """
        most = max(self.passages)
        others = [Context(most, order) for order in self.orders[1:]] if most > 2 else []
        return [*(Context(number, self.orders[0]) for number in self.passages), *others]


def read_in_contexts(
    rankings: Mapping[str, Rankings],
    questions: pd.DataFrame,
    passages: pd.DataFrame,
    readers: Mapping[str, Path],
    answering: Answering,
    device: str,
    dtype: str,
) -> dict[str, dict[Context, Tables]]:
    """Answers by reader, context and system. Of a reader all contexts are read in one loading.

    Args:
        readers: name -> folder of an LLM.
        passages: what stands in the column ``text`` is read.
    """
    first, *others = answering.contexts()
    asked = {first: answering.questions} | dict.fromkeys(others, answering.more_questions)
    found = {}
    for name, folder in readers.items():
        chat = name in answering.chat
        reader = Reader(folder, device, dtype, answering.new_tokens, answering.batch_size, chat)
        found[name] = {
            context: read_answers(rankings, questions, passages, reader, context, number)
            for context, number in asked.items()
            if context is first or number
        }
        del reader  # the next one needs the memory
    return found


def compare_contexts(
    answers: Mapping[str, Mapping[Context, Tables]], documents: pd.Series, resampling: Resampling
) -> list[dict[str, Any]]:
    """Every reader in every context, as evaluation.json holds it under ``reader_contexts``.

    ``systems`` are means with intervals, ``gains`` UAE's over the base encoder. ``over_first`` are each system's gains over the
    reader's first context. ``over_best_first`` are those of another order over best first, with as many passages. Both are on
    the questions that were asked in both. ``cut`` counts answers whose reader was given fewer passages than the context has.
    """
    return [
        _compared(name, context, of_reader, documents, resampling)
        for name, of_reader in answers.items()
        for context in of_reader
        if len(of_reader[context][BASE])
    ]


def _compared(
    reader: str, context: Context, answers: Mapping[Context, Tables], documents: pd.Series, resampling: Resampling
) -> dict[str, Any]:
    def metrics(of: Context, system: str) -> pd.DataFrame:
        return answers[of][system][list(ANSWER_METRICS)]

    def over(other: Context) -> dict[str, Any]:
        systems = answers[context] if other in answers and other != context else ()
        return {system: gains_over(metrics(other, system), metrics(context, system), documents, resampling) for system in systems}

    given = pd.concat([table["given"] for table in answers[context].values()])
    return {
        "reader": reader,
        "passages": context.passages,
        "order": context.order,
        "questions": len(answers[context][BASE]),
        "cut": int((given < context.passages).sum()),
        "systems": {system: summarise(metrics(context, system), documents, resampling) for system in answers[context]},
        "gains": gains_over(metrics(context, BASE), metrics(context, UAE), documents, resampling),
        "over_first": over(next(iter(answers))),
        "over_best_first": over(Context(context.passages, "best_first")) if context.order != "best_first" else {},
    }
