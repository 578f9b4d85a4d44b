"""How fast the teacher labels, and that its numbers are right: our engine against the plain loop, in one run.

The plain loop is what one writes first, done well: whole prompts, sorted by length, in padded batches, the answers' log
probabilities from the model's logits. Both read the same pairs: passages drawn at random from the whole file, each with all
questions that have it among their candidates, in slices that alternate between the two. The loop has the batch size that is the
best on a part of them. Prints one JSON line last.

python benchmarks/labelling.py --data ../shared/data/covidqa/200423_covidQA.json
python benchmarks/labelling.py --data FILE --reference 300 --bfloat16 100
python benchmarks/labelling.py --data FILE --random-weights 7b --device cuda --dtype bfloat16 --pairs 20000
python benchmarks/labelling.py --data FILE --random-weights 7b --shared-layers --documents 1 --pairs 2 --slices 1      on a CPU
"""

import json
import random
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import pandas as pd
import psutil
import torch
import typer
from mined import mined
from scipy.stats import spearmanr
from transformers import AutoModelForCausalLM, LlamaConfig

from uae.io.compute import pick_device, pick_dtype
from uae.io.models import resolve
from uae.pipeline.settings import load_settings
from uae.teacher.engines.local import CausalTeacher, load_causal_lm
from uae.teacher.prompts import Template
from uae.teacher.protocol import Pair, read_all

# Shapes of well-known models; with random weights they are as fast as with trained ones.
SHAPES = {
    "7b": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
    "8b": {
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "vocab_size": 128256,
    },
    "135m": {
        "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
        "num_key_value_heads": 3, "tie_word_embeddings": True,
    },
}  # fmt: skip
PLAIN_BATCHES = (4, 8, 16, 32)
BFLOAT16_PLAIN = 8  # pairs that the plain loop reads in bfloat16: without instructions for it that takes minutes
PLAIN_SAMPLE = 32  # pairs, for comparing the batch sizes


def read_pairs(
    settings, data: Path, format: str, documents: int | None, candidates: int, wanted: int, seed: int
) -> tuple[Template, list[list[Pair]]]:
    """About ``wanted`` pairs, a list for each passage."""
    table, questions, passages = mined(settings, str(data), format, documents, candidates)
    main = settings.teachers["main"]
    template = Template(**main.templates[0].model_dump())
    groups = [group for _, group in table.groupby("passage_id")]
    random.Random(seed).shuffle(groups)
    chosen, count = [], 0
    for group in groups:
        chosen.append(
            [
                Pair((q, p, "", "", ""), questions.loc[q, "text"], questions.loc[q, "answers"][0], passages[p])
                for q, p in zip(group["question_id"], group["passage_id"], strict=True)
            ]
        )
        count += len(group)
        if count >= wanted:
            break
    return template, chosen


def random_model(shape: str, device: str, dtype: torch.dtype, vocabulary: int, shared: bool):
    """
    Args:
        shared: all layers have the first one's weights: the same operations in a fraction of the memory.
    """
    config = LlamaConfig(**{"vocab_size": vocabulary, "max_position_embeddings": 8192} | SHAPES[shape])
    if not shared:
        with torch.device(device):
            return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    one = LlamaConfig(**config.to_dict() | {"num_hidden_layers": 1})
    with torch.device(device):
        real = AutoModelForCausalLM.from_config(one, dtype=dtype)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    weights = real.state_dict()
    first = "model.layers.0."
    for layer in range(1, config.num_hidden_layers):
        weights |= {
            name.replace(first, f"model.layers.{layer}."): value for name, value in weights.items() if name.startswith(first)
        }
    model.load_state_dict(weights, assign=True)
    model.model.rotary_emb = real.model.rotary_emb  # computed, not loaded
    return model.eval()


class Plain:
    """The obvious loop."""

    def __init__(self, model, tokenizer, template: Template, batch_size: int):
        self.model, self.tokenizer, self.template, self.batch_size = model, tokenizer, template, batch_size

    @torch.inference_mode()
    def read(self, pairs: list[Pair]) -> dict[tuple, float]:
        """Mean NLL of each pair's answer."""
        prompts = [self.template.prompt(pair.question, pair.passage) for pair in pairs]
        wholes = [prompt + self.template.completion(pair.answer) for prompt, pair in zip(prompts, pairs, strict=True)]
        starts = [len(ids) for ids in self.tokenizer(prompts)["input_ids"]]
        ids = self.tokenizer(wholes)["input_ids"]
        order = sorted(range(len(pairs)), key=lambda i: len(ids[i]))
        values = {}
        for low in range(0, len(order), self.batch_size):
            batch = order[low : low + self.batch_size]
            inputs = self.tokenizer.pad({"input_ids": [ids[i] for i in batch]}, return_tensors="pt").to(self.model.device)
            logits = self.model(**inputs).logits[:, :-1]
            targets = inputs["input_ids"][:, 1:]
            log_probs = logits.float().log_softmax(-1).gather(-1, targets[..., None])[..., 0].cpu()
            for row, i in enumerate(batch):
                answer = log_probs[row, starts[i] - 1 : len(ids[i]) - 1]
                values[pairs[i].key] = -answer.double().mean().item()
        return values


def ours(teacher: CausalTeacher, template: Template, pairs: list[Pair]) -> tuple[dict[tuple, float], int, int]:
    batches = teacher.plan(template, pairs)
    values = {r.key: r.nll_sum / r.n_tokens for _, readings in read_all(teacher, batches) for r in readings}
    return values, sum(b.tokens for b in batches), sum(b.full_tokens for b in batches)


def timed(device: str, work: Callable):
    start = time.perf_counter()
    result = work()
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    return result, time.perf_counter() - start


@contextmanager
def peak_memory(device: str) -> Iterator[Callable[[], float]]:
    """MiB above what was in use at the start: on a CPU the process's resident memory, sampled."""
    process = psutil.Process()
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        start = torch.cuda.memory_allocated(device)
        yield lambda: (torch.cuda.max_memory_allocated(device) - start) / 2**20
        return
    start = peak = process.memory_info().rss
    stop = threading.Event()

    def sample() -> None:
        nonlocal peak
        while not stop.wait(0.02):
            peak = max(peak, process.memory_info().rss)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield lambda: (peak - start) / 2**20
    finally:
        stop.set()
        thread.join()


def matmul_peak(device: str, dtype: torch.dtype) -> tuple[float, float]:
    """Operations per second of a large matrix product: the best that this device does here and now. Per processor second, too."""
    size = 8192 if device.startswith("cuda") else 1024
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds, used = [], []
    for _ in range(12):
        begun = time.process_time()
        _, spent = timed(device, lambda: a @ b)
        seconds.append(spent)
        used.append(time.process_time() - begun)
    return 2 * size**3 / statistics.median(seconds[2:]), 2 * size**3 / statistics.median(used[2:])


def best_batch_size(model, tokenizer, template: Template, pairs: list[Pair], device: str) -> dict[int, float]:
    """Pairs a second of the plain loop by batch size."""
    # Neighbours in length, as in a long run: of few pairs of all lengths a large batch would be mostly padding.
    by_length = sorted(pairs, key=lambda pair: len(pair.passage) + len(pair.question) + len(pair.answer))
    part = by_length[len(by_length) // 2 :][:PLAIN_SAMPLE]
    return {
        size: len(part) / timed(device, lambda size=size: Plain(model, tokenizer, template, size).read(part))[1]
        for size in PLAIN_BATCHES
    }


def worst(first: dict[tuple, float], second: dict[tuple, float]) -> float:
    return max(abs(first[key] - value) for key, value in second.items())


def main(
    data: Annotated[Path, typer.Option(help="A dataset file; SQuAD format unless --format says otherwise.")],
    format: str = "squad",
    pairs: Annotated[int, typer.Option(help="About how many pairs both read.")] = 640,
    candidates: Annotated[int, typer.Option(help="Of each question.")] = 16,
    documents: Annotated[int | None, typer.Option(help="Draw from the first N documents by id; else from all.")] = None,
    slices: int = 5,
    reference: Annotated[int, typer.Option(help="Pairs also read one at a time, without cache or padding, in float32.")] = 0,
    bfloat16: Annotated[int, typer.Option(help="Pairs also read in bfloat16, by both.")] = 0,
    random_weights: Annotated[str | None, typer.Option(help=f"Random weights of this shape: {', '.join(SHAPES)}.")] = None,
    shared_layers: Annotated[
        bool, typer.Option(help="Of random weights: every layer has the same ones, for machines that cannot hold them all.")
    ] = False,
    device: str = "auto",
    dtype: str = "auto",
    batch_tokens: int | None = None,
    memory_mb: int | None = None,
    compile: bool = False,
    plain_batch: Annotated[int | None, typer.Option(help="Batch size of the plain loop; else the best of several.")] = None,
    plain: Annotated[bool, typer.Option(help="--no-plain measures ours alone.")] = True,
    seed: int = 0,
) -> None:
    settings = load_settings(Path("params.yaml"))
    template, groups = read_pairs(settings, data, format, documents, candidates, pairs, seed)
    device = pick_device(device)
    kind = pick_dtype(dtype, device)
    model, tokenizer = load_causal_lm(
        resolve(settings.teachers["main"].model, Path("models")), "cpu" if random_weights else device, dtype
    )
    if random_weights:
        model = random_model(random_weights, device, kind, len(tokenizer), shared_layers)
    teacher = CausalTeacher(model, tokenizer, "0" * 64, batch_tokens, memory_mb, compile)
    chosen = [pair for group in groups for pair in group]
    ours(teacher, template, groups[0])
    speeds: dict[int, float] = {}
    if plain:
        Plain(model, tokenizer, template, PLAIN_BATCHES[0]).read(groups[0][: PLAIN_BATCHES[0]])  # it warms up
        speeds = best_batch_size(model, tokenizer, template, chosen, device)
        plain_batch = plain_batch or max(speeds, key=lambda size: speeds[size])
    loop = Plain(model, tokenizer, template, plain_batch or PLAIN_BATCHES[0])
    rows, values, theirs = [], {}, {}
    peaks = {"ours": 0.0, "plain": 0.0}
    weights = sum(p.numel() for p in model.parameters()) - model.get_input_embeddings().weight.numel()
    shares = []
    for number in range(slices):
        part = [pair for group in groups[number::slices] for pair in group]
        with peak_memory(device) as ours_peak:
            begun = time.process_time()
            (got, tokens, full), seconds = timed(device, lambda part=part: ours(teacher, template, part))
            used = time.process_time() - begun
        peaks["ours"] = max(peaks["ours"], ours_peak())
        values |= got
        row = {"pairs": len(part), "seconds": seconds, "tokens": tokens, "full_tokens": full}
        # Right after it, so that both had the same machine.
        peak, peak_used = matmul_peak(device, kind)
        shares.append((2 * weights * tokens / seconds / peak, 2 * weights * tokens / used / peak_used))
        if plain:
            with peak_memory(device) as plain_peak:
                got, row["plain_seconds"] = timed(device, lambda part=part: loop.read(part))
            peaks["plain"] = max(peaks["plain"], plain_peak())
            theirs |= got
        rows.append(row)
        print(f"slice {number + 1} of {slices}: {row}", file=sys.stderr, flush=True)
    total = pd.DataFrame(rows).sum()
    by_clock, by_processor = (round(statistics.median(of), 3) for of in zip(*shares, strict=True))
    result = {
        "pairs": int(total["pairs"]),
        "pairs_per_s": round(total["pairs"] / total["seconds"], 3),
        "tokens_per_s": round(total["tokens"] / total["seconds"], 1),
        "token_ratio": round(total["full_tokens"] / total["tokens"], 3),
        "peak_memory_mb": round(peaks["ours"]),
        "share_of_matmul_peak": by_clock,
        "share_of_matmul_peak_by_processor_time": None if device.startswith("cuda") else by_processor,
        "candidates_per_question": candidates,
        "teacher": (
            f"random weights, {random_weights}" + ", one layer's in all" * shared_layers
            if random_weights
            else settings.teachers["main"].model.partition("#")[0]
        ),
        "ran_on": teacher.provenance() | {"threads": torch.get_num_threads(), "cpu_cores": psutil.cpu_count()},
    }
    if plain:
        result |= {
            "baseline_by_batch_size": {size: round(speed / max(speeds.values()), 2) for size, speed in speeds.items()},
            "baseline_pairs_per_s": round(total["pairs"] / total["plain_seconds"], 3),
            "baseline_batch_size": loop.batch_size,
            "baseline_peak_memory_mb": round(peaks["plain"]),
            "speedup": round(total["plain_seconds"] / total["seconds"], 2),
            "speedup_by_slice": [round(row["plain_seconds"] / row["seconds"], 2) for row in rows],
            "max_abs_diff": worst(values, theirs),
        }
    if reference:
        one_by_one = Plain(model, tokenizer, template, 1).read(chosen[:reference])
        result["reference"] = {"pairs": len(one_by_one), "max_abs_diff": worst(values, one_by_one)}
    if bfloat16:
        result["bfloat16"] = in_bfloat16(teacher, model, tokenizer, template, chosen[:bfloat16], values)
    print(json.dumps(result))


def in_bfloat16(teacher, model, tokenizer, template, pairs: list[Pair], values: dict[tuple, float]) -> dict:
    """How far bfloat16 is from float32, in both ways of reading, and what it does to the order."""
    model.to(torch.bfloat16)
    trees, _, _ = ours(teacher, template, pairs)
    padded = Plain(model, tokenizer, template, 8).read(pairs[:BFLOAT16_PLAIN])
    exact = [values[pair.key] for pair in pairs]
    return {
        "pairs": len(pairs),
        "max_abs_diff_to_float32": worst(values, trees),
        "plain_loop_max_abs_diff_to_float32": worst(values, padded),
        "plain_loop_pairs": len(padded),
        "max_abs_diff_between_the_two": worst(trees, padded),
        "rank_correlation_with_float32": float(spearmanr(exact, [trees[pair.key] for pair in pairs]).statistic),
    }


if __name__ == "__main__":
    typer.run(main)
