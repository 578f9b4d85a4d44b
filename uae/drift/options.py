"""The keys of ``drift`` in params.yaml."""

from typing import Annotated

from pydantic import Field

from uae.io.options import Fraction, Options


class DriftOptions(Options):
    log: str | None
    reference_queries: Annotated[int, Field(ge=100)]
    window_queries: Annotated[int, Field(ge=50)]
    low_share: Annotated[float, Field(gt=0, lt=0.5)]
    false_alarms: Annotated[float, Field(gt=0, lt=1)]
    retrain_share: Fraction | None
