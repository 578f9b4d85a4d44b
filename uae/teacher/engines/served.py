"""Answer NLLs under a model that a vLLM server holds, asked over its OpenAI-compatible API.

What is used of the server, version 0.8 or newer: ``prompt_logprobs`` of /v1/completions (vLLM's extension, which gives the
log-probability of every token of a prompt), /tokenize and /detokenize. No option of the server is needed for that, but two spoil
the values: ``--logprobs-mode`` other than ``raw_logprobs``, and ``--kv-sharing-fast-prefill``.

vLLM's prompt log-probs differ in their last digits with what else the server computes at the time and with the state of its
prefix cache (vLLM issues 11778 and 42019). A reading is therefore no constant of the model, and is kept with its provenance.

vLLM computes the whole prompt of a request for prompt log-probs: it fills its prefix cache then but does not read it
(``skip_reading_prefix_cache`` in its sampling parameters). The passage is thus read again with every question.
"""

import importlib.metadata
import math
from array import array
from collections.abc import Sequence
from functools import cached_property, lru_cache
from itertools import groupby
from typing import Any, NamedTuple

from uae.io.errors import InputError, ModelError
from uae.io.files import sha256_bytes
from uae.teacher.chat import TEMPLATE_OPTIONS, user
from uae.teacher.engines.client import CLAMPED, ServerClient, Words
from uae.teacher.prompts import Template
from uae.teacher.protocol import Pair, PromptBatch, Reading
from uae.teacher.tokens import Tokens, checked, closing_tokens

_CACHED_TEXTS = 1024  # whose tokens are remembered: a prompt comes with several answers, a long passage with several questions

_WORDS = Words(
    kind="a vLLM server",
    key="set the one that the server was started with (vllm serve --api-key)",
    needed="a vLLM server, whose /v1/completions, /tokenize and /detokenize are needed",
)


class _Server(NamedTuple):
    version: str | None
    root: str | None  # what the served name stands for, a hub name or a folder
    max_model_len: int
    closing: int  # special tokens that its tokenizer puts at a text's end


class ServedTeacher:
    """Implements ``protocol.Teacher``. The server is first asked in ``plan`` or ``provenance``.

    The fingerprint is made of the model's name alone. A server shows no weights to hash. All else that it says changes with the
    host: the folder of the weights, and the context length, which depends on the memory. So other weights must be served under
    another name, best one with a revision: ``vllm serve FOLDER --served-model-name NAME@REVISION``. The provenance holds what
    the name stood for.

    Args:
        url: the server's root, or its /v1.
        model: the name it serves the model under.
        api_key: sent as bearer token; None where the server wants none.
        concurrency: requests in flight at once.
        timeout_s: for one request, once connected.
        batch_pairs: pairs read, and kept by the label store, at once.

    Raises:
        ConfigError: ``url`` is no web address, or the key cannot stand in a header.
    """

    def __init__(self, url: str, model: str, api_key: str | None, concurrency: int, timeout_s: float, batch_pairs: int):
        self.client = ServerClient(url, model, api_key, concurrency, timeout_s, _WORDS)
        self.model, self.batch_pairs = model, batch_pairs
        self.workers = 1  # it has threads of its own, for requests
        self.fingerprint = sha256_bytes("served", model)
        self._ids = lru_cache(_CACHED_TEXTS)(self._ask_ids)
        self._in_chat = lru_cache(_CACHED_TEXTS)(self._ask_chat)

    def provenance(self) -> dict[str, str | int | float | bool | None]:
        """The server's version is None where it does not say (a proxy).

        Raises:
            ModelError: the server cannot be reached, refuses the key, does not serve the model, or is not vLLM.
        """
        return {
            "backend": "openai-compatible",
            "server": self.client.address,
            "server_version": self._server.version,
            "model": self.model,
            "model_root": self._server.root,
            "max_model_len": self._server.max_model_len,
            "concurrency": self.client.concurrency,
            "batch_pairs": self.batch_pairs,
            "prefix_cache": "not read: vLLM computes whole prompts for prompt log-probs",
            "openai": importlib.metadata.version("openai"),
        }

    def plan(self, template: Template, pairs: Sequence[Pair]) -> list[PromptBatch]:
        """Batches of ``batch_pairs`` pairs in the order given. The server's own tokenizer makes the tokens.

        Raises:
            InputError: an answer has no tokens, or question and answer alone do not fit the context.
            ModelError: the tokenizer merges prompt and answer, or the prompt without a passage has no tokens. Or the server
                cannot be reached, refuses the key, does not serve the model, or is not vLLM.
        """
        if not pairs:
            return []
        context = self._server.max_model_len - 1  # a completion has one token at least
        prompts = [list(group) for _, group in groupby(pairs, key=lambda pair: (pair.passage, pair.question))]
        groups = self.client.concurrently(lambda group: [self._tokenise(context, template, pair) for pair in group], prompts)
        work = [tokens for group in groups for tokens in group]
        return [
            _batch(pairs[first : first + self.batch_pairs], work[first : first + self.batch_pairs])
            for first in range(0, len(pairs), self.batch_pairs)
        ]

    def read(self, batch: PromptBatch) -> list[Reading]:
        """One request per pair. The first failure ends the batch: what is not yet sent stays unsent.

        Raises:
            ModelError: the server gives NaN or infinite values, log-probs of other tokens or none, or cannot be reached.
        """
        return self.client.concurrently(lambda item: self._read(*item), zip(batch.pairs, batch.work, strict=True))

    def start_worker(self) -> None:
        pass

    def end_workers(self) -> None:
        pass

    def memory_mb(self, batch: PromptBatch) -> None:
        return None

    def _read(self, pair: Pair, tokens: Tokens) -> Reading:
        about = f"the answer {pair.answer[:40]!r} to {pair.question[:60]!r}"
        body = {"prompt": list(tokens.tokens), "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
        log_probs = self._log_probs(self.client.ask("/v1/completions", body, about), tokens, about)
        return Reading(pair.key, -math.fsum(log_probs), len(log_probs), tokens.truncated)

    def _log_probs(self, reply: Any, tokens: Tokens, about: str) -> list[float]:
        """Of the answer's tokens."""
        choices = self.client.field(reply, "/v1/completions", "choices", list)
        if len(choices) != 1:
            raise ModelError(
                f"{self.client.address} sends {len(choices)} completions of one prompt, for {about}: it is no vLLM server"
            )
        positions = choices[0].get("prompt_logprobs")
        if positions is None:
            raise ModelError(
                f"{self.client.address} sends no prompt_logprobs with its completions: serve the teacher with vLLM 0.8 or newer "
                "(vllm serve MODEL), and let no proxy in between drop the field"
            )
        names = list(map(str, tokens.tokens))
        # Nothing is said of the first token. Every other position has the one that was sent, perhaps among likelier ones.
        if len(positions) != len(names) or any(name not in (at or {}) for name, at in zip(names[1:], positions[1:], strict=True)):
            raise ModelError(
                f"{self.client.address} gives log-probs of other tokens than it was sent, for {about}: let no proxy in "
                "between change or truncate prompts; a vLLM older than 0.8 needs --no-enable-prefix-caching"
            )
        answer = slice(tokens.start, None)
        values = [at[name]["logprob"] for name, at in zip(names[answer], positions[answer], strict=True)]
        for value in values:
            if value is None or not (CLAMPED < value < math.inf):
                raise ModelError(self.client.not_finite(about, value))
            if value > 0:
                raise ModelError(
                    f"{self.client.address} gives the log-probability {value} for {about}, which none can be: "
                    "start the server with --logprobs-mode raw_logprobs"
                )
        return values

    def _tokenise(self, context: int, template: Template, pair: Pair) -> Tokens:
        """A passage too long for the context loses its beginning, the end far from the answer."""
        passage, truncated = pair.passage, False
        while True:
            text = template.prompt(pair.question, passage)
            prompt, text = self._in_chat(text) if template.chat else (self._encode(text), text)
            whole = self._encode(text + template.completion(pair.answer), written_out=template.chat)
            excess = len(whole) - context
            if excess <= 0:
                return checked(pair, prompt, whole, truncated)
            if not passage:
                raise InputError(f"question {pair.question[:60]!r} and its answer exceed the teacher's {context} tokens")
            passage, truncated = self._without_first_tokens(passage, excess), True

    def _encode(self, text: str, written_out: bool = False) -> "array[int]":
        """``written_out``: the text holds its special tokens, as a chat template puts them."""
        if written_out:
            return self._ids(text, False)
        # Closing special tokens belong after the answer, not between prompt and answer.
        ids = self._ids(text, True)
        return ids[: len(ids) - self._server.closing]

    def _ask_chat(self, text: str) -> tuple["array[int]", str]:
        """Tokens and text of a user's message in the model's chat template, up to where the assistant's begins.

        Raises:
            ModelError: the model has no chat template, or its text does not come back from its tokens.
        """
        body = {"messages": [user(text)], "add_generation_prompt": True, "chat_template_kwargs": TEMPLATE_OPTIONS}
        reply = self.client.ask("/tokenize", body, "a prompt in the model's chat template (chat: true)")
        ids = array("i", self.client.field(reply, "/tokenize", "tokens", list))
        written = self.client.field(self.client.ask("/detokenize", {"tokens": ids.tolist()}), "/detokenize", "prompt", str)
        if self._ids(written, False) != ids:
            raise ModelError(
                f"{self.client.address}: a prompt in the chat template of {self.model!r} does not come back from its tokens, "
                "so no answer can be put after it: use the local engine, or chat: false"
            )
        return ids, written

    def _without_first_tokens(self, passage: str, count: int) -> str:
        ids = self._ids(passage, False)
        if count >= len(ids):
            return ""
        rest = self.client.field(self.client.ask("/detokenize", {"tokens": ids[count:].tolist()}), "/detokenize", "prompt", str)
        # Only its length counts: the text itself may begin with half a letter. And the passage gets shorter in any case.
        return passage[len(passage) - min(len(rest), len(passage) - 1) :].lstrip()

    def _ask_ids(self, text: str, special: bool) -> "array[int]":
        reply = self.client.ask("/tokenize", {"prompt": text, "add_special_tokens": special})
        return array("i", self.client.field(reply, "/tokenize", "tokens", list))

    @cached_property
    def _server(self) -> _Server:
        models = self.client.field(self.client.ask("/v1/models"), "/v1/models", "data", list)
        served = {card.get("id"): card for card in models}
        if self.model not in served:
            names = ", ".join(map(repr, sorted(served))) or "nothing"
            raise ModelError(
                f"{self.client.address} serves {names}, not {self.model!r}: correct the teacher's name, or start the server with "
                f"--served-model-name {self.model}"
            )
        reply = self.client.ask("/tokenize", {"prompt": "a", "add_special_tokens": True})
        with_special, plain = self.client.field(reply, "/tokenize", "tokens", list), list(self._ids("a", False))
        return _Server(
            self.client.version(),
            served[self.model].get("root"),
            self.client.field(reply, "/tokenize", "max_model_len", int),
            closing_tokens(with_special, plain),
        )


def _batch(pairs: Sequence[Pair], work: Sequence[Tokens]) -> PromptBatch:
    tokens = sum(len(item.tokens) for item in work)
    return PromptBatch(tuple(pairs), tokens, tokens, tuple(work))
