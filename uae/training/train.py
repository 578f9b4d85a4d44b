"""The train stage: distil the teacher's utilities into the student by sentence-transformers' trainer."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.base.evaluation import BaseEvaluator
from sklearn.metrics import ndcg_score
from transformers import EarlyStoppingCallback, ProgressCallback, TrainerCallback

from uae.compute import pick_device, seed_everything
from uae.encoding import encode, load_encoder
from uae.errors import ArtefactError
from uae.files import atomic_path, read_json, scratch_folder, write_text
from uae.sources import fingerprint
from uae.tables import CANDIDATES, PASSAGES, QUESTIONS, read_table
from uae.teacher.store import LabelStore
from uae.teacher.utility import Source, utilities
from uae.training.batches import DocumentBatchSampler, UtilityCollator
from uae.training.objective import utility_infonce


def train(
    candidates_path: Path,
    passages_path: Path,
    questions_path: Path,
    store_path: Path,
    manifest_path: Path,
    base_path: Path,
    student_path: Path,
    curve_path: Path,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    warmup: float,
    weight_decay: float,
    dropout: float,
    teacher_temperature: float,
    aggregation: Mapping[str, str],
    student_temperature: float,
    in_batch_negatives: bool,
    patience: int,
    device: str,
    seed: int,
    log_metrics: Callable[[dict[str, float], int], None] = lambda metrics, step: None,
) -> dict:
    """Train, keep the checkpoint that ranks the validation candidates best, save it in the sentence-transformers layout.

    The label manifest says which readings of the store count, ``aggregation`` how they become utilities (the last arguments of
    ``uae.teacher.utility.utilities``). Evidence labels are not read.

    Raises:
        ArtefactError: labels are missing, or one of the splits is empty.
    """
    table = _table(candidates_path, passages_path, questions_path, store_path, manifest_path, aggregation)
    parts = {split: table[table["split"] == split] for split in ("train", "validation")}
    for split, rows in parts.items():
        if rows.empty:
            raise ArtefactError(f"there is no labelled question in the {split} split")
    seed_everything(seed)
    device = pick_device(device)
    encoder = load_encoder(base_path, device)
    for module in encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout
    evaluator = TeacherAgreement(parts["validation"], teacher_temperature)
    before = evaluator(encoder)["teacher_ndcg"]
    with scratch_folder(student_path, "checkpoints") as checkpoints:
        trainer = SentenceTransformerTrainer(
            model=encoder,
            args=_arguments(str(checkpoints), epochs, batch_size, learning_rate, warmup, weight_decay, device, seed),
            train_dataset=_dataset(parts["train"]),
            loss=UtilityInfoNCELoss(encoder, teacher_temperature, student_temperature, in_batch_negatives),
            evaluator=evaluator,
            data_collator=UtilityCollator(
                preprocess_fn=encoder.preprocess,
                query_prompt=encoder.prompts.get("query") or "",
                document_prompt=encoder.prompts.get("document") or "",
            ),
            callbacks=[EarlyStoppingCallback(patience), _Report(log_metrics)],
        )
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(_Progress)
        trainer.train()
    after = evaluator(encoder)["teacher_ndcg"]
    with atomic_path(student_path) as partial:
        encoder.save(str(partial), create_model_card=False)
    history = pd.DataFrame(trainer.state.log_history)
    write_text(curve_path, _curve(history, before))
    return {
        "questions": {split: int(rows["question_id"].nunique()) for split, rows in parts.items()},
        "pairs": {split: len(rows) for split, rows in parts.items()},
        "steps": trainer.state.global_step,
        "validation_teacher_ndcg_before": round(before, 4),
        "validation_teacher_ndcg": round(after, 4),
        "fingerprint": fingerprint(student_path),
    }


def _arguments(
    checkpoints: str,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    warmup: float,
    weight_decay: float,
    device: str,
    seed: int,
) -> SentenceTransformerTrainingArguments:
    return SentenceTransformerTrainingArguments(
        output_dir=checkpoints,
        num_train_epochs=epochs,
        per_device_train_batch_size=batch_size,
        learning_rate=learning_rate,
        warmup_steps=warmup,
        weight_decay=weight_decay,
        seed=seed,
        use_cpu=device == "cpu",
        bf16=device.startswith("cuda") and torch.cuda.is_bf16_supported(including_emulation=False),
        batch_sampler=DocumentBatchSampler,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="teacher_ndcg",
        logging_steps=1,
        disable_tqdm=False,
        report_to="none",
    )


class UtilityInfoNCELoss(torch.nn.Module):
    """Encodes a batch of ``UtilityCollator`` and applies ``utility_infonce``."""

    def __init__(
        self, model: SentenceTransformer, teacher_temperature: float, student_temperature: float, in_batch_negatives: bool
    ):
        super().__init__()
        self.model = model
        self.teacher_temperature, self.student_temperature = teacher_temperature, student_temperature
        self.in_batch_negatives = in_batch_negatives

    def forward(self, sentence_features: list[dict], labels: torch.Tensor) -> torch.Tensor:
        questions, passages = (
            torch.nn.functional.normalize(self.model(features)["sentence_embedding"], dim=-1) for features in sentence_features
        )
        candidates = labels[1] > 0
        negatives = ~candidates if self.in_batch_negatives else torch.zeros_like(candidates)
        return utility_infonce(
            questions @ passages.T, labels[0], candidates, negatives, self.teacher_temperature, self.student_temperature
        )


class TeacherAgreement(BaseEvaluator):
    """nDCG of the student's order of the judged candidates, with the teacher's weights as gains: no evidence label is used."""

    def __init__(self, table: pd.DataFrame, teacher_temperature: float):
        super().__init__()
        self.primary_metric = "teacher_ndcg"
        self.table, self.teacher_temperature = table, teacher_temperature

    def __call__(self, model: SentenceTransformer, output_path=None, epoch: int = -1, steps: int = -1) -> dict[str, float]:
        questions = self.table.drop_duplicates("question_id")
        passages = self.table.drop_duplicates("passage_id")
        question_vectors = dict(
            zip(questions["question_id"], encode(model, questions["question"].tolist(), "query"), strict=True)
        )
        passage_vectors = dict(zip(passages["passage_id"], encode(model, passages["text"].tolist(), "document"), strict=True))
        values = []
        for question_id, rows in self.table.groupby("question_id"):
            if len(rows) < 2:
                continue
            gains = np.exp((rows["utility"] - rows["utility"].max()) / self.teacher_temperature)
            scores = np.stack([passage_vectors[passage_id] for passage_id in rows["passage_id"]]) @ question_vectors[question_id]
            values.append(ndcg_score([gains], [scores]))
        return {"teacher_ndcg": float(np.mean(values))}


class _Progress(ProgressCallback):
    """The trainer's bar with its ETA, without a printed dictionary a step: those figures go to the curve and to MLflow."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        pass


class _Report(TrainerCallback):
    def __init__(self, log_metrics: Callable[[dict[str, float], int], None]):
        self.log_metrics = log_metrics

    def on_log(self, args, state, control, logs=None, **kwargs):
        values = {name: float(value) for name, value in (logs or {}).items() if isinstance(value, int | float)}
        self.log_metrics(values, state.global_step)


def _table(candidates_path, passages_path, questions_path, store_path, manifest_path, aggregation) -> pd.DataFrame:
    candidates = read_table(candidates_path, CANDIDATES)
    questions = read_table(questions_path, QUESTIONS)
    manifest = read_json(manifest_path)
    sources = [Source.from_manifest(entry) for entry in manifest["teachers"]]
    labels = LabelStore(store_path).read()
    derived = utilities(labels, candidates, questions, sources, manifest["answers_per_question"], **aggregation)
    passages = read_table(passages_path, PASSAGES).set_index("passage_id")["text"]
    questions = questions.set_index("question_id")
    return derived.assign(
        text=derived["passage_id"].map(passages),
        question=derived["question_id"].map(questions["text"]),
        split=derived["question_id"].map(questions["split"]),
        document=derived["question_id"].map(questions["doc_id"]),
    )


def _dataset(table: pd.DataFrame) -> Dataset:
    rows = [
        {
            "question": group["question"].iloc[0],
            "passages": group["text"].tolist(),
            "utilities": group["utility"].tolist(),
            "document": group["document"].iloc[0],
        }
        for _, group in table.groupby("question_id")
    ]
    return Dataset.from_list(rows)


def _curve(history: pd.DataFrame, before: float) -> str:
    rows = [f"0,,{before:.6f}"]
    for record in history.to_dict("records"):
        loss, score = record.get("loss"), record.get("eval_teacher_ndcg")
        if pd.notna(loss) or pd.notna(score):
            cells = [f"{value:.6f}" if pd.notna(value) else "" for value in (loss, score)]
            rows.append(",".join([str(int(record["step"])), *cells]))
    return "\n".join(["step,train_loss,validation_teacher_ndcg", *rows]) + "\n"
