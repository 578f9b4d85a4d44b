"""Indexes at size: build time, memory, queries a second, and recall after rounds of churn. Prints one JSON line last.

Vectors are made: each is a centre moved in a few directions and a little in all, so that neighbours are a real choice. The set is
the same for a seed and size, and is made block by block in a mapped file. Each kind is built in a process of its own: its peak
of resident memory counts the mapped vectors as well, ``anon_mb`` does not. Queries are searched one at a time, by one thread.
Speed is per second of processor time. Effort is tuned on one half of the queries and recall is measured on the other.

Churn: in each round a share of the vectors is replaced by others. The index keeps what it learnt (``ann.rebuilt``). Its recall is
compared with that of an index built anew over the same vectors.

python benchmarks/scale_index.py --out runs/scale --sizes 100000 --kinds IVF,SQ8 --kinds "IVF,PQ96,Refine(SQ8)"
"""

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import faiss
import numpy as np
import typer
from scale_memory import measured

from uae.index.ann import Reconstructed, build_index, kth_scores, list_count, plan, rebuilt, recall_above, tune
from uae.index.nearest import search
from uae.release.legs import dense

SIZES = [100_000, 1_000_000, 10_000_000]
KINDS = ["IVF,SQ8", "IVF,PQ96,Refine(SQ8)"]
DIMENSION = 384
QUERIES = 400
K = 10
_CENTRES, _DIRECTIONS, _AT_ONCE = 2000, 24, 20_000


def write_vectors(path: Path, n: int, seed: int) -> None:
    """Unit vectors, shape (n, DIMENSION) float32, as ``.npy``."""
    made = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(n, DIMENSION))
    for start in range(0, n, _AT_ONCE):
        made[start : start + _AT_ONCE] = some(min(_AT_ONCE, n - start), seed, start)
    made.flush()


def some(n: int, seed: int, block: int) -> np.ndarray:
    fixed, rng = np.random.default_rng(seed), np.random.default_rng([seed, block])
    centres = fixed.normal(size=(_CENTRES, DIMENSION)).astype(np.float32) / np.float32(np.sqrt(DIMENSION))
    directions = fixed.normal(size=(_DIRECTIONS, DIMENSION)).astype(np.float32) / np.float32(np.sqrt(DIMENSION))
    moved = centres[rng.integers(_CENTRES, size=n)] + rng.normal(size=(n, _DIRECTIONS)).astype(
        np.float32
    ) @ directions * np.float32(0.13)
    moved += rng.normal(size=(n, DIMENSION)).astype(np.float32) * np.float32(0.2 / np.sqrt(DIMENSION))
    return moved / np.linalg.norm(moved, axis=1, keepdims=True)


def one(vectors_path: Path, factory: str, target: float, seed: int, index_path: Path) -> dict:
    """Build one index, write it, open it mapped, tune and time it."""
    vectors, queries = np.load(vectors_path, mmap_mode="r"), some(QUERIES, seed, -1 % (1 << 31))
    start = time.process_time()
    faiss.write_index(build_index(np.asarray(vectors), factory), str(index_path))
    built = time.process_time() - start
    dense.MAPPED_BYTES = 0
    index = dense.read_index(index_path)
    kth = kth_scores(np.asarray(vectors), queries, K)
    half = QUERIES // 2
    tuned = tune(index, Reconstructed(index), queries[:half], K, target)
    start = time.process_time()
    for number in range(half, QUERIES):
        search(index, queries[number : number + 1], K, None, tuned.parameters)
    spent = time.process_time() - start
    return {
        "factory": factory,
        "build_cpu_s": round(built, 1),
        "file_mb": round(index_path.stat().st_size / 1e6, 1),
        "parameters": tuned.parameters,
        "recall_of_vectors": round(recall_above(index, np.asarray(vectors), queries[half:], kth[half:], K, tuned.parameters), 4),
        "reached_of_stored": tuned.reached,
        "qps": round((QUERIES - half) / spent, 1),
    }


def churn(n: int, factory: str, target: float, seed: int, rounds: int, share: float) -> list[dict]:
    """Each round replaces a share of the vectors; recall of the index that keeps what it learnt, and of one built anew."""
    vectors, queries = np.vstack([some(min(_AT_ONCE, n - at), seed, at) for at in range(0, n, _AT_ONCE)]), some(QUERIES, seed, 7)
    rng = np.random.default_rng(seed)
    index = build_index(vectors, factory)
    parameters = tune(index, vectors, queries[: QUERIES // 2], K, target).parameters
    found = []
    for number in range(1, rounds + 1):
        gone = rng.choice(n, int(n * share), replace=False)
        vectors[gone] = some(len(gone), seed, n + number)
        index = rebuilt(index, vectors)
        if number in (1, rounds // 2, rounds):
            kth = kth_scores(vectors, queries, K)
            new = build_index(vectors, factory)
            recalls = [recall_above(each, vectors, queries, kth, K, parameters) for each in (index, new)]
            found.append({"round": number, "kept": round(recalls[0], 4), "anew": round(recalls[1], 4)})
    return found


def measure(
    out: Path,
    sizes: Sequence[int] = SIZES,
    kinds: Sequence[str] = KINDS,
    target: float = 0.95,
    churned: int = 100_000,
    rounds: int = 20,
    share: float = 0.01,
    seed: int = 0,
) -> dict:
    """Every kind at every size, the plan for each size, and churn at one size.

    Args:
        out: where finished measurements are kept. One that is there is not taken again.
    """
    out.mkdir(parents=True, exist_ok=True)
    result: dict = {"dimension": DIMENSION, "queries": QUERIES, "recall_target": target, "sizes": {}, "churn": {}}
    for n in sizes:
        rows = []
        for kind in kinds:
            factory = kind.replace("IVF,", f"IVF{list_count(n)},")
            kept = out / f"index-{n}-{factory.replace(',', '_')}-{target}-{seed}.json"
            if not kept.exists():
                with tempfile.TemporaryDirectory(dir=out) as scratch:
                    vectors = Path(scratch) / "vectors.npy"
                    write_vectors(vectors, n, seed)
                    said = Path(scratch) / "said.json"
                    settings = [str(vectors), factory, str(target), str(seed), str(Path(scratch) / "index.faiss"), str(said)]
                    used = measured([sys.executable, __file__, "--out", str(out), *(f"--one={value}" for value in settings)])
                    kept.write_text(json.dumps(json.loads(said.read_text(encoding="utf-8")) | used), encoding="utf-8")
                    print(f"{n} {factory}: {kept.read_text(encoding='utf-8')}", file=sys.stderr, flush=True)
            rows.append(json.loads(kept.read_text(encoding="utf-8")))
        result["sizes"][n] = {"plan": plan(n, DIMENSION, target)._asdict(), "kinds": rows}
    for kind in kinds if churned else []:
        factory = kind.replace("IVF,", f"IVF{list_count(churned)},")
        kept = out / f"churn-{churned}-{factory.replace(',', '_')}-{rounds}-{share}-{target}-{seed}.json"
        if not kept.exists():
            kept.write_text(json.dumps(churn(churned, factory, target, seed, rounds, share)), encoding="utf-8")
            print(f"churn {factory}: {kept.read_text(encoding='utf-8')}", file=sys.stderr, flush=True)
        result["churn"][factory] = json.loads(kept.read_text(encoding="utf-8"))
    return result


def main(
    out: Annotated[Path, typer.Option(help="Where finished measurements are kept.")] = Path("runs/scale"),
    sizes: Annotated[list[int], typer.Option()] = SIZES,
    kinds: Annotated[list[str], typer.Option(help="FAISS factories; IVF without a number: as many lists as auto takes.")] = KINDS,
    target: Annotated[float, typer.Option(help="Recall@10 that the effort is tuned to.")] = 0.95,
    churned: Annotated[int, typer.Option(help="Vectors of the churn; 0: none.")] = 100_000,
    rounds: int = 20,
    share: float = 0.01,
    seed: int = 0,
    one_kind: Annotated[list[str] | None, typer.Option("--one", hidden=True)] = None,
) -> None:
    faiss.omp_set_num_threads(1)
    if one_kind:
        vectors, factory, goal, own_seed, index, said = one_kind
        Path(said).write_text(json.dumps(one(Path(vectors), factory, float(goal), int(own_seed), Path(index))), encoding="utf-8")
        return
    print(json.dumps({"index": measure(out, sizes, kinds, target, churned, rounds, share, seed)}))


if __name__ == "__main__":
    typer.run(main)
