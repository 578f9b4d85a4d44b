"""Prompts in a model's own chat template: what an instruct model was trained to read."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from uae.io.errors import ModelError

if TYPE_CHECKING:  # an engine that asks a server has no need of it
    from transformers import PreTrainedTokenizerBase

# Models that can think before they answer are asked not to: the answer's likelihood is read right after the prompt. Templates
# that know no such option ignore it.
TEMPLATE_OPTIONS: dict[str, Any] = {"enable_thinking": False}


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def in_chat_template(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Mapping[str, str]]) -> str:
    """``messages`` as one text that ends where the assistant's next message begins.

    It holds all special tokens: it is tokenised with ``add_special_tokens=False``.

    Args:
        messages: each with ``role`` and ``content``; the last one is the user's.

    Raises:
        ModelError: the model has no chat template, or its template refuses the messages or leaves the last one out.
    """
    name = tokenizer.name_or_path
    if not tokenizer.chat_template:
        raise ModelError(
            f"a prompt is to stand in the chat template of {name}, which has none: set chat to false, or take an instruct model"
        )
    try:
        text = tokenizer.apply_chat_template(
            [dict(message) for message in messages], tokenize=False, add_generation_prompt=True, **TEMPLATE_OPTIONS
        )
    except (TemplateError, ValueError, TypeError, KeyError) as error:
        raise ModelError(f"the chat template of {name} cannot be filled: {error}. Set chat to false, or mend it") from error
    if not isinstance(text, str) or messages[-1]["content"].strip() not in text:
        raise ModelError(f"the chat template of {name} leaves out what the user says: set chat to false, or mend the template")
    return text
