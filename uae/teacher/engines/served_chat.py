"""Judgements of a model behind an OpenAI-compatible chat endpoint: hosted LLMs show no log-probs but those of their output.

One request asks about a passage and a question, and gives the likeliest first tokens of the answer with their log-probs
(``logprobs``, ``top_logprobs`` of /v1/chat/completions). All grades of the pair are read off them. Nothing else of the server is
used: no tokenizer, no list of models.

A grade's probability is that of all first tokens that are this grade once spaces are taken off ("Yes" and " Yes"). A grade that
is not among them has less than the least of them, and is taken to have as much: its true log-odds are further from 0. The log
says how many were taken so.
"""

import importlib.metadata
import logging
import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from uae.io.errors import ModelError
from uae.io.files import sha256_bytes
from uae.teacher.chat import user
from uae.teacher.engines.client import CLAMPED, ServerClient, Words
from uae.teacher.prompts import Template
from uae.teacher.protocol import Pair, PromptBatch, Reading

log = logging.getLogger(__name__)

_PATH = "/v1/chat/completions"
_CHARACTERS_PER_TOKEN = 4  # of English, about: the tokens of a hosted model are not known here
_WORDS = Words(
    kind="an OpenAI-compatible server",
    key="set that of the service's account in UAE_TEACHER_API_KEY",
    needed=f"an OpenAI-compatible server, whose {_PATH} is needed",
)


class _Request(NamedTuple):
    """What is asked at once: one passage and question."""

    message: str
    pairs: tuple[Pair, ...]  # one a grade
    grades: tuple[str, ...]  # of the pairs, as the model is to say them


class _First(NamedTuple):
    """The likeliest first tokens of a reply."""

    tokens: dict[str, float]  # without spaces at their ends -> log-prob, of all that become equal
    least: float  # log-prob: no other token has more


class ChatTeacher:
    """Implements ``protocol.Teacher`` for judgements. The server is first asked in ``read``.

    The fingerprint is made of the model's name, as with ``served.ServedTeacher``; readings of the two never mix.

    Args:
        url, model, api_key, concurrency, timeout_s: as ``client.ServerClient``.
        batch_pairs: pairs read, and kept by the label store, at once.
        top_logprobs: likeliest first tokens that are asked for.
        grades: all that there are; a pair's answer is one of them.

    Raises:
        ConfigError: ``url`` is no web address, or the key cannot stand in a header.
    """

    def __init__(
        self,
        url: str,
        model: str,
        api_key: str | None,
        concurrency: int,
        timeout_s: float,
        batch_pairs: int,
        top_logprobs: int,
        grades: Sequence[str],
    ):
        self.client = ServerClient(url, model, api_key, concurrency, timeout_s, _WORDS)
        self.model, self.batch_pairs, self.top_logprobs, self.grades = model, batch_pairs, top_logprobs, tuple(grades)
        self.workers = 1  # it has threads of its own, for requests
        self.fingerprint = sha256_bytes("served chat", model)
        self._answered_as: str | None = None
        self._said: set[str] = set()  # grades that were among the first tokens of any reply

    def provenance(self) -> dict[str, str | int | float | bool | None]:
        """``answered_as`` is what the server's last reply called the model: a service's alias may come to mean another."""
        return {
            "backend": "openai-compatible chat",
            "server": self.client.address,
            "model": self.model,
            "answered_as": self._answered_as,
            "top_logprobs": self.top_logprobs,
            "concurrency": self.client.concurrency,
            "batch_pairs": self.batch_pairs,
            "openai": importlib.metadata.version("openai"),
        }

    def plan(self, template: Template, pairs: Sequence[Pair]) -> list[PromptBatch]:
        """Batches of about ``batch_pairs`` pairs in the order given; the grades of one passage and question stay together."""
        batches: list[list[_Request]] = []
        size = 0
        for (passage, question), group in groupby(pairs, key=lambda pair: (pair.passage, pair.question)):
            same = tuple(group)
            grades = tuple(template.completion(pair.answer).strip() for pair in same)
            if not batches or size + len(same) > self.batch_pairs:
                batches.append([])
                size = 0
            batches[-1].append(_Request(template.prompt(question, passage), same, grades))
            size += len(same)
        return [_batch(requests) for requests in batches]

    def read(self, batch: PromptBatch) -> list[Reading]:
        """One request per passage and question. The first failure ends the batch: what is not yet sent stays unsent.

        Raises:
            ModelError: the server sends no log-probs or values that are none, cannot be reached, or its model's answers begin
                with no grade.
        """
        requests: tuple[_Request, ...] = batch.work
        first = self.client.concurrently(self._ask, requests)
        self._check(requests, first)
        unsaid = sum(grade not in said.tokens for request, said in zip(requests, first, strict=True) for grade in request.grades)
        if unsaid:
            log.warning(
                "%s of %s grades were not among the %s likeliest first tokens of %s: they count as likely as the least of these",
                unsaid, len(batch.pairs), self.top_logprobs, self.model,
            )  # fmt: skip
        return [
            Reading(pair.key, max(-said.tokens.get(grade, said.least), 0.0), 1, False)
            for request, said in zip(requests, first, strict=True)
            for pair, grade in zip(request.pairs, request.grades, strict=True)
        ]

    def start_worker(self) -> None:
        pass

    def end_workers(self) -> None:
        pass

    def memory_mb(self, batch: PromptBatch) -> None:
        return None

    def _ask(self, request: _Request) -> _First:
        about = f"the question {request.pairs[0].question[:60]!r}"
        body = {
            "messages": [user(request.message)],
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": True,
            "top_logprobs": self.top_logprobs,
        }
        reply = self.client.ask(_PATH, body, about)
        choices = self.client.field(reply, _PATH, "choices", list)
        tops = _top_logprobs(choices[0]) if choices else None
        if not tops:
            raise ModelError(
                f"{self.client.address} sends no log-probs with its answers, for {about}: take a model and a service that give "
                "logprobs and top_logprobs of chat completions (models that reason before they answer mostly do not), and let no "
                "proxy in between drop the fields"
            )
        self._answered_as = reply.get("model")
        return self._first(tops, about)

    def _first(self, tops: Sequence[Any], about: str) -> _First:
        tokens: dict[str, float] = {}
        values = []
        for top in tops:
            token, value = (top.get("token"), top.get("logprob")) if isinstance(top, dict) else (None, None)
            if not isinstance(token, str) or not isinstance(value, int | float) or math.isnan(value) or value == math.inf:
                raise ModelError(self.client.not_finite(about, value))
            if value > 0:
                raise ModelError(f"{self.client.address} gives the log-probability {value} for {about}, which none can be")
            if value > CLAMPED:  # what is clamped has no probability
                values.append(value)
                tokens[token.strip()] = float(np.logaddexp(tokens.get(token.strip(), -math.inf), value))
        if not values:
            raise ModelError(self.client.not_finite(about, CLAMPED))
        return _First(tokens, min(values))

    def _check(self, requests: Sequence[_Request], first: Sequence[_First]) -> None:
        """That the model answers with grades at all, and that none of them is said in several tokens."""
        wanted = {grade for request in requests for grade in request.grades} | {grade.strip() for grade in self.grades}
        self._said |= {token for said in first for token in said.tokens if token in wanted}
        likeliest = ", ".join(repr(token) for token in sorted(first[0].tokens, key=lambda token: -first[0].tokens[token])[:5])
        if not self._said:
            raise ModelError(
                f"{self.client.address}: no answer of {self.model!r} begins with a grade ({', '.join(map(repr, self.grades))}); "
                f"the likeliest first tokens for the question {requests[0].pairs[0].question[:60]!r} are {likeliest}. Say in the "
                "template's question that the answer is one of the grades, and take grades of one token"
            )
        for grade in sorted({grade for request in requests for grade in request.grades} - self._said):
            begun = {
                token for said in first for token in said.tokens if token and token not in wanted and grade.startswith(token)
            }
            if begun:
                raise ModelError(
                    f"{self.client.address}: {self.model!r} says the grade {grade!r} in several tokens ({sorted(begun)[-1]!r} "
                    "and more), and only the first is read: take grades of one token, such as digits"
                )


def _top_logprobs(choice: Any) -> Any:
    """Of a reply's first token; None where there are none."""
    try:
        return choice["logprobs"]["content"][0]["top_logprobs"]
    except (KeyError, IndexError, TypeError):
        return None


def _batch(requests: Sequence[_Request]) -> PromptBatch:
    pairs = tuple(pair for request in requests for pair in request.pairs)
    tokens = [len(request.message) // _CHARACTERS_PER_TOKEN + 1 for request in requests]
    whole = sum(count * len(request.pairs) for count, request in zip(tokens, requests, strict=True))
    return PromptBatch(pairs, sum(tokens), whole, tuple(requests), estimated=True)
