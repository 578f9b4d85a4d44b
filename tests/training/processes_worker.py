"""What each process that torchrun starts runs, for test_processes.py: see ``main``."""

import json
import sys
from pathlib import Path

import torch
from sentence_transformers.util import batch_to_device
from torch.distributed.tensor import DTensor

sys.path.append(str(Path(__file__).resolve().parent))

from small_training import AGGREGATION, changed, finds_nothing_useful, more_labels, run

import uae.training.fusion
import uae.training.train
from uae.io.torchrun import leads, place
from uae.retrievers.dense import load_encoder
from uae.training.batches import UtilityCollator
from uae.training.callbacks import Clock
from uae.training.data import TrainingData
from uae.training.examples import Example
from uae.training.fusion import FusionTerms, choose_fusion, follow_fusion
from uae.training.loss import ObjectiveLoss
from uae.training.objectives.utility_infonce import UtilityInfoNCE
from uae.training.pairs_loss import set_dropout
from uae.training.processes import join, leave, processes, sum_gradients
from uae.training.sharded import shard
from uae.training.train import follow

# Questions of a batch (one question is no text for the second process), and dimensions with their weights. Last come the bytes
# that the backward pass may keep: 0 has everything computed twice.
EVERYTHING = 2**40
CASES: tuple[tuple[int, dict[int, float], int], ...] = ((7, {}, EVERYTHING), (7, {}, 0), (1, {}, 0), (4, {16: 0.5}, EVERYTHING))
NAMES = ("seal", "fan", "key", "lamp", "door", "coil", "pump")


def example(number: int) -> Example:
    """Question n has passages n, n + 1 and n + 2: neighbours share passages. Lengths differ much."""
    passages = tuple(f"passage {NAMES[(number + step) % 7]} " + "and so on " * ((number + step) % 7) for step in range(3))
    utilities, harmless = (1.0, 0.1 * number, float("nan")), frozenset({passages[2]})
    return Example(f"Where is the {NAMES[number]}?", "d", passages, utilities, harmless, frozenset(), frozenset())


def one_step(
    base: Path, questions: int, matryoshka: dict[int, float], piece: int, budget: int, device: str = "cpu", sharded: bool = False
) -> dict[str, torch.Tensor | None]:
    """Loss and gradients of one batch of so many questions."""
    torch.manual_seed(0)
    encoder = load_encoder(base, device)
    set_dropout(encoder, 0.0)
    if sharded:
        shard(encoder, device)
    encoder.train()
    loss = ObjectiveLoss(encoder, UtilityInfoNCE(evidence_share=0.0), 0.5, 0.05, matryoshka)
    loss.piece, loss.budget = piece, budget
    examples = {str(number): example(number) for number in range(7)}
    batch = UtilityCollator(preprocess_fn=encoder.preprocess, examples=examples)([{"key": str(n)} for n in range(questions)])
    batch = batch_to_device(batch, torch.device(device))
    features = [
        {name.removeprefix(f"{column}_"): value for name, value in batch.items() if name.startswith(f"{column}_")}
        for column in ("question", "passage")
    ]
    value = loss(features, batch["label"])
    value.backward()
    if processes() > 1 and not sharded:
        sum_gradients(encoder.parameters())
    gradients = {name: p.grad for name, p in encoder.named_parameters()}
    if sharded:
        assert all(isinstance(weight, DTensor) and len(weight.to_local()) < len(weight) for weight in encoder.parameters())
        gradients = {name: value if value is None else value.full_tensor() for name, value in gradients.items()}
    return {"loss": value.detach(), "labels": batch["label"]} | gradients


def train(root: Path, base: Path, out: str, changes: dict, second: bool = False) -> None:
    """``small_training.run`` together. The leading process writes OUT.json: what it logged, and the summary."""
    logged: list = []
    ask = finds_nothing_useful(root, out) if changes.get("rounds") else None
    if leads():
        summary = run(
            root, base, out, lambda metrics, step: logged.append([step, metrics]), ask=ask, second_base=base if second else None,
            **changes,
        )  # fmt: skip
        (root / f"{out}.json").write_text(json.dumps({"logged": logged, "summary": summary}))
    else:
        files = ("candidates.parquet", "passages.parquet", "questions.parquet", "labels", "labels.json")
        data, more = TrainingData.read(*(root / name for name in files), AGGREGATION), more_labels(root, out, ask=None)
        follow(data, base, root / out, root / f"{out}-reward", more, changed(**changes), 0.5, "cpu", 1)


def dies_after(step: int) -> None:
    end = Clock.on_step_end

    def killed(self, args, state, control, **kwargs):
        end(self, args, state, control, **kwargs)
        if state.global_step == step:
            raise SystemExit(9)

    Clock.on_step_end = killed


def fuse(root: Path, base: Path, student: Path) -> None:
    """``choose_fusion`` together, with the students of two folds."""
    files = ("candidates.parquet", "passages.parquet", "questions.parquet", "labels", "labels.json")
    data, terms = TrainingData.read(*(root / name for name in files), AGGREGATION), FusionTerms("auto", None, 2)
    told = (terms, changed(epochs=1), 0.5, "corpus", "cpu", 1)
    uae.training.fusion.leave = lambda: None
    if leads():
        choose_fusion(data, base, student, root / "fusion.json", *told)
    else:
        follow_fusion(data, base, student, *told)


def main(what: str, folder: Path, base: Path, changes: dict[str, dict], device: str) -> None:
    """``whole``: each case, then each training, and the choice of a fusion. ``cut``: a training that is killed.

    ``sharded``: each case and each training with the weights cut over the processes. A training named ``killed`` is.
    """
    device = join(device)
    if what == "cut":
        dies_after(5)
    else:
        for number, (questions, dimensions, budget) in enumerate(CASES):
            found = one_step(base, questions, dimensions, 2, budget, device, what == "sharded")
            torch.save(found, folder / f"{number}-{place().rank}.pt")
    uae.training.train.leave = lambda: None  # the next one follows
    for out, own in changes.items():
        if out == "killed":
            dies_after(5)
        if own.pop("last", False):  # the processes part: the leading one fits a second stage
            fuse(folder, base, folder / next(iter(changes)))
            uae.training.train.leave = leave
            train(folder, base, out, own, second=True)
        else:
            train(folder, base, out, own)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), json.loads(sys.argv[4]), sys.argv[5])
