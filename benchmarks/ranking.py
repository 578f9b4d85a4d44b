"""How fast passages are ranked: block by block (uae/measures/ranking.py), or with a copy of all vectors for each question.

Random unit vectors, whole corpus. Both ways take turns; medians in milliseconds a question. Prints one JSON line last.

python benchmarks/ranking.py [--passages 57000] [--dimension 384]
"""

import json
import statistics
import time
from collections.abc import Iterator

import numpy as np
import pandas as pd
import typer

from uae.measures.ranking import Ranking, rank


def before(
    questions: pd.DataFrame, passages: pd.DataFrame, asked: np.ndarray, vectors: np.ndarray, depth: int | None
) -> Iterator[Ranking]:
    """The way until November 2026, for the whole corpus."""
    vectors = vectors.astype(np.float64)
    ids = passages["passage_id"].to_numpy()
    by_id = np.argsort(np.argsort(ids))
    rows = np.arange(len(ids))
    for question_id, vector in zip(questions["question_id"], asked, strict=True):
        scores = np.round(vectors[rows] @ vector.astype(np.float64), 9)
        best = np.lexsort((by_id[rows], -scores))[:depth]
        yield Ranking(question_id, ids[rows[best]].tolist(), scores[best].tolist())


def unit(generator: np.random.Generator, count: int, dimension: int) -> np.ndarray:
    rows = generator.normal(size=(count, dimension)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def main(passages: int = 57_000, dimension: int = 384, questions: int = 32, depth: int = 10, repeats: int = 5) -> None:
    generator = np.random.default_rng(0)
    table = pd.DataFrame({"passage_id": [f"p{n:07}" for n in generator.permutation(passages)], "doc_id": "d"})
    asked = pd.DataFrame({"question_id": [f"q{n}" for n in range(questions)], "doc_id": "d", "source": ""})
    vectors, asked_vectors = unit(generator, passages, dimension), unit(generator, questions, dimension)
    seconds: dict[str, list[float]] = {"before": [], "now": []}
    found: dict[str, list[Ranking]] = {}
    for _ in range(repeats):
        for name in seconds:
            start = time.perf_counter()
            if name == "before":
                found[name] = list(before(asked, table, asked_vectors, vectors, depth))
            else:
                found[name] = list(rank(asked, table, asked_vectors, vectors, "corpus", depth))
            seconds[name].append(time.perf_counter() - start)
    medians = {name: 1000 * statistics.median(values) / questions for name, values in seconds.items()}
    print(
        json.dumps(
            {
                "passages": passages,
                "dimension": dimension,
                "questions": questions,
                "depth": depth,
                "repeats": repeats,
                "equal": found["before"] == found["now"],
                "ms_per_question": {name: round(value, 2) for name, value in medians.items()},
                "ratio": round(medians["before"] / medians["now"], 1),
            }
        )
    )


if __name__ == "__main__":
    typer.run(main)
