"""A reader LLM answers each question from the passages that a system retrieved for it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from uae.measures.fusion import Rankings
from uae.measures.metrics import answer_metrics
from uae.teacher.engines.local import load_causal_lm

ANSWER_METRICS = ("token_f1", "exact_match")

# A small reader needs to see the form of an answer: what the examples are worth is measured by benchmarks/reader_prompts.py.
_EXAMPLES = """Passage: Entry to the museum costs six crowns, or four after noon.
Question: What does a ticket cost in the afternoon?
Answer: four crowns

Passage: The caretaker, Mr Olsen, replaced the lamps after the flood.
Question: Who put in new lights?
Answer: Mr Olsen

"""


@dataclass(frozen=True)
class Answering:
    """How a reader LLM is asked."""

    passages: int  # the first so many of a ranking are given to it
    questions: int | None  # only the first so many are answered; None: all
    new_tokens: int  # of an answer, at most
    batch_size: int


class Reader:
    """Greedy answers of a causal LM; equal prompts are answered once, however many systems ask them."""

    def __init__(self, folder: Path, device: str, dtype: str, new_tokens: int, batch_size: int):
        self.model, self.tokenizer = load_causal_lm(folder, device, dtype)
        self.tokenizer.padding_side = "left"
        self.new_tokens, self.batch_size = new_tokens, batch_size

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
        text = " ".join(passages)
        return f"{_EXAMPLES}Passage: {text}\nQuestion: {question}\nAnswer:"

    @torch.inference_mode()
    def _generate(self, prompts: list[str]) -> list[str]:
        limit = getattr(self.model.config, "max_position_embeddings", 1 << 20) - self.new_tokens
        self.tokenizer.truncation_side = "left"  # the question stands at the end
        inputs = self.tokenizer(prompts, return_tensors="pt", padding=True, truncation=True, max_length=limit)
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
    reader_path: Path,
    answering: Answering,
    device: str,
    dtype: str,
) -> dict[str, pd.DataFrame]:
    """A reader's answers from what each system ranks first, on questions that have gold answers.

    Returns:
        system -> a table by question_id: answer, token_f1, exact_match.
    """
    asked = questions[questions["answers"].str.len() > 0][: answering.questions]
    if asked.empty:
        columns = ["answer", *ANSWER_METRICS]
        return {system: pd.DataFrame(columns=columns, index=pd.Index([], name="question_id")) for system in rankings}
    texts = passages.set_index("passage_id")["text"]
    reader = Reader(reader_path, device, dtype, answering.new_tokens, answering.batch_size)
    requests = [
        (question, [texts[passage_id] for passage_id in ranked[question_id][0][: answering.passages]])
        for ranked in rankings.values()
        for question_id, question in zip(asked["question_id"], asked["text"], strict=True)
    ]
    replies = iter(reader.answer(requests))
    tables = {}
    for system in rankings:
        rows = [
            {"question_id": question_id, "answer": reply} | answer_metrics(reply, gold)
            for question_id, gold, reply in zip(asked["question_id"], asked["answers"], replies, strict=False)
        ]
        tables[system] = pd.DataFrame(rows).set_index("question_id")
    return tables
