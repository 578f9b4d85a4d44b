"""How fast a training step is: ours against sentence-transformers' own way with graded labels, on equal batches, in one run.

Both use sentence-transformers' trainer, the same encoder, questions, passages, order and settings. Its own way is a row of one
question and its passages for ``DistillKLDivLoss``: a passage is encoded for each question that has it. Ours encodes a batch's
distinct passages once, and counts all of them against every question. The two take turns. Prints one JSON line last.

python benchmarks/training.py
python benchmarks/training.py --data FILE --format squad --documents 12
"""

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from datasets import Dataset
from mined import mined
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.base.sampler import DefaultBatchSampler
from sentence_transformers.sentence_transformer.losses import DistillKLDivLoss
from transformers import PrinterCallback, ProgressCallback, TrainerCallback

from uae.io.compute import pick_device, seed_everything
from uae.pipeline.settings import load_settings
from uae.pipeline.student import student_folder
from uae.retrievers.dense import load_encoder
from uae.training.batches import UtilityCollator
from uae.training.device import trainer_arguments
from uae.training.examples import Example
from uae.training.loss import ObjectiveLoss
from uae.training.options import FitOptions


class InOrder(DefaultBatchSampler):
    """Rows as they stand: questions of one document together, as ``DocumentBatchSampler`` has them."""

    def __iter__(self):
        rows = range(len(self.sampler))
        yield from (list(rows[start : start + self.batch_size]) for start in range(0, len(rows), self.batch_size))


class Clock(TrainerCallback):
    def __init__(self, device: str):
        self.device, self.seconds, self.start = device, [], 0.0

    def on_step_begin(self, args, state, control, **kwargs):
        self.start = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        if self.device.startswith("cuda"):
            torch.cuda.synchronize(self.device)
        self.seconds.append(time.perf_counter() - self.start)


def read_examples(settings, data: str, format: str, documents: int | None, passages_each: int, questions: int) -> list[Example]:
    """Questions with their first candidates. Their utilities are made up: no step's time depends on them."""
    table, asked, texts = mined(settings, data, format, documents, passages_each)
    table["document"] = table["question_id"].map(asked["doc_id"])
    generator = np.random.default_rng(settings.seed)
    none: frozenset[str] = frozenset()
    examples = []
    for (document, question_id), rows in table.groupby(["document", "question_id"]):
        if len(rows) == passages_each:  # its own way wants a rectangle
            found = tuple(texts[passage_id] for passage_id in rows["passage_id"])
            utilities = tuple(generator.normal(size=len(found)).tolist())
            examples.append(Example(asked.loc[question_id, "text"], document, found, utilities, none, none, none))
    return examples[:questions]


def main(
    data: str = "data/sample",
    format: str = "folder",
    documents: int | None = None,
    questions: Annotated[int, typer.Option(help="In an epoch; an epoch is what the two take turns with.")] = 64,
    passages: Annotated[int, typer.Option(help="Of each question.")] = 6,
    repeats: int = 3,
    device: str = "auto",
) -> None:
    settings = load_settings(Path("params.yaml"))
    device = pick_device(device)
    examples = read_examples(settings, data, format, documents, passages, questions)
    base = student_folder(settings.models, Path("models"))
    options = settings.train.model_copy(update={"objective": "kl", "in_batch_negatives": False})  # the same loss in both
    temperature = settings.utility.temperature
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    for turn in range(repeats + 1):  # the first is not counted
        for name, run in (("ours", _ours), ("theirs", _theirs)):
            steps = run(base, examples, options, temperature, device, settings.seed)
            if turn:
                seconds[name] += steps
                print(f"turn {turn}: {name} {statistics.median(steps):.3f} s a step", file=sys.stderr, flush=True)
    medians = {name: statistics.median(steps) for name, steps in seconds.items()}
    batches = [examples[start : start + options.batch_size] for start in range(0, len(examples), options.batch_size)]
    distinct = [len({text for example in batch for text in example.passages}) for batch in batches]
    pairs = [sum(len(example.passages) for example in batch) for batch in batches]
    result = {
        "speedup": round(medians["theirs"] / medians["ours"], 2),
        "seconds_per_step": round(medians["ours"], 3),
        "baseline_seconds_per_step": round(medians["theirs"], 3),
        "steps": len(seconds["ours"]),
        "questions_per_step": options.batch_size,
        "passages_per_question": passages,
        "passage_ratio": round(sum(pairs) / sum(distinct), 2),  # what encoding each passage once would allow
        "ran_on": {"device": device, "torch": torch.__version__, "threads": torch.get_num_threads()},
    }
    print(json.dumps(result))


def _ours(base: Path, examples: list[Example], options: FitOptions, temperature: float, device: str, seed: int) -> list[float]:
    encoder = _encoder(base, options, device, seed)
    collator = UtilityCollator(
        preprocess_fn=encoder.preprocess,
        examples={str(number): example for number, example in enumerate(examples)},
        in_batch_negatives=options.in_batch_negatives,
    )
    rows = Dataset.from_list([{"key": str(number)} for number in range(len(examples))])
    loss = ObjectiveLoss(encoder, options.chosen_objective(), temperature, options.student_temperature)
    return _train(encoder, rows, loss, options, device, seed, collator)


def _theirs(base: Path, examples: list[Example], options: FitOptions, temperature: float, device: str, seed: int) -> list[float]:
    encoder = _encoder(base, options, device, seed)
    rows = Dataset.from_list(
        [
            {"question": example.question}
            | {f"passage_{number}": text for number, text in enumerate(example.passages)}
            | {"label": list(example.utilities)}
            for example in examples
        ]
    )
    loss = DistillKLDivLoss(encoder, temperature=options.student_temperature, teacher_temperature=temperature)
    return _train(encoder, rows, loss, options, device, seed, None)


def _encoder(base: Path, options: FitOptions, device: str, seed: int):
    seed_everything(seed)
    encoder = load_encoder(base, device)
    for module in encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = options.dropout
    return encoder


def _train(encoder, rows: Dataset, loss, options: FitOptions, device: str, seed: int, collator) -> list[float]:
    clock = Clock(device)
    with tempfile.TemporaryDirectory() as folder:
        trainer = SentenceTransformerTrainer(
            model=encoder,
            args=trainer_arguments(
                SentenceTransformerTrainingArguments, device, options.precision, output_dir=folder, num_train_epochs=1,
                per_device_train_batch_size=options.batch_size,
                learning_rate=options.learning_rate, seed=seed, batch_sampler=InOrder,
                save_strategy="no", logging_strategy="no", disable_tqdm=True,
            ),
            train_dataset=rows,
            loss=loss,
            data_collator=collator,
            callbacks=[clock],
        )  # fmt: skip
        for callback in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(callback)
        trainer.train()
    return clock.seconds


if __name__ == "__main__":
    typer.run(main)
