"""What models read of a passage: its text, with the document's title and the path of headings around it.

One template serves all of them: encoder, teacher, reader, re-ranker and BM25. Tables, answers and offsets keep the plain text.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from uae.io.errors import ConfigError

PLAIN = "{text}"
_NAMES = ("title", "section", "text")
_PLACEHOLDER = re.compile(r"\{(\w*)\}")


@dataclass(frozen=True)
class PassageTemplate:
    """Lines with the placeholders {title}, {section} and {text}.

    A line with placeholders that are all empty is left out, with its line break. Everything else stays as it is.

    Raises:
        ConfigError: {text} does not stand exactly once, or there is another placeholder.
    """

    template: str

    def __post_init__(self) -> None:
        found = _PLACEHOLDER.findall(self.template)
        if unknown := sorted(set(found) - set(_NAMES)):
            raise ConfigError(
                f"the passage template has a placeholder {{{unknown[0]}}}; there are {{title}}, {{section}} and {{text}}"
            )
        if found.count("text") != 1:
            raise ConfigError(
                f"the passage template must contain {{text}} exactly once; it contains it {found.count('text')} times"
            )

    def render(self, title: str, section: str, text: str) -> str:
        """What a model reads of one passage. Braces in the three values are kept as they are."""
        values = {"title": title.strip(), "section": section.strip(), "text": text}
        lines = []
        for line in self.template.split("\n"):
            names = _PLACEHOLDER.findall(line)
            if not names or any(values[name] for name in names):
                lines.append(_PLACEHOLDER.sub(lambda match: values[match[1]], line))
        return "\n".join(lines)

    def texts(self, passages: pd.DataFrame) -> list[str]:
        """What models read of each row.

        Args:
            passages: of the schema PASSAGES; of its columns title, section and text are used.
        """
        if self.template == PLAIN:
            return list(passages["text"])
        columns: Sequence[pd.Series] = [passages[name] for name in _NAMES]
        return [self.render(title, section, text) for title, section, text in zip(*columns, strict=True)]

    def by_id(self, passages: pd.DataFrame) -> dict[str, str]:
        """passage_id -> what models read of it."""
        return dict(zip(passages["passage_id"], self.texts(passages), strict=True))

    def applied(self, passages: pd.DataFrame) -> pd.DataFrame:
        """The same rows with what models read as their text."""
        return passages.assign(text=self.texts(passages))


TEXT_ALONE = PassageTemplate(PLAIN)
