"""Checkpoints of a training that may be killed: whose they are, which are whole, and whether training had ended with one."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from uae.io.files import sha256_bytes, write_text
from uae.io.models import fingerprint
from uae.training.examples import Example
from uae.training.lexical import LexicalPart
from uae.training.options import LearningOptions


def identity(
    examples: Mapping[str, Mapping[str, Example]],
    base_path: Path,
    options: LearningOptions,
    teacher_temperature: float,
    seed: int,
    refresh_terms: Sequence[int] | None = None,
    added: LexicalPart | None = None,
) -> str:
    """Hash of all that decides where a run ends: of ``fit.fit``, or of ``second_stage.fit``."""
    options = options.for_questions(len(examples["train"]))
    rows = sorted((split, key, repr(_plain(example))) for split, part in examples.items() for key, example in part.items())
    facts = [options.fit_facts(), teacher_temperature, seed, fingerprint(base_path), list(refresh_terms or [])]
    facts += [added.identity] if added else []
    return sha256_bytes(json.dumps(facts, sort_keys=True), *(part for row in rows for part in row))[:16]


def _plain(example: Example) -> dict[str, Any]:
    """Sets in a fixed order: their own changes with every process."""
    return {name: sorted(value) if isinstance(value, frozenset) else value for name, value in vars(example).items()}


def checkpoints_beside(student_path: Path) -> Path:
    """Where to keep checkpoints of students that are written to ``student_path``, or with it."""
    return student_path.with_name(f".{student_path.name}.checkpoints")


def open_checkpoints(folder: Path, run: str) -> None:
    """Keep in the folder the whole checkpoints of the run with this identity. Remove everything else."""
    stamp = folder / "identity"
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != run:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_text(stamp, run)
    for checkpoint in folder.glob("checkpoint-*"):
        if not _is_complete(checkpoint):
            shutil.rmtree(checkpoint)


def _is_complete(checkpoint: Path) -> bool:
    """The trainer writes its state last. A kill may have cut it short."""
    try:
        json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    return True


def epochs_if_ended(checkpoint: str | None) -> int | None:
    """After how many whole epochs training had ended with this checkpoint. None: it had not.

    The trainer forgets on resuming that it had stopped early, and would go on. Told that there are no more epochs, it takes the
    best checkpoint's weights and no step.
    """
    if checkpoint is None:
        return None
    state = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME))
    ended = state.stateful_callbacks["TrainerControl"]["args"]["should_training_stop"]
    return int(state.epoch or 0) if ended else None
