"""Which kind of FAISS index is fastest at which size and recall: the curve of recall@10 against queries per second.

The vectors are real embeddings, by the demo's student, repeated with noise where there are too few (see embedded.py; the result
says how, and how hard the repeated set is). Searches are those that a release makes (uae/index/nearest.py), by one thread.
Speeds are per second of that thread's processor time, so that other work on the machine distorts them less; building too.
Effort is tuned on one half of the questions, and its recall measured on the other. What is finished is kept in --out, by size
and kind. Prints one JSON line last.

python benchmarks/index.py --out runs/index
python benchmarks/index.py --data ../shared/data/covidqa/200423_covidQA.json --format squad --out runs/index --sizes 1000000
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import faiss
import numpy as np
import typer
from embedded import Repeated, embed, hardness, repeat

from uae.index.ann import build_index, dtype, kth_scores, list_count, plan_factory, recall_above, tune
from uae.index.nearest import approximate, exhaustive, search
from uae.io.files import read_json, write_json
from uae.pipeline.settings import load_settings

KINDS = ["Flat", "HNSW32", "IVF,Flat", "IVF,SQ8"]
SIZES = [10_000, 100_000, 1_000_000]
K = 10
BATCH = 32
EFFORTS = {"nprobe": [1, 2, 4, 8, 16, 32, 64, 128, 256], "efSearch": [16, 32, 64, 128, 256, 512]}
SHARES = [0.5, 0.1, 0.02]  # of rows that a filter allows


def speed(work: Callable[[np.ndarray], object], queries: np.ndarray, size: int, enough: float) -> float:
    """Queries per second of processor time, ``size`` at a time, measured for ``enough`` seconds."""
    work(queries[:size])
    done, start, spent = 0, time.process_time(), 0.0
    while spent < enough:
        low = done % (len(queries) - size + 1)
        work(queries[low : low + size])
        done += size
        spent = time.process_time() - start
    return done / spent


def curve_point(index, vectors, queries, kth, parameters: str, enough: float) -> dict:
    def work(some: np.ndarray) -> object:
        return search(index, some, K, None, parameters)

    return {
        "parameters": parameters,
        "recall": round(recall_above(index, vectors, queries, kth, K, parameters), 4),
        "qps": round(speed(work, queries, 1, enough), 1),
        "qps_batch": round(speed(work, queries, BATCH, enough), 1),
    }


def behind_filters(index, queries, parameters: str, rng: np.random.Generator, enough: float) -> list[dict]:
    """Comparing all allowed rows against the index's own method, which is made to try harder: milliseconds a query, recall."""
    rows, some = [], queries[:100]
    for share in SHARES:
        allowed = np.sort(rng.choice(index.ntotal, max(K, int(index.ntotal * share)), replace=False))

        def compare_all(part: np.ndarray, allowed: np.ndarray = allowed) -> np.ndarray:
            return exhaustive(index, part, K, allowed)[1]

        def own_method(part: np.ndarray, allowed: np.ndarray = allowed) -> np.ndarray:
            return approximate(index, part, K, allowed, parameters)

        found = zip(compare_all(some).tolist(), own_method(some).tolist(), strict=True)
        rows.append(
            {
                "rows": len(allowed),
                "exhaustive_ms": round(1000 / speed(compare_all, some, 1, enough), 3),
                "approximate_ms": round(1000 / speed(own_method, some, 1, enough), 3),
                "approximate_recall": round(float(np.mean([len(set(a) & set(b)) / K for a, b in found])), 4),
            }
        )
    return rows


def measure(repeated: Repeated, questions: np.ndarray, factory: str, target: float, seed: int, enough: float) -> dict:
    vectors = repeated.vectors
    start = time.process_time()
    index = build_index(vectors, factory)
    seconds = time.process_time() - start
    kth = kth_scores(vectors, questions, K)
    half = len(questions) // 2
    tuned = tune(index, vectors, questions[:half], K, target)
    name = tuned.parameters.partition("=")[0]
    most = getattr(index, "nlist", len(vectors))
    efforts = [f"{name}={value}" for value in EFFORTS[name] if value <= most] if name else [""]
    result = {
        "factory": factory,
        "build_s": round(seconds, 1),
        "bytes_per_vector": round(len(faiss.serialize_index(index)) / len(vectors), 1),
        "dtype": dtype(index),
        "curve": [curve_point(index, vectors, questions, kth, effort, enough) for effort in efforts],
        "tuned": curve_point(index, vectors, questions[half:], kth[half:], tuned.parameters, enough) | {"reached": tuned.reached},
    }
    if name:
        result["filtered"] = behind_filters(index, questions, tuned.parameters, np.random.default_rng(seed), enough)
    return result


def main(
    out: Annotated[Path, typer.Option(help="Where embeddings and finished measurements are kept.")],
    data: str = "data/sample",
    format: str = "folder",
    passages: Annotated[int | None, typer.Option(help="Embed N passages drawn at random; else all.")] = None,
    questions: Annotated[int, typer.Option(help="At most; at least 64.")] = 1000,
    sizes: Annotated[list[int], typer.Option()] = SIZES,
    kinds: Annotated[list[str], typer.Option(help="FAISS factories; IVF without a number: as many lists as auto takes.")] = KINDS,
    target: Annotated[float, typer.Option(help="Recall@10 against exact search that the effort is tuned to.")] = 0.97,
    seconds: Annotated[float, typer.Option(help="Of processor time, for measuring one speed.")] = 1.0,
    seed: int = 0,
) -> None:
    faiss.omp_set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    corpus = embed(load_settings(Path("params.yaml")), data, format, passages, questions, out)
    real = Repeated(corpus.passages, np.arange(len(corpus.passages)), 0.0)
    result = {
        "passages": len(corpus.passages),
        "questions": len(corpus.questions),
        "dimension": corpus.passages.shape[1],
        "k": K,
        "batch": BATCH,
        "recall_target": target,
        "hardness_of_passages": hardness(real, corpus.questions[:200], K),
        "sizes": {},
    }
    for n in sizes:
        wanted = [kind.replace("IVF,", f"IVF{list_count(n)},") for kind in kinds]
        homes = {kind: out / f"{corpus.key[:12]}-{n}-{kind.replace(',', '_')}-{target}-{seed}.json" for kind in wanted}
        setting = out / f"{corpus.key[:12]}-{n}-{seed}.json"
        kept = [kind for kind, home in homes.items() if home.exists()]
        if not setting.exists() or not all(home.exists() for home in homes.values()):
            repeated = repeat(corpus, n, seed)
            about = {"noise_scale": round(repeated.scale, 3), "hardness": hardness(repeated, corpus.questions[:200], K)}
            write_json(setting, about)
            print(f"{n}: {about}", file=sys.stderr, flush=True)
            for kind, home in homes.items():
                if not home.exists():
                    write_json(home, measure(repeated, corpus.questions, kind, target, seed, seconds))
                    print(f"{n} {kind}: {home.read_text(encoding='utf-8')}", file=sys.stderr, flush=True)
        measured = [read_json(home) for home in homes.values()]
        result["sizes"][n] = read_json(setting) | {
            "auto": plan_factory("auto", n, corpus.passages.shape[1], target),
            "of_an_earlier_run": kept,
            "kinds": {row["factory"]: row | over_flat(row, measured) for row in measured},
        }
    print(json.dumps(result))


def over_flat(row: dict, measured: list[dict]) -> dict:
    """Ratios to Flat, of the same run or an earlier one with the same vectors."""
    flat = next((other for other in measured if other["factory"] == "Flat"), None)
    if flat is None:
        return {}
    return {
        "speedup": round(row["tuned"]["qps"] / flat["tuned"]["qps"], 2),
        "speedup_batch": round(row["tuned"]["qps_batch"] / flat["tuned"]["qps_batch"], 2),
        "bytes_ratio": round(row["bytes_per_vector"] / flat["bytes_per_vector"], 3),
    }


if __name__ == "__main__":
    typer.run(main)
