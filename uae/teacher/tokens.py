"""Prompts and answers as tokens: the answer's are the same with and without the passage, and everything fits the context."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from uae.io.errors import InputError, ModelError
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
        ModelError: the tokenizer merges prompt and answer, or the prompt without a passage has no tokens.
    """
    tail = closing_tokens(tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)["input_ids"])
    prompts = [template.prompt(pair.question, pair.passage) for pair in pairs]
    wholes = [prompt + template.completion(pair.answer) for prompt, pair in zip(prompts, pairs, strict=True)]
    of_prompts, of_wholes = _encode(tokenizer, prompts, tail), _encode(tokenizer, wholes, tail)
    return [
        checked(pair, prompt, whole, False)
        if len(whole) <= context
        else _truncated(tokenizer, context, template, pair, len(whole) - context, tail)
        for pair, prompt, whole in zip(pairs, of_prompts, of_wholes, strict=True)
    ]


def _truncated(
    tokenizer: "PreTrainedTokenizerBase", context: int, template: Template, pair: Pair, excess: int, tail: int
) -> Tokens:
    passage = pair.passage
    while excess > 0:
        if not passage:
            raise InputError(f"question {pair.question[:60]!r} and its answer exceed the teacher's {context} tokens")
        passage = _without_first_tokens(tokenizer, passage, excess)
        text = template.prompt(pair.question, passage)
        prompt, whole = _encode(tokenizer, [text, text + template.completion(pair.answer)], tail)
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


def _encode(tokenizer: "PreTrainedTokenizerBase", texts: list[str], tail: int) -> list[list[int]]:
    encoded = tokenizer(texts, verbose=False)["input_ids"]  # verbose: it would warn of lengths, which are dealt with above
    return [ids[: len(ids) - tail] for ids in encoded]


def closing_tokens(with_special: list[int], plain: list[int]) -> int:
    """How many special tokens a tokenizer puts at a text's end, from one text's tokens with and without them.

    They belong after the answer, not between prompt and answer.
    """
    extra = len(with_special) - len(plain)
    matching = (tail for tail in range(extra + 1) if with_special[extra - tail : len(with_special) - tail] == plain)
    return next(matching, 0)
