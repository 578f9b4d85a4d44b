"""What models read of a passage: its text, with the document's title, the path of headings and the sentences around it.

One template serves all of them: encoder, teacher, reader, re-ranker and BM25. Tables, answers and offsets keep the plain text.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from uae.io.errors import ConfigError
from uae.text.neighbours import NONE, first_sentence, last_sentence, neighbour_rows

PLAIN = "{text}"
_NAMES = ("title", "section", "before", "text", "after")
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")  # whatever stands in braces: "{title }" is meant for one


@dataclass(frozen=True)
class PassageTemplate:
    """Lines with the placeholders {title}, {section}, {before}, {text} and {after}.

    {before} is the last sentence of the passage before in its document, {after} the first sentence of the one behind.
    A line with placeholders that are all empty is left out, with its line break. Everything else stays as it is.

    Raises:
        ConfigError: {text} does not stand exactly once, or there is another placeholder.
    """

    template: str

    def __post_init__(self) -> None:
        found = _PLACEHOLDER.findall(self.template)
        if unknown := sorted(set(found) - set(_NAMES)):
            raise ConfigError(
                f"the passage template has a placeholder {{{unknown[0]}}}; there are "
                + ", ".join(f"{{{name}}}" for name in _NAMES)
            )
        if found.count("text") != 1:
            raise ConfigError(
                f"the passage template must contain {{text}} exactly once; it contains it {found.count('text')} times"
            )

    @property
    def has_neighbours(self) -> bool:
        """Whether it holds {before} or {after}, so that what is read depends on other passages of the document."""
        return not {"before", "after"}.isdisjoint(_PLACEHOLDER.findall(self.template))

    @property
    def has_title(self) -> bool:
        """Whether it holds {title}."""
        return "title" in _PLACEHOLDER.findall(self.template)

    def without_title(self) -> "PassageTemplate":
        """The template that reads every passage as this one reads it where the document has no title."""
        lines = (line for line in self.template.split("\n") if set(_PLACEHOLDER.findall(line)) != {"title"})
        return PassageTemplate("\n".join(line.replace("{title}", "") for line in lines))

    def render(self, title: str, section: str, text: str, before: str = "", after: str = "") -> str:
        """What a model reads of one passage. Braces in the values are kept as they are."""
        values = {"title": title.strip(), "section": section.strip(), "before": before, "text": text, "after": after}
        lines = []
        for line in self.template.split("\n"):
            names = _PLACEHOLDER.findall(line)
            if not names or any(values[name] for name in names):
                lines.append(_PLACEHOLDER.sub(lambda match: values[match[1]], line))
        return "\n".join(lines)

    def texts(self, passages: pd.DataFrame) -> list[str]:
        """What models read of each row.

        Args:
            passages: of the schema PASSAGES; of its columns title, section and text are used. A template with {before} or
                {after} uses doc_id and position as well, and needs all passages of each document.

        Raises:
            InputError: it does not have them all.
        """
        texts = list(passages["text"])
        if self.template == PLAIN:
            return texts
        columns: list[Sequence[str]] = [list(passages["title"]), list(passages["section"]), texts]
        if self.has_neighbours:
            documents, _ = pd.factorize(passages["doc_id"])
            rows = neighbour_rows(documents.astype(np.int64), passages["position"].to_numpy(dtype=np.int64))
            columns += sentences_around(*([texts[row] if row != NONE else "" for row in side] for side in rows))
        return list(map(self.render, *columns))

    def by_id(self, passages: pd.DataFrame) -> dict[str, str]:
        """passage_id -> what models read of it."""
        return dict(zip(passages["passage_id"], self.texts(passages), strict=True))

    def applied(self, passages: pd.DataFrame) -> pd.DataFrame:
        """The same rows with what models read as their text."""
        return passages.assign(text=self.texts(passages))


def sentences_around(before: Sequence[str], after: Sequence[str]) -> tuple[list[str], list[str]]:
    """What {before} and {after} stand for, of the passages before and behind; "": there is none."""
    return [last_sentence(text) for text in before], [first_sentence(text) for text in after]


TEXT_ALONE = PassageTemplate(PLAIN)
