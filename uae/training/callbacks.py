"""What the trainer calls at its events: a bar, a curve, a clock, and new examples between epochs."""

import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import torch
from sentence_transformers import SentenceTransformer
from transformers import ProgressCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from uae.training.batches import UtilityCollator
from uae.training.refresh import Refresher

Log = Callable[[dict[str, float], int], None]


class RefreshCallback(TrainerCallback):
    """Gives the collator the refresher's examples after each epoch but the last."""

    def __init__(self, encoder: SentenceTransformer, collator: UtilityCollator, refresher: Refresher, folder: Path):
        self.encoder, self.collator, self.refresher, self.folder = encoder, collator, refresher, folder

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if finished := int(state.epoch or 0):  # resumed: the examples of the epoch that was interrupted
            self.collator.examples = self.refresher(self.encoder, finished, self.folder)

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        finished = round(state.epoch or 0)
        if finished < args.num_train_epochs and not control.should_training_stop:
            self.collator.examples = self.refresher(self.encoder, finished, self.folder)


class Bar(ProgressCallback):
    """The trainer's bar with its ETA, without a printed dictionary a step: those figures go to the curve and to MLflow."""

    def on_log(self, *args: Any, **kwargs: Any) -> None:
        pass


class Report(TrainerCallback):
    """Hands every number that the trainer logs to a function, with its step."""

    def __init__(self, log_metrics: Log):
        self.log_metrics = log_metrics

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        for record in state.log_history:  # resumed: the caller logs to a run of its own, whose curve is to be whole
            self._report(record, int(record["step"]))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self._report(logs or {}, state.global_step)

    def _report(self, logs: Mapping[str, Any], step: int) -> None:
        values = {name: float(value) for name, value in logs.items() if isinstance(value, int | float) and name != "step"}
        self.log_metrics(values, step)


class Clock(TrainerCallback):
    """Time of a step, with the making of its batch and without evaluations, and memory after it."""

    def __init__(self, device: str):
        self.gpu = torch.device(device) if device.startswith("cuda") else None
        self.seconds: list[float] = []
        self.peak = 0
        self.start = 0.0
        if self.gpu is not None:
            torch.cuda.reset_peak_memory_stats(self.gpu)

    def _mark(self, *args: Any, **kwargs: Any) -> None:
        self.start = time.perf_counter()

    # A batch is made before on_step_begin.
    on_epoch_begin = on_evaluate = on_save = _mark

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.gpu is not None:
            torch.cuda.synchronize(self.gpu)
        self.seconds.append(time.perf_counter() - self.start)
        used = psutil.Process().memory_info().rss if self.gpu is None else torch.cuda.max_memory_allocated(self.gpu)
        self.peak = max(self.peak, used)
        self._mark()

    def seconds_per_step(self) -> float:
        return statistics.median(self.seconds) if self.seconds else 0.0

    def peak_memory_mb(self) -> int:
        return round(self.peak / 2**20)
