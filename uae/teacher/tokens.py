"""Prompts and answers as tokens: the answer's are the same with and without the passage, and everything fits the context."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from uae.io.errors import InputError, ModelError
from uae.teacher.chat import in_chat_template, user
from uae.teacher.prompts import Template
from uae.teacher.protocol import Pair

if TYPE_CHECKING:  # an engine that asks a server has no need of it
    from transformers import PreTrainedTokenizerBase


class Tokens(NamedTuple):
    tokens: Sequence[int]  # the prompt's, then the answer's
    start: int  # of the answer
    truncated: bool


def tokenise(tokenizer: "PreTrainedTokenizerBase", context: int, template: Template, pairs: Sequence[Pair]) -> list[Tokens]:
    """Tokens of each pair, in order. A passage too long for ``context`` loses its beginning, the end far from the answer.

    Raises:
        InputError: an answer has no tokens, or question and answer alone do not fit the context.
        ModelError: the tokenizer merges prompt and answer, the prompt without a passage has no tokens, or there is no chat
            template where one is asked for.
    """
    form = _Form(tokenizer, template)
    prompts = [form.prompt(pair, pair.passage) for pair in pairs]
    wholes = [prompt + template.completion(pair.answer) for prompt, pair in zip(prompts, pairs, strict=True)]
    return [
        checked(pair, prompt, whole, False) if len(whole) <= context else _truncated(form, context, pair, len(whole) - context)
        for pair, prompt, whole in zip(pairs, form.encode(prompts), form.encode(wholes), strict=True)
    ]


class _Form:
    """How a template's prompts become text, and text becomes tokens."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", template: Template):
        self.tokenizer, self.template = tokenizer, template
        # A chat template writes the special tokens itself. Else the tokenizer adds them, and those at the end belong after the
        # answer.
        self.adds_special = not template.chat
        plain = tokenizer("a", add_special_tokens=False)["input_ids"]
        self.tail = closing_tokens(tokenizer("a")["input_ids"], plain) if self.adds_special else 0

    def prompt(self, pair: Pair, passage: str | None) -> str:
        text = self.template.prompt(pair.question, passage)
        return in_chat_template(self.tokenizer, [user(text)]) if self.template.chat else text

    def encode(self, texts: list[str]) -> list[list[int]]:
        # verbose: it would warn of lengths, which are dealt with by the caller
        encoded = self.tokenizer(texts, add_special_tokens=self.adds_special, verbose=False)["input_ids"]
        return [ids[: len(ids) - self.tail] for ids in encoded]


def _truncated(form: _Form, context: int, pair: Pair, excess: int) -> Tokens:
    passage = pair.passage
    while excess > 0:
        if not passage:
            raise InputError(f"question {pair.question[:60]!r} and its answer exceed the teacher's {context} tokens")
        passage = _without_first_tokens(form.tokenizer, passage, excess)
        text = form.prompt(pair, passage)
        prompt, whole = form.encode([text, text + form.template.completion(pair.answer)])
        excess = len(whole) - context
    return checked(pair, prompt, whole, True)


def checked(pair: Pair, prompt: Sequence[int], whole: Sequence[int], truncated: bool) -> Tokens:
    """A pair's tokens, from those of its prompt and of prompt and answer together. Raises as ``tokenise``."""
    if whole[: len(prompt)] != prompt:
        raise ModelError(
            f"the tokenizer merges the prompt's end with the answer {pair.answer[:40]!r}: its tokens would differ with "
            "the prompt. End the template's question part so that the answer starts a new token (': {answer}')"
        )
    if len(whole) == len(prompt):
        raise InputError(
            f"the answer {pair.answer[:40]!r} to {pair.question[:60]!r} has no tokens: correct it or remove it from the questions"
        )
    if not prompt:
        raise ModelError("the prompt without a passage has no tokens: begin the template's question part with some words")
    return Tokens(whole, len(prompt), truncated)


def _without_first_tokens(tokenizer: "PreTrainedTokenizerBase", passage: str, count: int) -> str:
    offsets = tokenizer(passage, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    return passage[offsets[count][0] :].lstrip() if count < len(offsets) else ""


def closing_tokens(with_special: list[int], plain: list[int]) -> int:
    """How many special tokens a tokenizer puts at a text's end, from one text's tokens with and without them.

    They belong after the answer, not between prompt and answer.
    """
    extra = len(with_special) - len(plain)
    matching = (tail for tail in range(extra + 1) if with_special[extra - tail : len(with_special) - tail] == plain)
    return next(matching, 0)
