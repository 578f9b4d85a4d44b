"""A local server that answers as vLLM 0.33 does, over real HTTP, with a real (tiny) model behind it.

It was written after reading vLLM's (vllm/entrypoints: completion, tokenize, models, middleware, exception handling). No text of
it is taken. The routes, the fields, the order of the checks, the error bodies and their status codes are the same. It leaves
out what a teacher has no use for: streaming, sampling, LoRA.
"""

import contextlib
import json
import math
import socket
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict
from transformers import AutoModelForCausalLM, AutoTokenizer

VERSION = "0.33.0"
GUARDED = ("/v1", "/v2", "/inference", "/cohere")  # /tokenize and /version are open to all


class Seen(NamedTuple):
    path: str
    headers: dict[str, str]
    body: Any


class CompletionRequest(BaseModel):
    model_config = ConfigDict(extra="allow")
    model: str | None = None
    prompt: list[int] | list[list[int]] | str | list[str]
    max_tokens: int | None = 16
    temperature: float | None = None
    prompt_logprobs: int | None = None


class ChatRequest(BaseModel):
    model_config = ConfigDict(extra="allow")
    model: str | None = None
    messages: list[dict[str, str]]
    max_tokens: int | None = None
    temperature: float | None = None
    logprobs: bool = False
    top_logprobs: int = 0


class TokenizeRequest(BaseModel):
    model_config = ConfigDict(extra="allow")
    model: str | None = None
    prompt: str
    add_special_tokens: bool = True


class TokenizeChatRequest(BaseModel):
    model_config = ConfigDict(extra="allow")
    model: str | None = None
    messages: list[dict[str, str]]
    add_generation_prompt: bool = True
    add_special_tokens: bool = False
    chat_template_kwargs: dict[str, Any] | None = None


class DetokenizeRequest(BaseModel):
    model_config = ConfigDict(extra="allow")
    model: str | None = None
    tokens: list[int]


class Refused(Exception):
    """What vLLM answers with an error body."""

    def __init__(self, message: str, kind: str = "BadRequestError", status: int = 400, parameter: str | None = None):
        super().__init__(message)
        self.body = {"error": {"message": message, "type": kind, "param": parameter, "code": status}}
        self.status = status


class VllmLikeServer:
    """Runs in a thread between ``__enter__`` and ``__exit__``.

    Attributes:
        seen: every request, in the order of arrival.
        peak: most completions in the making at once.
        refusals: (status, message) that the next completions get instead of an answer.
        wait_for: a completion is held until so many are in the making at once, 10 seconds at most.
        hold: completions wait for this event.
        change_logits: applied to the model's logits.
        change_answer: applied to a completion's JSON; a Response is sent as it is.
    """

    def __init__(self, folder: Path, name: str, api_key: str | None = None, max_model_len: int = 512):
        self.folder, self.name, self.api_key, self.max_model_len = folder, name, api_key, max_model_len
        self.model = AutoModelForCausalLM.from_pretrained(folder).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self._changed = threading.Condition()
        self.reset()
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(self._app(), log_level="critical", lifespan="off", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True)

    def reset(self) -> None:
        self.seen: list[Seen] = []
        self.refusals: list[tuple[int, str]] = []
        self.wait_for, self.peak, self._running = 1, 0, 0
        self.hold = threading.Event()
        self.hold.set()
        self.change_logits: Callable[[torch.Tensor], torch.Tensor] = lambda logits: logits
        self.change_answer: Callable[[dict], dict | Response] = lambda answer: answer

    def __enter__(self) -> "VllmLikeServer":
        self._thread.start()
        while not self._server.started:
            time.sleep(0.005)
        return self

    def __exit__(self, *_) -> None:
        self.hold.set()
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()

    def requests(self, path: str) -> list[Seen]:
        return [request for request in self.seen if request.path == path]

    def _app(self) -> FastAPI:
        app = FastAPI()

        @app.middleware("http")
        async def authenticate(request: Request, call_next):
            body = await request.body()
            path = request.url.path
            self.seen.append(Seen(path, dict(request.headers), json.loads(body) if body else None))
            if self.api_key and path.startswith(GUARDED) and request.headers.get("authorization") != f"Bearer {self.api_key}":
                return JSONResponse({"error": "Unauthorized"}, 401)
            return await call_next(request)

        @app.exception_handler(Refused)
        async def refused(request: Request, error: Refused):
            return JSONResponse(error.body, error.status)

        @app.exception_handler(RequestValidationError)
        async def invalid(request: Request, error: RequestValidationError):
            return JSONResponse(Refused(str(error.errors()), "Bad Request").body, 400)

        @app.exception_handler(ValueError)  # among them: a NaN that JSON cannot hold
        async def value_error(request: Request, error: ValueError):
            return JSONResponse(Refused(str(error)).body, 400)

        app.get("/version")(lambda: JSONResponse({"version": VERSION}))
        app.get("/v1/models")(self._models)
        app.post("/v1/completions")(self._completions)
        app.post("/v1/chat/completions")(self._chat_completions)
        app.post("/tokenize")(self._tokenize)
        app.post("/detokenize")(self._detokenize)
        return app

    def _models(self):
        card = {
            "id": self.name, "object": "model", "created": int(time.time()), "owned_by": "vllm", "root": str(self.folder),
            "parent": None, "max_model_len": self.max_model_len, "permission": [],
        }  # fmt: skip
        return JSONResponse({"object": "list", "data": [card]})

    def _check_model(self, name: str | None) -> None:
        if name and name != self.name:
            raise Refused(f"The model `{name}` does not exist.", "NotFoundError", 404, "model")

    def _tokenize(self, request: TokenizeRequest | TokenizeChatRequest):
        self._check_model(request.model)
        text = request.prompt if isinstance(request, TokenizeRequest) else self._in_chat(request)
        tokens = self.tokenizer(text, add_special_tokens=request.add_special_tokens, verbose=False)["input_ids"]
        return JSONResponse({"count": len(tokens), "max_model_len": self.max_model_len, "tokens": tokens, "token_strs": None})

    def _in_chat(self, request: TokenizeChatRequest) -> str:
        if not self.tokenizer.chat_template:
            raise Refused(
                "As of transformers v4.44, default chat template is no longer allowed, so you must provide a chat template if "
                "the tokenizer does not define one."
            )
        return self.tokenizer.apply_chat_template(
            request.messages, tokenize=False, add_generation_prompt=request.add_generation_prompt,
            **(request.chat_template_kwargs or {}),
        )  # fmt: skip

    def _detokenize(self, request: DetokenizeRequest):
        self._check_model(request.model)
        return JSONResponse({"prompt": self.tokenizer.decode(request.tokens)})

    def _completions(self, request: CompletionRequest):
        return self._made(lambda: self._answer(request))

    def _chat_completions(self, request: ChatRequest):
        return self._made(lambda: self._chat_answer(request))

    def _made(self, answer: Callable[[], dict]) -> Response:
        with self._in_the_making():
            if self.refusals:
                status, message = self.refusals.pop(0)
                raise Refused(message, "ServiceUnavailableError" if status == 503 else "InternalServerError", status)
            changed = self.change_answer(answer())
            return changed if isinstance(changed, Response) else JSONResponse(changed)

    @contextlib.contextmanager
    def _in_the_making(self):
        with self._changed:
            self._running += 1
            self.peak = max(self.peak, self._running)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self.peak >= self.wait_for, timeout=10)
        self.hold.wait()
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1

    def _answer(self, request: CompletionRequest) -> dict:
        if (request.prompt_logprobs or 0) < -1:
            raise Refused("`prompt_logprobs` must be a positive value or -1.", parameter="prompt_logprobs")
        self._check_model(request.model)
        several = isinstance(request.prompt, list) and not isinstance(request.prompt[0], int)
        prompts = [
            self.tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else prompt
            for prompt in (request.prompt if several else [request.prompt])
        ]
        wanted = 16 if request.max_tokens is None else request.max_tokens
        for prompt in prompts:
            if len(prompt) > self.max_model_len:
                raise Refused(
                    f"This model's maximum context length is {self.max_model_len} tokens. However, your prompt contains "
                    f"{len(prompt)} input tokens, which exceeds this limit even without any output tokens. "
                    "Please reduce the length of the input prompt.", parameter="input_tokens",
                )  # fmt: skip
            allowed = min(wanted, self.max_model_len - len(prompt))
            if allowed < 1:
                raise Refused(f"max_tokens must be at least 1, got {allowed}.", parameter="max_tokens")
        choices = [self._choice(index, prompt, wanted, request.prompt_logprobs) for index, prompt in enumerate(prompts)]
        read, written = sum(map(len, prompts)), wanted * len(prompts)
        return {
            "id": f"cmpl-{uuid.uuid4().hex}", "object": "text_completion", "created": int(time.time()), "model": self.name,
            "choices": choices, "service_tier": None, "system_fingerprint": f"vllm-{VERSION}-00000000",
            "usage": {"prompt_tokens": read, "total_tokens": read + written, "completion_tokens": written,
                      "prompt_tokens_details": None},
            "kv_transfer_params": None,
        }  # fmt: skip

    def _chat_answer(self, request: ChatRequest) -> dict:
        """Of one token."""
        self._check_model(request.model)
        if request.top_logprobs > 20:
            raise Refused("Requested sample logprobs of 21, which is greater than max allowed: 20", parameter="logprobs")
        text = self._in_chat(TokenizeChatRequest(messages=request.messages, chat_template_kwargs={"enable_thinking": False}))
        prompt = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(prompt) + 1 > self.max_model_len:
            raise Refused(f"This model's maximum context length is {self.max_model_len} tokens.", parameter="input_tokens")
        log_probs = self._log_probs(prompt)[-1]
        top = [self._chat_position(log_probs, each) for each in log_probs.topk(max(request.top_logprobs, 1)).indices.tolist()]
        content = [top[0] | {"top_logprobs": top[: request.top_logprobs]}]
        choice = {
            "index": 0, "message": {"role": "assistant", "content": top[0]["token"], "refusal": None}, "finish_reason": "length",
            "logprobs": {"content": content} if request.logprobs else None, "stop_reason": None,
        }  # fmt: skip
        return {
            "id": f"chatcmpl-{uuid.uuid4().hex}", "object": "chat.completion", "created": int(time.time()), "model": self.name,
            "choices": [choice], "service_tier": None, "system_fingerprint": None, "prompt_logprobs": None,
            "usage": {"prompt_tokens": len(prompt), "total_tokens": len(prompt) + 1, "completion_tokens": 1},
        }  # fmt: skip

    def _chat_position(self, log_probs: torch.Tensor, token: int) -> dict:
        text = self.tokenizer.decode([token])
        return {"token": text, "logprob": max(log_probs[token].item(), -9999.0), "bytes": list(text.encode(errors="replace"))}

    def _choice(self, index: int, prompt: list[int], max_tokens: int, alternatives: int | None) -> dict:
        at_prompt = self._log_probs(prompt)
        tokens = [*prompt, int(at_prompt[-1].argmax())]
        while len(tokens) - len(prompt) < min(max_tokens, self.max_model_len - len(prompt)):
            tokens.append(int(self._log_probs(tokens)[-1].argmax()))
        return {
            "index": index, "text": self.tokenizer.decode(tokens[len(prompt) :]), "logprobs": None, "finish_reason": "length",
            "stop_reason": None, "token_ids": None, "prompt_token_ids": None, "routed_experts": None,
            "prompt_logprobs": None if alternatives is None else [
                None, *(self._position(at_prompt[i], token, alternatives) for i, token in enumerate(prompt[1:]))
            ],
        }  # fmt: skip

    @torch.inference_mode()
    def _log_probs(self, tokens: list[int]) -> torch.Tensor:
        return self.change_logits(self.model(torch.tensor([tokens])).logits[0]).log_softmax(-1)

    def _position(self, log_probs: torch.Tensor, token: int, alternatives: int) -> dict:
        """The token that stands there, then the likeliest ones: token id (a string, as JSON has no others for keys) to facts."""
        top = log_probs.topk(len(log_probs) if alternatives == -1 else alternatives).indices.tolist()
        facts = {}
        for each in dict.fromkeys([token, *top]):
            value = log_probs[each].item()
            facts[str(each)] = {
                "logprob": -9999.0 if value == -math.inf else value,
                "rank": int((log_probs >= log_probs[each]).sum()),
                "decoded_token": self.tokenizer.decode([each]),
            }
        return facts
