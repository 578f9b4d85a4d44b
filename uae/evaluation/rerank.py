"""LLM re-ranking of another system's first passages: the rival that pays for its quality with an LLM at query time.

By query likelihood, each passage by itself, or by a list, all passages in one prompt. A re-ranker is handed rankings and gives
rankings; what stands below the re-ranked top keeps its order.
"""

import string
from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from uae.io.errors import ConfigError, InputError, ModelError
from uae.measures.fusion import Rankings
from uae.measures.reranking import reorder
from uae.teacher.keys import answer_id
from uae.teacher.label import windows
from uae.teacher.prompts import Template
from uae.teacher.protocol import Pair, Teacher, read_all
from uae.teacher.tokens import closing_tokens

_LETTERS = string.ascii_uppercase + string.ascii_lowercase  # after a bracket a letter is one token of nearly every tokenizer
_FEWEST_TOKENS = 16  # of a passage: with less of it there is nothing to compare
_SEAM = 8  # tokens by which a passage may grow where it is joined to the prompt


def rerank_by_query_likelihood(
    rankings: Rankings, questions: pd.DataFrame, passages: pd.DataFrame, teacher: Teacher, template: Template, top: int
) -> dict[str, tuple[list[str], list[float]]]:
    """Order each question's first ``top`` passages by ``log p(question | passage)``, in nats per token of the question.

    Unsupervised passage re-ranking (Sachan et al., EMNLP 2022, arXiv 2204.07496). A question's tokens are the same after every
    passage, so that their sum would order alike.

    Nothing is kept: an interrupted call starts anew. ``passage_utility.passage_utilities`` of a teacher with the method
    ``query_likelihood`` keeps its readings, and ``reorder`` by them gives the same order.

    Args:
        questions, passages: of their schemas; those that are ranked must be among them.
        template: its question piece has no placeholder: the question is what is scored, and stands in the answer's place. It
            also says what is read of a passage.

    Raises:
        InputError, ModelError: as ``Teacher.plan`` and ``Teacher.read``.
    """
    asked, texts = _texts(questions, "question_id"), template.passages(passages)
    pairs = sorted((passage_id, question_id) for question_id, (ids, _) in rankings.items() for passage_id in ids[:top])
    work = [
        Pair(
            (question_id, passage_id, answer_id(asked[question_id]), template.hash, teacher.fingerprint),
            question="",
            answer=asked[question_id],
            passage=texts[passage_id],
        )
        for passage_id, question_id in pairs
    ]
    values = {
        reading.key[:2]: -reading.nll_sum / reading.n_tokens
        for window in windows(work)
        for _, readings in read_all(teacher, teacher.plan(template, window))
        for reading in readings
    }
    return reorder(rankings, values, top)


def rerank_by_list(
    rankings: Rankings,
    questions: pd.DataFrame,
    passages: pd.DataFrame,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    top: int,
    window: int,
) -> dict[str, tuple[list[str], list[float]]]:
    """Order each question's first ``top`` passages by what the model says of them in one prompt.

    Passages stand lettered in the prompt, in their present order. The model's logits of the letters, where it would generate
    the first one, give the new order (FIRST: Reddy et al., EMNLP 2024, arXiv 2406.15657). That takes one forward pass, and
    there is no text to parse. ``window`` or the context may hold fewer passages than are ranked. Then windows slide from the
    back to the front, each with the better half of the one before (RankGPT: Sun et al., EMNLP 2023, arXiv 2304.09542). Passages
    so long that not even two fit lose their ends.

    Scores say how many passages stand behind, itself counted: logits of two windows do not compare.

    Args:
        questions, passages: of their schemas; those that are ranked must be among them. A passage's text is what the model reads.
        model, tokenizer: as ``uae.teacher.engines.local.load_causal_lm`` gives them.
        window: passages in one prompt at most, 2 to 52.

    Raises:
        ConfigError: ``window`` is out of its range.
        ModelError: the tokenizer has no token of its own for so many letters.
        InputError: a question leaves no room for passages in the model's context.
    """
    asked, texts = _texts(questions, "question_id"), _texts(passages, "passage_id")
    lister = _Lister(model, tokenizer, window)
    reranked = {}
    for question_id, (ids, _) in tqdm(rankings.items(), desc="re-ranking", unit="question", disable=len(rankings) == 1):
        order = [*lister.order(asked[question_id], ids[:top], texts), *ids[top:]]
        reranked[question_id] = order, [float(behind) for behind in range(len(order), 0, -1)]
    return reranked


class _Lister:
    """A model that orders passages by the letters they have in a prompt."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, window: int):
        if not 2 <= window <= len(_LETTERS):
            raise ConfigError(f"the window of list-wise re-ranking must be 2 to {len(_LETTERS)} passages, not {window}")
        self.model, self.tokenizer, self.window = model, tokenizer, window
        positions = getattr(model.config, "max_position_embeddings", None) or 1 << 30
        self.context = min(positions, tokenizer.model_max_length) - 1  # less the letter
        self.closing = closing_tokens(tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)["input_ids"])
        self.letters = self._letters()[:window]
        if len(self.letters) < window:
            raise ModelError(
                f"the tokenizer has tokens of their own for {len(self.letters)} letters only: list-wise re-ranking in windows of "
                f"{window} passages needs as many"
            )

    def order(self, question: str, ids: Sequence[str], texts: Mapping[str, str]) -> list[str]:
        """``ids`` best first."""
        ids = list(ids)
        shown = self._shown(question, ids, texts)
        end = len(ids)
        while end > 1:
            start, prompt = self._window(question, [shown[passage_id] for passage_id in ids[:end]])
            logits = self._logits(prompt)
            ids[start:end] = [
                passage_id for _, passage_id in sorted(zip((-logit for logit in logits), ids[start:end], strict=False))
            ]
            if start == 0:
                break
            end -= (end - start) // 2
        return ids

    def _window(self, question: str, texts: Sequence[str]) -> tuple[int, list[int]]:
        """How many of ``texts`` to leave out at the front, so that the others fit, and the prompt's tokens."""
        for start in range(max(len(texts) - self.window, 0), max(len(texts) - 1, 1)):
            prompt = self._ids(_prompt(question, texts[start:]))
            if len(prompt) <= self.context:
                return start, prompt
        raise self._no_room(question)

    def _shown(self, question: str, ids: Sequence[str], texts: Mapping[str, str]) -> dict[str, str]:
        """The passages on one line each, cut where two of the longest would not fit."""
        limit = (self.context - len(self._ids(_prompt(question, ["", ""])))) // 2 - _SEAM
        if limit < _FEWEST_TOKENS:
            raise self._no_room(question)
        return {passage_id: self._cut(" ".join(texts[passage_id].split()), limit) for passage_id in ids}

    def _cut(self, text: str, tokens: int) -> str:
        offsets = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
        return text if len(offsets) <= tokens else text[: offsets[tokens][0]].rstrip()

    def _no_room(self, question: str) -> InputError:
        return InputError(f"question {question[:60]!r} leaves no room for two passages in the model's {self.context + 1} tokens")

    @torch.inference_mode()
    def _logits(self, prompt: list[int]) -> list[float]:
        """Of all letters, at the position after the prompt."""
        ids = torch.tensor([prompt], device=self.model.device)
        output = self.model.generate(  # type: ignore[operator]  # torch's stub takes a method for a tensor
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=1,
            do_sample=False,
            pad_token_id=self.tokenizer.pad_token_id,
            output_logits=True,
            return_dict_in_generate=True,
        )
        logits: list[float] = output.logits[0][0, self.letters].tolist()
        return logits

    def _letters(self) -> list[int]:
        """The token of each letter that is one token after the prompt's end."""
        lead = self._ids(_END)
        wholes = [self._ids(_END + letter) for letter in _LETTERS]
        return [whole[-1] for whole in wholes if len(whole) == len(lead) + 1 and whole[:-1] == lead]

    def _ids(self, text: str) -> list[int]:
        ids = self.tokenizer(text, verbose=False)["input_ids"]  # verbose: it would warn of lengths, which are dealt with here
        kept: list[int] = ids[: len(ids) - self.closing]
        return kept


_END = "\nBest passage: ["


def _prompt(question: str, texts: Sequence[str]) -> str:
    """The question stands before the passages, so that the model reads them with it in mind, and after them, where it answers."""
    question = " ".join(question.split())
    lettered = "\n".join(f"[{letter}] {text}" for letter, text in zip(_LETTERS, texts, strict=False))
    return (
        f"Which of these passages answers the question best? Question: {question}\n\n{lettered}\n\n"
        f"Question: {question}\nName the letter of the passage that answers it best.{_END}"
    )


def _texts(table: pd.DataFrame, key: str) -> dict[str, str]:
    return dict(zip(table[key], table["text"], strict=True))
