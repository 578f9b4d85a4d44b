"""What the legs of a release are built from and measured on."""

from typing import NamedTuple

import pandas as pd

from uae.text.passage_template import PassageTemplate
from uae.text.stored_passages import StoredPassages, StoredTexts


class Material(NamedTuple):
    passages: StoredPassages
    read_as: PassageTemplate
    questions: pd.DataFrame  # as QUESTIONS: what parity is measured on
    scope: str

    @property
    def texts(self) -> StoredTexts:
        """What the legs read of the passages. They are gone through, and no leg has them all in memory."""
        return self.passages.texts(self.read_as)
