"""Indexes at size: build time, memory, and the curve of recall against queries a second. Prints one JSON line last.

Vectors are those of a corpus by the demo's student, repeated with noise (embedded.py), with the corpus's own questions. Without
--data they are made: each is a centre moved in a few directions and a little in all. Such a set is the same for a seed and size.
There are as many centres at any size. So with many more lists than centres a few lists hold all that is near a query.

The vectors lie in a mapped file. Each kind is built, written, opened mapped and searched in a process of its own. The peak of its
resident memory counts mapped pages of vectors and index as well, ``anon_mb`` does not. Queries are searched one at a time, by
one thread. Speed is per second of processor time. Effort is tuned on some queries to a recall of what the index stores, as a
release does. Recall is of the vectors themselves, on other queries.

Churn is no part of this: a release's index is built anew from stored vectors. Where changes go in as changes, it is measured by
database_at_size.py.

python benchmarks/scale_index.py --out runs/scale --sizes 100000 --kinds IVF,SQ8 --kinds "IVF,PQ96,Refine(SQ8)"
python benchmarks/scale_index.py --out runs/scale --sizes 10000000 --kinds IVF,SQ8 --target 0.97 \\
    --data ../shared/data/covidqa/200423_covidQA.json --format squad
"""

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated
from unittest import mock

import faiss
import numpy as np
import typer
from embedded import Embedded, embed, repeat
from scale_memory import measured

from uae.index import ann
from uae.index.ann import TIE, Reconstructed, kth_scores, list_count, plan, tune, write_built
from uae.index.nearest import search
from uae.pipeline.settings import load_settings
from uae.release.legs import dense

SIZES = [100_000, 1_000_000, 10_000_000]
KINDS = ["IVF,SQ8", "IVF,PQ96,Refine(SQ8)"]
DIMENSION = 384
TUNED_ON, MEASURED = 100, 300  # queries
QUESTIONS = 2000  # of a corpus, that these are drawn from
K = 10
_CENTRES, _DIRECTIONS, _AT_ONCE = 2000, 24, 20_000


def write_vectors(folder: Path, n: int, seed: int, corpus: Embedded | None) -> None:
    """``vectors.npy``, unit vectors of shape (n, dim), float32, and ``queries.npy``. Drawn anew for a seed, block by block."""
    dimension = DIMENSION if corpus is None else corpus.passages.shape[1]
    made = np.lib.format.open_memmap(folder / "vectors.npy", mode="w+", dtype=np.float32, shape=(n, dimension))
    if corpus is None:
        for start in range(0, n, _AT_ONCE):
            made[start : start + _AT_ONCE] = some(min(_AT_ONCE, n - start), seed, start)
        queries = some(TUNED_ON + MEASURED, seed, -1 % (1 << 31))
    else:
        repeated = repeat(corpus, n, seed, made)
        if repeated.vectors is not made:
            made[:] = repeated.vectors
        queries = corpus.questions[np.random.default_rng(seed).permutation(len(corpus.questions))[: TUNED_ON + MEASURED]]
    made.flush()
    np.save(folder / "queries.npy", queries)


def some(n: int, seed: int, block: int) -> np.ndarray:
    fixed, rng = np.random.default_rng(seed), np.random.default_rng([seed, block])
    centres = fixed.normal(size=(_CENTRES, DIMENSION)).astype(np.float32) / np.float32(np.sqrt(DIMENSION))
    directions = fixed.normal(size=(_DIRECTIONS, DIMENSION)).astype(np.float32) / np.float32(np.sqrt(DIMENSION))
    moved = centres[rng.integers(_CENTRES, size=n)] + rng.normal(size=(n, _DIRECTIONS)).astype(
        np.float32
    ) @ directions * np.float32(0.13)
    moved += rng.normal(size=(n, DIMENSION)).astype(np.float32) * np.float32(0.2 / np.sqrt(DIMENSION))
    return moved / np.linalg.norm(moved, axis=1, keepdims=True)


def one(folder: Path, factory: str, target: float) -> dict:
    """Build one index into its file as a release does, open it mapped, tune and time it."""
    index_path = folder / "index.faiss"
    vectors, queries = np.asarray(np.load(folder / "vectors.npy", mmap_mode="r")), np.load(folder / "queries.npy")
    learn, learning = ann._learnt, []

    def timed(some: np.ndarray, factory: str) -> faiss.Index:
        start = time.process_time()
        index = learn(some, factory)
        learning.append(time.process_time() - start)
        return index

    start = time.process_time()
    with mock.patch.object(ann, "_learnt", timed):
        write_built(vectors, factory, index_path)
    built = time.process_time() - start
    dense.MAPPED_BYTES = 0
    index = dense.read_index(index_path)
    tuned = tune(index, Reconstructed(index), queries[:TUNED_ON], K, target)
    others = queries[TUNED_ON:]
    kth = kth_scores(vectors, others, K)
    name, _, most = tuned.parameters.partition("=")
    efforts = [f"{name}={1 << power}" for power in range(int(most).bit_length() + 1)] if name else []
    return {
        "factory": factory,
        "build_cpu_s": round(built, 1),
        "learn_cpu_s": round(sum(learning), 1),
        "anon_mb_when_opened": anonymous_mb(),
        "file_mb": round(index_path.stat().st_size / 1e6, 1),
        "reached_of_stored": tuned.reached,
        **point(index, vectors, others, kth, tuned.parameters),
        "curve": [point(index, vectors, others, kth, effort) for effort in efforts],
    }


def point(index: faiss.Index, vectors: np.ndarray, queries: np.ndarray, kth: np.ndarray, parameters: str) -> dict:
    """Recall@K of the vectors themselves, and queries a second, one after the other."""
    found = np.empty((len(queries), K), np.int64)
    start = time.process_time()
    for number in range(len(queries)):
        found[number] = search(index, queries[number : number + 1], K, None, parameters)[1]
    spent = time.process_time() - start
    scores = np.einsum("nd,nkd->nk", queries, vectors[found])
    recall = float((scores >= kth[:, None] - TIE).mean())
    return {"parameters": parameters, "recall_of_vectors": round(recall, 4), "qps": round(len(queries) / spent, 1)}


def anonymous_mb() -> float:
    """Memory of this process that no file stands behind."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024, 1)


def measure(
    out: Path,
    sizes: Sequence[int] = SIZES,
    kinds: Sequence[str] = KINDS,
    target: float = 0.95,
    seed: int = 0,
    corpus: Embedded | None = None,
) -> dict:
    """Every kind at every size, and the plan for each size.

    Args:
        out: where finished measurements are kept. One that is there is not taken again.
        corpus: whose vectors are repeated; None: vectors are made.
    """
    of, dimension = ("made", DIMENSION) if corpus is None else (corpus.key[:12], corpus.passages.shape[1])
    result: dict = {"vectors": of, "dimension": dimension, "queries": MEASURED, "recall_target": target, "sizes": {}}
    for n in sizes:
        rows = []
        for kind in kinds:
            factory = kind.replace("IVF,", f"IVF{list_count(n)},")
            kept = out / f"index-{of}-{n}-{factory.replace(',', '_')}-{target}-{seed}.json"
            if not kept.exists():
                with tempfile.TemporaryDirectory(dir=out) as scratch:
                    folder = Path(scratch)
                    write_vectors(folder, n, seed, corpus)
                    used = measured([sys.executable, __file__, "--out", scratch, "--one", factory, "--target", str(target)])
                    said = json.loads((folder / "said.json").read_text(encoding="utf-8"))
                    kept.write_text(json.dumps(said | used), encoding="utf-8")
                    print(f"{n} {factory}: {kept.read_text(encoding='utf-8')}", file=sys.stderr, flush=True)
            rows.append(json.loads(kept.read_text(encoding="utf-8")))
        result["sizes"][n] = {"plan": plan(n, dimension, target)._asdict(), "kinds": rows}
    return result


def main(
    out: Annotated[Path, typer.Option(help="Where finished measurements are kept.")] = Path("runs/scale"),
    sizes: Annotated[list[int], typer.Option()] = SIZES,
    kinds: Annotated[list[str], typer.Option(help="FAISS factories; IVF without a number: as many lists as auto takes.")] = KINDS,
    target: Annotated[float, typer.Option(help="Recall@10 of what is stored that the effort is tuned to.")] = 0.95,
    seed: int = 0,
    data: Annotated[str, typer.Option(help="A corpus whose vectors are repeated; none: vectors are made.")] = "",
    format: Annotated[str, typer.Option(help="Its format.")] = "folder",
    one_kind: Annotated[str, typer.Option("--one", hidden=True)] = "",
) -> None:
    faiss.omp_set_num_threads(1)
    if one_kind:
        (out / "said.json").write_text(json.dumps(one(out, one_kind, target)), encoding="utf-8")
        return
    out.mkdir(parents=True, exist_ok=True)
    corpus = embed(load_settings(Path("params.yaml")), data, format, None, QUESTIONS, out) if data else None
    print(json.dumps({"index": measure(out, sizes, kinds, target, seed, corpus)}))


if __name__ == "__main__":
    typer.run(main)
