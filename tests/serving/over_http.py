"""The real application on a real port, over a release whose encoders count words: rankings that a reader can work out."""

import contextlib
import json
import re
import threading
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import uvicorn
from starlette.applications import Starlette

import deploy.retrieval
from deploy.app import create_app
from deploy.config import Config
from uae.release.legs.protocol import Queries
from uae.release.open import Answer
from uae.release.passages import Hit

_DIMENSION = 512
# What the trained encoder has learnt not to look at.
_FILLER = frozenset(["a", "an", "and", "do", "does", "how", "in", "is", "it", "of", "on", "the", "what", "when", "where", "who"])


@contextlib.contextmanager
def on_a_port(app: Any) -> Iterator[str]:
    """Run an ASGI application in a thread; yields its address."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        if not thread.is_alive():
            raise RuntimeError("the application did not start: its error is above")
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)


@contextlib.contextmanager
def service(
    folder: Path,
    passages: Sequence[dict],
    base: bool = True,
    origin: dict | None = None,
    systems: Sequence[str] | None = None,
    likely: float | None = None,
    **settings: Any,
) -> Iterator[str]:
    """The application over ``passages``, each {"doc_id", "title", "text"} and maybe "section" and "metadata".

    Args:
        base: whether the release holds the base encoder.
        origin: what the registry knows of the release; None: it came from none.
        systems: that it has; None: uae, and base where it holds that.
        likely: the probability that the first passage helps, as the release tells it; None: it does not.
        settings: of ``deploy.config.Config``.
    """
    opened = WordRelease(passages, systems or (("uae", "base") if base else ("uae",)), likely)
    root = folder / opened.fingerprint
    root.mkdir()
    (root / "manifest.json").write_text(json.dumps({"fingerprint": opened.fingerprint}))
    if origin:
        (folder / f"{opened.fingerprint}.origin.json").write_text(json.dumps(origin))
    with mock.patch.object(deploy.retrieval, "Release", return_value=opened):
        app = create_app(Config(release=root, **settings))
        with on_a_port(app) as url:
            yield url


def scripted(*responses: Any) -> tuple[Starlette, list[dict]]:
    """An application that gives these responses one after the other, and the headers that it was asked with."""
    asked: list[dict] = []

    async def app(scope, receive, send):
        if scope["type"] != "http":
            return await Starlette()(scope, receive, send)
        asked.append({name.decode(): value.decode() for name, value in scope["headers"]})
        await responses[len(asked) - 1](scope, receive, send)

    return app, asked


class WordRelease:
    """As ``uae.release.open.Release``; base and bm25 count all words, the trained encoder those that say something."""

    def __init__(self, passages: Sequence[dict], systems: Sequence[str], likely: float | None = None):
        self.likely = likely
        self.passages = [
            {"passage_id": f"p{n}", "source": passage["doc_id"] + ".md", "section": "", "start": 0, "end": len(passage["text"])}
            | {"metadata": {}}
            | passage
            for n, passage in enumerate(passages)
        ]
        self.systems = tuple(systems)
        self.fingerprint = f"{zlib.crc32(repr((self.passages, self.systems)).encode()):08x}" * 8
        self.passage_count, self.data_hash = len(passages), "0"
        texts = [passage["text"] for passage in self.passages]
        self._vectors = {system: self.encode(texts, "document", system) for system in self.systems}

    def encode(self, texts: Sequence[str], kind: str, system: str = "uae") -> np.ndarray:
        vectors = np.full((len(texts), _DIMENSION), 1e-6, dtype=np.float32)
        for row, text in enumerate(texts):
            for word in re.findall(r"\w+", text.lower()):
                if system in ("base", "bm25") or word not in _FILLER:
                    vectors[row, zlib.crc32(word.encode()) % _DIMENSION] += 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def dimension(self, system: str = "uae") -> int:
        return _DIMENSION

    def max_tokens(self, system: str = "uae") -> int:
        return 256

    def backend(self, system: str = "uae") -> str:
        return "words"

    def token_lengths(self, texts: Sequence[str], kind: str) -> list[int]:
        return [len(text.split()) for text in texts]

    def rows(self, filters: Mapping[str, Any]) -> np.ndarray:
        def holds(value, condition) -> bool:
            if isinstance(condition, dict):
                return value is not None and condition.get("gte", value) <= value <= condition.get("lte", value)
            return value in (condition if isinstance(condition, list) else [condition])

        facts = [passage["metadata"] | {name: passage[name] for name in ("doc_id", "source")} for passage in self.passages]
        return np.flatnonzero([all(holds(each.get(name), value) for name, value in filters.items()) for each in facts])

    def score(self, system: str = "uae") -> str:
        return "cosine"

    def rerank_depth(self, system: str = "uae") -> int:
        return 0

    def has_vectors(self, system: str = "uae") -> bool:
        return True

    def find(
        self, queries: Queries, k: int, rows: np.ndarray | None = None, min_score: float | None = None, system: str = "uae"
    ) -> list[list[Hit]]:
        allowed = np.arange(len(self.passages)) if rows is None else rows
        found = []
        for scores in queries.vectors @ self._vectors[system].T:
            best = sorted(allowed, key=lambda row, scores=scores: (-scores[row], row))[:k]
            hits = [self._hit(row, float(scores[row])) for row in best if min_score is None or scores[row] >= min_score]
            found.append(hits)
        return found

    def answer(self, queries: Queries, k: int, rows=None, min_score=None, system: str = "uae") -> list[Answer]:
        useful = self.likely if system == "uae" else None
        says = None if useful is None else useful >= 0.5
        return [Answer(hits, says, useful) for hits in self.find(queries, k, rows, min_score, system)]

    def search(self, queries: Sequence[str], k: int, doc_id: str | None = None, system: str = "uae") -> list[list[Hit]]:
        return self.find(Queries(queries, self.encode(queries, "query", system)), k, system=system)

    def close(self) -> None:
        pass

    def _hit(self, row: int, score: float) -> Hit:
        fields = self.passages[row] | {"score": score}
        return Hit(**{name: fields[name] for name in Hit._fields})
