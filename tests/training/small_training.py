"""Options and a call of ``train`` for the tests: seconds on a tiny encoder."""

from pathlib import Path

from uae.io.tables import CANDIDATES, PASSAGES, QUESTIONS, read_table
from uae.teacher.keys import answer_id, text_key
from uae.teacher.parts import KEY
from uae.teacher.store import LabelStore
from uae.training.data import TrainingData
from uae.training.options import TrainOptions
from uae.training.refresh import MoreLabels
from uae.training.train import SecondStage, train

AGGREGATION = {"answers": "mean", "templates": "mean", "teachers": "none"}
PARAMETERS = {"utility_infonce": {"evidence_share": 0.0}, "plackett_luce": {"rankings": 16, "places": 10}}
REWARD = {"share": 0.0, "folds": 2, "epochs": 1, "batch_size": 4, "learning_rate": 1e-3, "warmup": 0.0, "weight_decay": 0.0}
REWARD |= {"dropout": 0.0, "precision": "auto"}
SECOND_STAGE = {"epochs": 6, "batch_size": 4, "gradient_accumulation": 1, "learning_rate": 3e-3, "warmup": 0.0, "dropout": 0.0}
SECOND_STAGE |= {"weight_decay": 0.0, "evaluations_per_epoch": 1, "patience": 6, "precision": "auto"}
OPTIONS = TrainOptions.model_validate(
    {
        "objective": "utility_infonce", "objectives": PARAMETERS, "towers": "both", "epochs": 6, "batch_size": 4,
        "gradient_accumulation": 1, "learning_rate": 3e-3, "warmup": 0.0, "weight_decay": 0.0, "dropout": 0.0,
        "student_temperature": 0.05, "in_batch_negatives": True, "passage_queries": 0.0, "base_share": 0.0, "patience": 6,
        "lexical_weight": 0.0, "processes": 1, "sharded": False,
        "evaluations_per_epoch": 1, "calibrate_temperature": False, "near_duplicate": None, "harmful_are_negatives": False,
        "least_best_utility": None, "refresh": {"rounds": 0, "top_k": 3}, "reward": REWARD,
        "matryoshka": {"dimensions": [], "weights": []}, "second_stage": SECOND_STAGE, "rivals": (), "precision": "auto",
    }
)  # fmt: skip


def changed(evidence_share=0.0, rounds=0, top_k=3, reward=0.0, reward_batch_size=4, **changes) -> TrainOptions:
    """Without checks: a learning rate of 0, which shows that nothing changes, is no legal value."""
    nested = {
        "refresh": OPTIONS.refresh.model_copy(update={"rounds": rounds, "top_k": top_k}),
        "reward": OPTIONS.reward.model_copy(update={"share": reward, "batch_size": reward_batch_size}),
        "objectives": type(OPTIONS.objectives)(**PARAMETERS | {"utility_infonce": {"evidence_share": evidence_share}}),
    }
    return OPTIONS.model_copy(update=nested | changes)


def more_labels(root: Path, out: str, ask) -> MoreLabels:
    return MoreLabels("corpus", ask, root / f"{out}-refreshed.parquet", root / f"{out}-refreshed")


def run(
    root: Path, base: Path, out: str, log=lambda metrics, step: None, aggregation=AGGREGATION, calibrate=False, ask=None, seed=1,
    temperature=0.5, second_base=None, **changes,
) -> dict:  # fmt: skip
    files = ("candidates.parquet", "passages.parquet", "questions.parquet", "labels", "labels.json")
    return train(
        TrainingData.read(*(root / name for name in files), aggregation), base, root / out, root / f"{out}-rivals",
        root / f"{out}.csv", root / f"{out}-reward", more_labels(root, out, ask),
        changed(calibrate_temperature=calibrate, **changes), temperature, "cpu", seed,
        SecondStage(second_base, root / f"{out}-second"), log,
    )  # fmt: skip


def finds_nothing_useful(root: Path, out: str):
    """A teacher for ``refreshing``."""

    def ask(path):
        table = read_table(path, CANDIDATES)
        fresh = table[table["source"] == "refreshed"]
        store = LabelStore(root / f"{out}-refreshed", 1000)
        texts = [read_table(root / "questions.parquet", QUESTIONS), read_table(root / "passages.parquet", PASSAGES)]
        keys = {row.iloc[0]: text_key(row["text"]) for table in texts for _, row in table.iterrows()}
        with store.writing():
            rows = [
                {
                    "question": keys[row.question_id],
                    "passage": keys[row.passage_id],
                    "template": "t",
                    "teacher": "T",
                    "nll_sum": 12.0,
                }
                | {"answer_id": answer_id(f"shelf {int(row.question_id[1:])}"), "n_tokens": 3, "truncated": False}
                for row in fresh.itertuples()
            ]
            known = store.keys()
            store.append([row for row in rows if tuple(row[name] for name in KEY) not in known], {"backend": "made up"})
            store.seal()

    return ask
