"""How much memory a training step takes with a batch of 128 questions, and with one of 1,024: 8 candidates each, none shared.

Each batch is taken by a process of its own: labels, loss, gradients and a step of AdamW. Its peak is the largest resident set
that the system saw. ``started`` is that of a process that has loaded the model and taken no step. Texts are made up, as is
the encoder, unless ``--base`` names one. Prints one JSON line last.

python benchmarks/batch_memory.py
python benchmarks/batch_memory.py --base models/student --words 100
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from tiny_models import tiny_models
from transformers import AutoTokenizer, BertConfig, BertModel

from uae.io.compute import seed_everything
from uae.retrievers.dense import load_encoder
from uae.training.batches import UtilityCollator
from uae.training.examples import Example
from uae.training.loss import ObjectiveLoss
from uae.training.objectives.utility_infonce import UtilityInfoNCE

_MIB = 2**20


def main(
    sizes: Annotated[str, typer.Option(help="Questions of the batches; 0: none is taken.")] = "0,128,1024",
    candidates: int = 8,
    words: Annotated[int, typer.Option(help="Of a passage, on average.")] = 20,
    base: Annotated[Path | None, typer.Option(help="An encoder; default: one of random weights.")] = None,
    questions: Annotated[int | None, typer.Option(help="What a child does: one batch.")] = None,
) -> None:
    if questions is not None:
        assert base is not None
        print(json.dumps(one_batch(base, questions, candidates, words)))
        return
    with tempfile.TemporaryDirectory() as folder:
        chosen = base or _encoder(Path(folder))
        found = {int(size): _in_child(chosen, int(size), candidates, words) for size in sizes.split(",")}
    batches = {size: one for size, one in found.items() if size}
    peaks = {size: one["peak_mb"] for size, one in batches.items()}
    result = {
        "ratio": round(peaks[max(peaks)] / peaks[min(peaks)], 3),
        "peak_mb": peaks,
        "started_mb": found[0]["peak_mb"] if 0 in found else None,
        "seconds": {size: one["seconds"] for size, one in batches.items()},
        "candidates": candidates,
        "words": words,
        "encoder": str(base) if base else "random",
        "ran_on": {"device": "cpu", "torch": torch.__version__, "threads": torch.get_num_threads()},
    }
    print(json.dumps({"batch_memory": result}))


def one_batch(base: Path, questions: int, candidates: int, words: int) -> dict[str, float]:
    seed_everything(1)
    encoder = load_encoder(base, "cpu")
    encoder.train()
    optimizer = torch.optim.AdamW(encoder.parameters())
    start = time.perf_counter()
    if questions:
        examples = _examples(questions, candidates, words)
        batch = UtilityCollator(preprocess_fn=encoder.preprocess, examples=examples)([{"key": key} for key in examples])
        features = [
            {name.removeprefix(f"{column}_"): value for name, value in batch.items() if name.startswith(f"{column}_")}
            for column in ("question", "passage")
        ]
        loss = ObjectiveLoss(encoder, UtilityInfoNCE(evidence_share=0.0), 0.25, 0.05)(features, batch["label"])
        loss.backward()
        optimizer.step()
    seconds = time.perf_counter() - start
    return {"peak_mb": round(_peak_bytes() / _MIB), "seconds": round(seconds, 1)}


def _peak_bytes() -> int:
    """Of this program. Linux's ru_maxrss would start with what the parent had when it forked."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return next(int(line.split()[1]) << 10 for line in status.read_text().splitlines() if line.startswith("VmHWM"))


def _examples(questions: int, candidates: int, words: int) -> dict[str, Example]:
    generator = np.random.default_rng(1)
    vocabulary = [f"{first}{last}" for first in ("pump", "seal", "valve", "rotor") for last in ("", "s", " box", " test", " key")]
    none: frozenset[str] = frozenset()

    def text(name: str, length: int) -> str:
        return " ".join([name, *generator.choice(vocabulary, size=length)])

    made = {}
    for number in range(questions):
        lengths = generator.integers(max(1, words // 2), words * 3 // 2, size=candidates, endpoint=True)
        passages = tuple(text(f"passage {number} {place}", int(length)) for place, length in enumerate(lengths))
        utilities = tuple(generator.normal(size=candidates).tolist())
        made[str(number)] = Example(text(f"question {number}", 6), f"d{number}", passages, utilities, none, none, none)
    return made


def _encoder(folder: Path) -> Path:
    """Four layers of 128 numbers, random weights: its activations are what a step takes most memory for."""
    tiny_models(folder, Path("data/sample"))
    tokenizer = AutoTokenizer.from_pretrained(folder / "bert")
    torch.manual_seed(0)
    size = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4}
    BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=512, pad_token_id=0, **size)).save_pretrained(
        folder / "medium"
    )
    tokenizer.save_pretrained(folder / "medium")
    modules = [Transformer(str(folder / "medium"), max_seq_length=256), Pooling(128, "mean"), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder / "student"), create_model_card=False)
    return folder / "student"


def _in_child(base: Path, questions: int, candidates: int, words: int) -> dict[str, float]:
    terms = [f"--candidates={candidates}", f"--words={words}", f"--base={base}", f"--questions={questions}"]
    done = subprocess.run([sys.executable, __file__, *terms], stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(f"{questions} questions: {found}", file=sys.stderr, flush=True)
    return found


if __name__ == "__main__":
    typer.run(main)
