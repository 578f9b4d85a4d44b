"""The encoder that training starts from, as params.yaml names it."""

from pathlib import Path

from uae.pipeline.settings import ModelSettings
from uae.retrievers.prompts import base_encoder


def student_folder(models: ModelSettings, cache: Path) -> Path:
    """``base_encoder`` of ``models.student`` with ``models.student_prompts``."""
    return base_encoder(models.student, models.student_prompts, cache)
