"""Two choices for CPUs, measured with the demo's models: the teacher's number format, and dropout while training.

Ratios of medians taken in one run. Prints one JSON line last.

python benchmarks/cpu_choices.py
"""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from uae.io.models import resolve
from uae.pipeline.settings import load_settings
from uae.pipeline.student import student_folder
from uae.pipeline.workspace import Workspace
from uae.retrievers.dense import load_encoder
from uae.teacher.engines.local import load_causal_lm


def median_seconds(work: Callable[[], object], repeats: int = 3) -> float:
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    settings, workspace = load_settings(Path("params.yaml")), Workspace(Path("."))
    model, _ = load_causal_lm(resolve(settings.teachers["main"].model, workspace.model_cache), "cpu", "float32")
    tokens = torch.randint(100, 40_000, (2, 128))
    seconds = {}
    with torch.inference_mode():
        for dtype in (torch.float32, torch.bfloat16):
            model.to(dtype)
            seconds[str(dtype)] = median_seconds(lambda: model.model(tokens))
    encoder = load_encoder(student_folder(settings.models, workspace.model_cache), "cpu").train()
    features = encoder.preprocess(["the door seal is checked every week by the technician on duty and " * 8] * 32)

    def step() -> None:
        encoder(dict(features))["sentence_embedding"].square().sum().backward()

    for probability in (0.0, 0.1):
        for module in encoder.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = probability
        seconds[f"dropout {probability}"] = median_seconds(step)
    result = {
        "teacher_tokens_per_s_float32": round(tokens.numel() / seconds["torch.float32"], 1),
        "bfloat16_time_over_float32": round(seconds["torch.bfloat16"] / seconds["torch.float32"], 2),
        "dropout_time_over_none": round(seconds["dropout 0.1"] / seconds["dropout 0.0"], 2),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
