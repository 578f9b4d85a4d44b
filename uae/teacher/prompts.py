"""Prompt templates: passage first, so that all questions that have it as a candidate share its tokens in one tree."""

from dataclasses import dataclass

from uae.io.files import sha256_bytes


@dataclass(frozen=True)
class Template:
    """Three pieces with one placeholder each. The prompt without a passage is the same text less the first piece."""

    passage: str
    question: str
    answer: str

    @property
    def hash(self) -> str:
        return sha256_bytes(self.passage, self.question, self.answer)[:16]

    def prompt(self, question: str, passage: str | None) -> str:
        # replace(), not format(): the texts may hold braces
        lead = "" if passage is None else self.passage.replace("{passage}", passage.strip())
        return lead + self.question.replace("{question}", question.strip())

    def completion(self, answer: str) -> str:
        return self.answer.replace("{answer}", answer.strip())
