"""Prompt templates: passage first, so that all questions that have it as a candidate share its tokens in one tree."""

from dataclasses import dataclass

import pandas as pd

from uae.io.files import sha256_bytes
from uae.text.passage_template import PLAIN, PassageTemplate


@dataclass(frozen=True)
class Template:
    """Three pieces with one placeholder each. The prompt without a passage is the same text less the first piece.

    ``passage_template`` says what stands for {passage}: the passage's text, or its title and section as well. With ``chat`` the
    prompt is a user's message in the model's own chat template, and the answer is what the assistant says then.
    """

    passage: str
    question: str
    answer: str
    passage_template: str = PLAIN
    chat: bool = False

    @property
    def hash(self) -> str:
        """Readings are stored under it: where a prompt's words change, the teacher is asked anew."""
        pieces = [self.passage, self.question, self.answer]
        if self.passage_template != PLAIN:
            pieces.append(self.passage_template)
        if self.chat:
            pieces.append("chat")
        return sha256_bytes(*pieces)[:16]

    def passages(self, table: pd.DataFrame) -> dict[str, str]:
        """passage_id -> what stands for {passage}. ``table`` is of the schema PASSAGES."""
        return PassageTemplate(self.passage_template).by_id(table)

    def prompt(self, question: str, passage: str | None) -> str:
        """The prompt's text; with ``chat`` the text of the user's message."""
        # replace(), not format(): the texts may hold braces
        lead = "" if passage is None else self.passage.replace("{passage}", passage.strip())
        return lead + self.question.replace("{question}", question.strip())

    def completion(self, answer: str) -> str:
        return self.answer.replace("{answer}", answer.strip())
