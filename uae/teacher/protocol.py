"""What a teacher is: something that reads an answer's negative log-likelihood after a prompt. One room, several engines."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

from uae.execution.local import spread
from uae.teacher.prompts import Template

ReadingKey = tuple[str, str, str, str, str]  # question, passage, answer_id, template, teacher, as in tables.LABELS


@dataclass(frozen=True)
class Pair:
    """One thing to read: the text scored (``answer``) after a question, with a passage or (None) without."""

    key: ReadingKey
    question: str
    answer: str
    passage: str | None


class Reading(NamedTuple):
    key: ReadingKey
    nll_sum: float  # nats, over the answer's tokens
    n_tokens: int
    truncated: bool  # the passage was cut to fit the context


@dataclass(frozen=True)
class PromptBatch:
    """What an engine reads at once and the label store keeps at once: a kill loses those in flight, one a worker."""

    pairs: tuple[Pair, ...]
    tokens: int  # that go through the model
    full_tokens: int  # that would go through it if every pair's whole prompt were read by itself
    work: Any = None  # the engine's own form of the pairs
    estimated: bool = False  # the tokens are, for the model's tokenizer is not known here


class Teacher(Protocol):
    """An engine with one model. ``plan`` is deterministic: the same pairs give the same batches, whatever was read before."""

    fingerprint: str  # of the model, 64 hex digits: readings of different models never mix
    workers: int  # threads that may call ``read`` at once

    def provenance(self) -> dict[str, str | int | float | bool | None]:
        """Backend, dtype, versions and batch policy, kept with every part of the label store."""

    def plan(self, template: Template, pairs: Sequence[Pair]) -> list[PromptBatch]:
        """Divide pairs into batches. Pairs of one passage stand together in ``pairs``.

        Raises:
            InputError: an answer has no tokens, or question and answer alone do not fit the context.
            ModelError: the tokenizer merges prompt and answer, so that the answer's tokens would depend on the prompt.
        """

    def read(self, batch: PromptBatch) -> list[Reading]:
        """The readings of a batch, in any order.

        Raises:
            ModelError: the model gives NaN or infinite values, cannot be reached, or one pair alone exceeds the memory.
        """

    def start_worker(self) -> None:
        """Called by each thread that is going to read, where there are several."""

    def end_workers(self) -> None:
        """Called when they are done."""

    def memory_mb(self, batch: PromptBatch) -> int | None:
        """About what this machine needs to read the batch, the model's weights included; None where a server does it."""


@runtime_checkable
class SpreadTeacher(Protocol):
    """A teacher whose workers are elsewhere, and which spreads batches over them itself."""

    processes: int  # that hold the model; each reads ``workers / processes`` batches at once

    def read_all(self, batches: Iterable[PromptBatch]) -> Iterator[tuple[PromptBatch, list[Reading]]]:
        """As the function of this name."""


def read_all(teacher: Teacher, batches: Iterable[PromptBatch]) -> Iterator[tuple[PromptBatch, list[Reading]]]:
    """Each batch with its readings, as soon as it is read; ``teacher.workers`` batches are in flight at once."""
    if isinstance(teacher, SpreadTeacher):
        return teacher.read_all(batches)
    return spread(teacher.read, batches, teacher.workers, teacher.start_worker, teacher.end_workers)
