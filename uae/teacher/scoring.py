"""Answer NLLs under a causal LM, with the tokens that prompts share computed once.

Pairs are grouped by passage. The longest common token prefix of a group's prompts (the passage and the template around it) goes
through the model once; its key-value cache is repeated over the group's questions, which run as batches padded on the left,
so that the answers end in the same column and logits are computed for the answer positions only.
"""

import copy
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from uae.compute import hide_loading_bars, pick_device, pick_dtype
from uae.errors import InputError, ModelError
from uae.teacher.prompts import Template
from uae.teacher.protocol import Pair, Reading


class _Tokens(NamedTuple):
    pair: Pair
    prompt: list[int]
    answer: list[int]
    truncated: bool


def load_causal_lm(folder: Path, device: str, dtype: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """
    Raises:
        ModelError: no causal LM with a tokenizer there, or its weights are not safetensors.
    """
    device = pick_device(device)
    hide_loading_bars()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=pick_dtype(dtype, device), use_safetensors=True, local_files_only=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{folder} cannot be loaded as a causal LM with a tokenizer: {str(error).splitlines()[0]}") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model.to(device).eval(), tokenizer


class CausalTeacher:
    """Reads pairs with a decoder-only LM under one prompt template."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, template: Template, batch_tokens: int):
        self.model, self.tokenizer, self.template, self.batch_tokens = model, tokenizer, template, batch_tokens
        self.context = min(getattr(model.config, "max_position_embeddings", 1 << 30), tokenizer.model_max_length)

    def read(self, pairs: Sequence[Pair]) -> Iterator[list[Reading]]:
        """Yield the readings of one passage after another. Pairs with the same passage must stand together.

        Raises:
            InputError: an answer has no tokens, or question and answer alone do not fit the context.
            ModelError: the tokenizer merges prompt and answer, or the model yields NaN.
        """
        for _, group in groupby(pairs, key=lambda pair: pair.passage):
            tokens = [self._tokenise(pair) for pair in group]
            # A truncated passage differs from question to question: the common prefix is then just shorter.
            shared = _common_prefix([t.prompt for t in tokens])
            cache = self._prefix_cache(tokens[0].prompt[:shared]) if shared else None
            readings = []
            for batch in _batches(tokens, shared, self.batch_tokens):
                readings += self._read_batch(batch, shared, cache)
            yield readings

    def _tokenise(self, pair: Pair) -> _Tokens:
        passage, truncated = pair.passage, False
        answer_text = self.template.completion(pair.answer)
        while True:
            text = self.template.prompt(pair.question, passage)
            prompt = self.tokenizer(text)["input_ids"]
            whole = self.tokenizer(text + answer_text)["input_ids"]
            excess = len(whole) - self.context
            if excess <= 0:
                break
            if not passage:
                raise InputError(f"question {pair.question[:60]!r} and its answer exceed the teacher's {self.context} tokens")
            passage, truncated = self._drop_tokens(passage, excess), True
        if whole[: len(prompt)] != prompt:
            raise ModelError(
                f"the tokenizer merges the prompt's end with the answer {pair.answer[:40]!r}: its tokens would differ with "
                "the prompt. End the template's question part so that the answer starts a new token (': {answer}')"
            )
        if len(whole) == len(prompt):
            raise InputError(f"the answer {pair.answer[:40]!r} to {pair.question[:60]!r} has no tokens")
        return _Tokens(pair, prompt, whole[len(prompt) :], truncated)

    def _drop_tokens(self, passage: str, count: int) -> str:
        """Cut at the far end from the answer, which is the passage's beginning."""
        offsets = self.tokenizer(passage, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        return passage[offsets[count][0] :].lstrip() if count < len(offsets) else ""

    @torch.inference_mode()
    def _prefix_cache(self, prefix: list[int]):
        ids = torch.tensor([prefix], device=self.model.device)
        return self.model(ids, use_cache=True, logits_to_keep=1).past_key_values

    @torch.inference_mode()
    def _read_batch(self, batch: list[_Tokens], shared: int, cache) -> list[Reading]:
        rows = [t.prompt[shared:] + t.answer for t in batch]
        width, keep = max(map(len, rows)), max(len(t.answer) for t in batch)
        ids = torch.full((len(rows), width), self.tokenizer.pad_token_id)
        mask = torch.zeros((len(rows), shared + width), dtype=torch.long)
        mask[:, :shared] = 1
        for row, tokens in enumerate(rows):
            ids[row, width - len(tokens) :] = torch.tensor(tokens)
            mask[row, shared + width - len(tokens) :] = 1
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, shared:]
        past = None
        if cache is not None:
            past = copy.deepcopy(cache)
            past.batch_repeat_interleave(len(rows))
        device = self.model.device
        logits = self.model(
            ids.to(device),
            attention_mask=mask.to(device),
            position_ids=positions.to(device),
            past_key_values=past,
            use_cache=past is not None,
            logits_to_keep=keep + 1,
        ).logits[:, :-1]
        # The row's last `keep` tokens, of which its own answer is the tail.
        nll = torch.nn.functional.cross_entropy(
            logits.float().transpose(1, 2), ids[:, width - keep :].to(device), reduction="none"
        )
        sums = [nll[row, keep - len(t.answer) :].double().sum().item() for row, t in enumerate(batch)]
        for t, value in zip(batch, sums, strict=True):
            if not (0 <= value < float("inf")):
                raise ModelError(f"the teacher gives {value} for the answer {t.pair.answer[:40]!r}: try compute.dtype=float32")
        return [Reading(t.pair.key, value, len(t.answer), t.truncated) for t, value in zip(batch, sums, strict=True)]


def _common_prefix(prompts: list[list[int]]) -> int:
    """Tokens that all prompts begin with; at least one token of each stays outside, for its logits start the answer."""
    limit = min(map(len, prompts)) - 1
    first, last = min(prompts), max(prompts)
    return next((i for i in range(limit) if first[i] != last[i]), limit)


def _batches(tokens: list[_Tokens], shared: int, budget: int) -> Iterator[list[_Tokens]]:
    """Longest first; a batch's padded size, cached prefix included, stays within ``budget`` tokens (one row at least)."""
    batch: list[_Tokens] = []
    width = 0
    for item in sorted(tokens, key=lambda t: (-len(t.prompt) - len(t.answer), t.pair.key)):
        width = width or len(item.prompt) + len(item.answer)
        if batch and width * (len(batch) + 1) > budget:
            yield batch
            batch, width = [], len(item.prompt) + len(item.answer)
        batch.append(item)
    yield batch
