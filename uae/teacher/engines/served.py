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
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, lru_cache
from itertools import groupby
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import openai

from uae.io.errors import ConfigError, InputError, ModelError, without_user_info
from uae.io.files import sha256_bytes
from uae.teacher.prompts import Template
from uae.teacher.protocol import Pair, PromptBatch, Reading
from uae.teacher.tokens import Tokens, checked, closing_tokens

MAX_RETRIES = 5  # with the client's growing pauses about a quarter of a minute
_CONNECT_SECONDS = 10.0  # an address without a server shall not take ``timeout_s``, which is meant for a busy one
_NO_KEY = "EMPTY"  # vLLM's documentation sends this; without any the client would take OPENAI_API_KEY and give it to the server
_NOT_FINITE = "not JSON compliant"  # how vLLM says that it could not write NaN or infinity into its answer
_CLAMPED = -9999.0  # what vLLM sends for minus infinity, which JSON cannot hold
_CACHED_TEXTS = 1024  # whose tokens are remembered: a prompt comes with several answers, a long passage with several questions

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


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
        self._root, self._address = _root_and_address(url)
        self._key = (api_key or "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise ConfigError("the teacher's API key has characters that no key can have: look for a line break or a quote in it")
        self.model, self.concurrency, self.timeout_s, self.batch_pairs = model, concurrency, timeout_s, batch_pairs
        self.workers = 1  # it has threads of its own, for requests
        self.fingerprint = sha256_bytes("served", model)
        self._client = openai.OpenAI(
            base_url=f"{self._root}/v1",
            api_key=self._key or _NO_KEY,
            timeout=openai.Timeout(timeout_s, connect=min(timeout_s, _CONNECT_SECONDS)),
            max_retries=MAX_RETRIES,
        )
        self._ids = lru_cache(_CACHED_TEXTS)(self._ask_ids)

    def provenance(self) -> dict[str, str | int | float | bool | None]:
        """The server's version is None where it does not say (a proxy).

        Raises:
            ModelError: the server cannot be reached, refuses the key, does not serve the model, or is not vLLM.
        """
        return {
            "backend": "openai-compatible",
            "server": self._address,
            "server_version": self._server.version,
            "model": self.model,
            "model_root": self._server.root,
            "max_model_len": self._server.max_model_len,
            "concurrency": self.concurrency,
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
        groups = self._concurrently(lambda group: [self._tokenise(context, template, pair) for pair in group], prompts)
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
        return self._concurrently(lambda item: self._read(*item), zip(batch.pairs, batch.work, strict=True))

    def start_worker(self) -> None:
        pass

    def end_workers(self) -> None:
        pass

    def memory_mb(self, batch: PromptBatch) -> None:
        return None

    def _read(self, pair: Pair, tokens: Tokens) -> Reading:
        about = f"the answer {pair.answer[:40]!r} to {pair.question[:60]!r}"
        body = {"prompt": list(tokens.tokens), "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
        log_probs = self._log_probs(self._ask("/v1/completions", body, about), tokens, about)
        return Reading(pair.key, -math.fsum(log_probs), len(log_probs), tokens.truncated)

    def _log_probs(self, reply: Any, tokens: Tokens, about: str) -> list[float]:
        """Of the answer's tokens."""
        choices = self._field(reply, "/v1/completions", "choices", list)
        if len(choices) != 1:
            raise ModelError(f"{self._address} sends {len(choices)} completions of one prompt, for {about}: it is no vLLM server")
        positions = choices[0].get("prompt_logprobs")
        if positions is None:
            raise ModelError(
                f"{self._address} sends no prompt_logprobs with its completions: serve the teacher with vLLM 0.8 or newer "
                "(vllm serve MODEL), and let no proxy in between drop the field"
            )
        names = list(map(str, tokens.tokens))
        # Nothing is said of the first token. Every other position has the one that was sent, perhaps among likelier ones.
        if len(positions) != len(names) or any(name not in (at or {}) for name, at in zip(names[1:], positions[1:], strict=True)):
            raise ModelError(
                f"{self._address} gives log-probs of other tokens than it was sent, for {about}: let no proxy in between change "
                "or truncate prompts; a vLLM older than 0.8 needs --no-enable-prefix-caching"
            )
        answer = slice(tokens.start, None)
        values = [at[name]["logprob"] for name, at in zip(names[answer], positions[answer], strict=True)]
        for value in values:
            if value is None or not (_CLAMPED < value < math.inf):
                raise ModelError(self._not_finite(about, value))
            if value > 0:
                raise ModelError(
                    f"{self._address} gives the log-probability {value} for {about}, which none can be: "
                    "start the server with --logprobs-mode raw_logprobs"
                )
        return values

    def _tokenise(self, context: int, template: Template, pair: Pair) -> Tokens:
        """A passage too long for the context loses its beginning, the end far from the answer."""
        passage, truncated = pair.passage, False
        while True:
            text = template.prompt(pair.question, passage)
            whole = self._encode(text + template.completion(pair.answer))
            excess = len(whole) - context
            if excess <= 0:
                return checked(pair, self._encode(text), whole, truncated)
            if not passage:
                raise InputError(f"question {pair.question[:60]!r} and its answer exceed the teacher's {context} tokens")
            passage, truncated = self._without_first_tokens(passage, excess), True

    def _encode(self, text: str) -> "array[int]":
        # Closing special tokens belong after the answer, not between prompt and answer.
        ids = self._ids(text, True)
        return ids[: len(ids) - self._server.closing]

    def _without_first_tokens(self, passage: str, count: int) -> str:
        ids = self._ids(passage, False)
        if count >= len(ids):
            return ""
        rest = self._field(self._ask("/detokenize", {"tokens": ids[count:].tolist()}), "/detokenize", "prompt", str)
        # Only its length counts: the text itself may begin with half a letter. And the passage gets shorter in any case.
        return passage[len(passage) - min(len(rest), len(passage) - 1) :].lstrip()

    def _ask_ids(self, text: str, special: bool) -> "array[int]":
        reply = self._ask("/tokenize", {"prompt": text, "add_special_tokens": special})
        return array("i", self._field(reply, "/tokenize", "tokens", list))

    @cached_property
    def _server(self) -> _Server:
        models = self._field(self._ask("/v1/models"), "/v1/models", "data", list)
        served = {card.get("id"): card for card in models}
        if self.model not in served:
            names = ", ".join(map(repr, sorted(served))) or "nothing"
            raise ModelError(
                f"{self._address} serves {names}, not {self.model!r}: correct the teacher's name, or start the server with "
                f"--served-model-name {self.model}"
            )
        try:
            said: Any = self._client.get(f"{self._root}/version", cast_to=object)
            version = said.get("version")
        except (openai.OpenAIError, ValueError, AttributeError):
            version = None  # only for the record
        reply = self._ask("/tokenize", {"prompt": "a", "add_special_tokens": True})
        with_special, plain = self._field(reply, "/tokenize", "tokens", list), list(self._ids("a", False))
        return _Server(
            version,
            served[self.model].get("root"),
            self._field(reply, "/tokenize", "max_model_len", int),
            closing_tokens(with_special, plain),
        )

    def _concurrently(self, function: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
        with ThreadPoolExecutor(self.concurrency) as pool:
            return list(pool.map(function, items))  # after an exception map cancels what has not begun

    def _ask(self, path: str, body: dict[str, Any] | None = None, about: str = "") -> Any:
        """GET, or POST with a body. The answer's JSON, or text where it is none."""
        # Not client.completions.create: it checks and rebuilds every item of request and answer, 38 ms against 5 for a prompt of
        # 1500 tokens, and threads share one interpreter.
        url = self._root + path
        try:
            if body is None:
                return self._client.get(url, cast_to=object)
            return self._client.post(url, body={"model": self.model, **body}, cast_to=object)
        # From None: the client's own errors hold the request with its key.
        except openai.APITimeoutError:
            limits = f"{min(self.timeout_s, _CONNECT_SECONDS):g} seconds to connect, {self.timeout_s:g} to answer"
            raise ModelError(
                f"{self._address} did not answer in time, {MAX_RETRIES + 1} times in a row ({limits}): look whether the server "
                "is up, lower the concurrency, or allow more time",
                transient=True,
            ) from None
        except openai.APIConnectionError as error:
            reason = self._clean(str(error.__cause__))
            said = f"{self._address} cannot be reached ({reason}): start the server, or correct the address"
            raise ModelError(said, transient=True) from None
        except openai.APIStatusError as error:
            busy = error.status_code in (408, 409, 429) or error.status_code >= 500  # those that the client asks again
            transient = busy and _NOT_FINITE not in str(error.body)
            raise ModelError(self._refusal(error, path, about), transient=transient) from None
        except ValueError:
            raise ModelError(f"{self._address}{path} does not answer in JSON: the address is not that of a vLLM server") from None

    def _refusal(self, error: openai.APIStatusError, path: str, about: str) -> str:
        status = error.status_code
        if status in (401, 403):
            fault = "refuses the API key" if self._key else "asks for an API key"
            return f"{self._address} {fault} ({status}): set the one that the server was started with (vllm serve --api-key)"
        body = error.body
        said = (body.get("message") or body.get("detail")) if isinstance(body, dict) else body
        said = self._clean(str(said or "no reason given"))
        if _NOT_FINITE in said:
            return self._not_finite(about, "NaN or infinity")
        if status == 404:
            return (
                f"{self._address}{path} answers 404 ({said}): the address must be that of a vLLM server, whose /v1/completions, "
                f"/tokenize and /detokenize are needed, and the model {self.model!r} be served there"
            )
        tries = int(error.request.headers.get("x-stainless-retry-count", 0)) + 1
        times = f" ({tries} times in a row)" if tries > 1 else ""
        return f"{self._address}{path} answers {status}{times}{f' for {about}' if about else ''}: {said}"

    def _not_finite(self, about: str, value: object) -> str:
        shown = "minus infinity" if value in (_CLAMPED, -math.inf) else value
        return (
            f"{self._address} gives {shown} for {about}: serve the teacher in another number format "
            "(vllm serve --dtype bfloat16 or float32); if it stays, the model's weights are damaged"
        )

    def _field(self, reply: Any, path: str, name: str, kind: type) -> Any:
        value = reply.get(name) if isinstance(reply, dict) else None
        if not isinstance(value, kind):
            raise ModelError(f"{self._address}{path} answers without {name!r}: the address is not that of a vLLM server")
        return value

    def _clean(self, text: str) -> str:
        """What a server or a library said, on one line, short, and without the key."""
        line = " ".join(text.split())
        return (line.replace(self._key, "***") if self._key else line)[:300]


def _batch(pairs: Sequence[Pair], work: Sequence[Tokens]) -> PromptBatch:
    tokens = sum(len(item.tokens) for item in work)
    return PromptBatch(tuple(pairs), tokens, tokens, tuple(work))


def _root_and_address(url: str) -> tuple[str, str]:
    """The server's root, and what of it may be shown: a password can stand in an address."""
    try:
        parts = urlsplit(url.strip())
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and len(url.split()) == 1
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError("the teacher's address must look like http://host:8000 or https://host/v1")
    path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path}", without_user_info(f"{parts.scheme}://{parts.netloc}")
