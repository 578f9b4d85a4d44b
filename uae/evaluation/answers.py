"""A reader LLM answers each question from the passages that a system retrieved for it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from uae.measures.answers import ANSWER_METRICS, answer_metrics
from uae.measures.fusion import Rankings
from uae.teacher.chat import assistant, in_chat_template, user
from uae.teacher.engines.local import load_causal_lm

# A small reader needs to see the form of an answer: what the examples are worth is measured by benchmarks/reader_prompts.py.
_EXAMPLES = (
    (
        "Passage: Entry to the museum costs six crowns, or four after noon.\nQuestion: What does a ticket cost in the afternoon?",
        "four crowns",
    ),
    ("Passage: The caretaker, Mr Olsen, replaced the lamps after the flood.\nQuestion: Who put in new lights?", "Mr Olsen"),
)


def _best_at_both_ends(ranked: list[str]) -> list[str]:
    return ranked[::2] + ranked[1::2][::-1]


# Of passages that come best first. Readers of many passages overlook those in the middle (Liu et al., TACL 2024, arXiv
# 2307.03172): with the best at both ends the worst stand there.
ORDERS: Mapping[str, Callable[[list[str]], list[str]]] = {
    "best_first": lambda ranked: ranked,
    "best_at_both_ends": _best_at_both_ends,
}


@dataclass(frozen=True)
class Context:
    """What of a ranking a reader is given."""

    passages: int  # the first so many
    order: str  # a key of ORDERS


class Reader:
    """Greedy answers of a causal LM; equal prompts are answered once, however many systems ask them.

    Args:
        chat: prompts stand in the model's chat template.

    Raises:
        ModelError: as ``load_causal_lm``; or the model has no chat template where one is asked for.
    """

    def __init__(self, folder: Path, device: str, dtype: str, new_tokens: int, batch_size: int, chat: bool = False):
        self.model, self.tokenizer = load_causal_lm(folder, device, dtype)
        self.tokenizer.padding_side = "left"
        self.tokenizer.truncation_side = "left"  # the question stands at the end
        self.new_tokens, self.batch_size, self.chat = new_tokens, batch_size, chat
        self._room = getattr(self.model.config, "max_position_embeddings", 1 << 20) - new_tokens
        self.prompt("Does it work?", ["It does."])  # a chat template that does not is an error before anything is read

    def answer(self, requests: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
        """Answers to (question, passages) requests, in their order."""
        prompts = [self.prompt(question, passages) for question, passages in requests]
        answers: dict[str, str] = {}
        distinct = sorted(set(prompts), key=lambda prompt: (len(prompt), prompt))  # equal lengths together: little padding
        for start in tqdm(range(0, len(distinct), self.batch_size), desc="reading answers", unit="batch"):
            batch = distinct[start : start + self.batch_size]
            answers.update(zip(batch, self._generate(batch), strict=True))
        return [answers[prompt] for prompt in prompts]

    def prompt(self, question: str, passages: Sequence[str]) -> str:
        asked = "\n".join([*(f"Passage: {passage}" for passage in passages), f"Question: {question}"])
        if self.chat:
            turns = [turn for example, reply in _EXAMPLES for turn in (user(example), assistant(reply))]
            return in_chat_template(self.tokenizer, [*turns, user(asked)])
        examples = "".join(f"{example}\nAnswer: {reply}\n\n" for example, reply in _EXAMPLES)
        return f"{examples}{asked}\nAnswer:"

    def fitting(self, question: str, ranked: Sequence[str], order: str) -> list[str]:
        """The passages that fit the model's context, in the order they are given in.

        The last of ``ranked`` are left out first. If one alone is too long, it loses its end.

        Args:
            ranked: passages, best first.
            order: a key of ``ORDERS``.
        """
        kept = list(ranked)
        while kept and (excess := len(self._ids(self.prompt(question, ORDERS[order](kept)))) - self._room) > 0:
            if len(kept) > 1:
                kept.pop()
                continue
            tokens = self.tokenizer(kept[0], add_special_tokens=False, return_offsets_mapping=True, verbose=False)
            offsets = tokens["offset_mapping"]
            if len(offsets) <= excess:
                break
            kept = [kept[0][: offsets[len(offsets) - excess][0]].rstrip()]
        return ORDERS[order](kept)

    def _ids(self, prompt: str) -> list[int]:
        ids: list[int] = self.tokenizer(prompt, add_special_tokens=not self.chat, verbose=False)["input_ids"]
        return ids

    @torch.inference_mode()
    def _generate(self, prompts: list[str]) -> list[str]:
        # A chat template writes the special tokens itself.
        inputs = self.tokenizer(
            prompts, return_tensors="pt", padding=True, truncation=True, max_length=self._room, add_special_tokens=not self.chat
        )
        output = self.model.generate(  # type: ignore[operator]  # torch's stub takes a method for a tensor
            **inputs.to(self.model.device),
            max_new_tokens=self.new_tokens,
            do_sample=False,
            pad_token_id=self.tokenizer.pad_token_id,
            stop_strings=["\n"],
            tokenizer=self.tokenizer,
        )
        texts = self.tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return [text.strip().split("\n")[0].strip() for text in texts]


def read_answers(
    rankings: Mapping[str, Rankings],
    questions: pd.DataFrame,
    passages: pd.DataFrame,
    reader: Reader,
    context: Context,
    first: int | None,
) -> dict[str, pd.DataFrame]:
    """A reader's answers from what each system ranks first, on questions that have gold answers.

    Args:
        first: only the first so many questions are answered; None: all.

    Returns:
        system -> a table by question_id: answer, the metrics of ``ANSWER_METRICS``, and ``given``, the number of passages that
        the reader was given: fewer than the context's where they did not fit the model, or there were no more.
    """
    asked = questions[questions["answers"].str.len() > 0][:first]
    if asked.empty:
        columns = ["answer", *ANSWER_METRICS, "given"]
        return {system: pd.DataFrame(columns=columns, index=pd.Index([], name="question_id")) for system in rankings}
    texts = passages.set_index("passage_id")["text"]
    rows = list(zip(asked["question_id"], asked["text"], asked["answers"], strict=True))
    given = {
        (system, question_id): reader.fitting(
            question, [texts[passage_id] for passage_id in ranked[question_id][0][: context.passages]], context.order
        )
        for system, ranked in rankings.items()
        for question_id, question, _ in rows
    }
    requests = [(question, given[system, question_id]) for system in rankings for question_id, question, _ in rows]
    replies = iter(reader.answer(requests))
    tables = {}
    for system in rankings:
        found = [
            {"question_id": question_id, "answer": reply, "given": len(read)} | answer_metrics(reply, gold, read)
            for (question_id, _, gold), reply, read in ((row, next(replies), given[system, row[0]]) for row in rows)
        ]
        tables[system] = pd.DataFrame(found).set_index("question_id")[["answer", *ANSWER_METRICS, "given"]]
    return tables
