"""What the legs of a release are built from and measured on."""

from typing import NamedTuple

import pandas as pd

from uae.text.passage_template import PassageTemplate


class Material(NamedTuple):
    passages: pd.DataFrame  # as PASSAGES
    read_as: PassageTemplate
    questions: pd.DataFrame  # as QUESTIONS: what parity is measured on
    scope: str
