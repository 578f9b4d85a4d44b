"""The service searches in a database: publications swap under load, and it says when the database is away."""

import threading
import time
from collections import Counter
from collections.abc import Callable

import pytest
from tiny_releases import tiny_release

from deploy.config import Config, read_config
from uae.io.errors import ArtefactError, ConfigError
from uae.release.manifest import read_manifest
from uae.release.store import ReleaseStore

pytest.importorskip("psycopg", reason="needs the extra postgres")
from uae.io.postgres import Database
from uae.release.collections.collection import Collection
from uae.release.collections.publish import publish, rollback

TEXTS = {
    "harbour": ["The crane stands still.", "Ropes lie on the quay.", "A tug waits for the tide."],
    "kitchen": ["The oven is hot.", "Salt is low.", "Call the baker before six."],
    "garden": ["The gate is shut.", "Rain fills the barrel.", "Prune the pear in winter."],
}


@pytest.fixture(scope="module")
def releases(tmp_path_factory, tiny_encoder) -> dict:
    """Three releases of one encoder; their documents and passages are called after them."""
    root = tmp_path_factory.mktemp("published")
    return {name: tiny_release(root / name, tiny_encoder, texts, name, "torch") for name, texts in TEXTS.items()}


@pytest.fixture
def published(releases, new_database, tmp_path):
    """A store with all three, a database to publish into, and settings of a service that searches there."""
    store = ReleaseStore(tmp_path / "store")
    for folder in releases.values():
        store.install(folder, None)
    address = new_database()
    database = Database(address, read_only=False)
    settings = {"release": None, "store": store.folder, "database": address, "watch_seconds": 0.05, "database_seconds": 2.0}
    yield Collection(database, "uae"), settings
    database.close()


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "it did not happen within two minutes"
        time.sleep(0.02)


def served(client) -> str | None:
    reply = client.get("/v1/release")
    return reply.json()["fingerprint"] if reply.status_code == 200 else None


def fingerprints(releases: dict) -> dict:
    return {name: read_manifest(folder).fingerprint for name, folder in releases.items()}


def test_publications_and_a_rollback_swap_under_load_without_a_failed_or_a_mixed_answer(serve, releases, published):
    collection, settings = published
    publish(releases["harbour"], collection)
    client, named, stop = serve(**settings), fingerprints(releases), threading.Event()
    assert served(client) == named["harbour"]
    answers, wrong = Counter(), []

    def ask() -> None:
        while not stop.is_set():
            reply = client.post("/v1/search", json={"query": ["Is it hot?", "Where is the rope?"], "k": 3})
            if reply.status_code != 200:
                wrong.append(reply.text)
                continue
            body = reply.json()
            found = [passage for result in body["results"] for passage in result["passages"]]
            answers[body["release"], tuple(sorted({passage["doc_id"] for passage in found})), len(found)] += 1

    clients = [threading.Thread(target=ask) for _ in range(3)]
    for each in clients:
        each.start()
    for name in ("kitchen", "garden"):
        publish(releases[name], collection)
        until(lambda name=name: served(client) == named[name])
        seen = sum(answers.values())
        until(lambda seen=seen: sum(answers.values()) > seen + 5)
    assert rollback(collection) == named["kitchen"]
    until(lambda: served(client) == named["kitchen"])
    stop.set()
    for each in clients:
        each.join(60)
    assert wrong == []
    assert set(answers) == {(named[name], (name,), 6) for name in TEXTS}


def test_it_says_when_the_database_is_away_and_goes_on_when_it_is_back(serve, releases, published, postgres):
    collection, settings = published
    publish(releases["harbour"], collection)
    client = serve(**settings)
    ready = client.app.state.retrieval.why_not_ready
    until(lambda: client.get("/v1/release").json()["database"] == "answers" and ready() is None)
    before = client.post("/v1/search", json={"query": "rope", "k": 2}).json()["results"]
    postgres.stop()
    try:
        reply = client.post("/v1/search", json={"query": "rope", "k": 2})
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "database_away")
        assert reply.headers["retry-after"] == "5"
        until(ready)
        assert ready() == "the database of vectors does not answer"
        assert client.get("/v1/release").json()["database"] == "away"
        assert "uae_database_up 0.0" in client.get("/metrics").text
        assert client.post("/v1/search", json={"query": "rope", "k": 2}).json()["error"]["code"] == "database_away"
        # Words and vectors of texts need no database.
        assert client.post("/v1/search", json={"query": "ropes", "k": 2, "system": "bm25"}).status_code == 200
        assert client.post("/v1/embeddings", json={"input": "rope", "model": "uae"}).status_code == 200
    finally:
        postgres.start()
    until(lambda: ready() is None)
    assert client.post("/v1/search", json={"query": "rope", "k": 2}).json()["results"] == before
    assert "uae_database_up 1.0" in client.get("/metrics").text
    assert "answers again" in client.lines.text


def test_a_service_that_starts_before_its_database_waits_for_it(serve, releases, published, postgres):
    collection, settings = published
    publish(releases["harbour"], collection)
    postgres.stop()
    try:
        client = serve(**settings)
        assert client.post("/v1/search", json={"query": "rope"}).json()["error"]["code"] == "not_ready"
        assert client.app.state.retrieval.why_not_ready() == "no release is loaded yet"
    finally:
        postgres.start()
    until(lambda: served(client) == fingerprints(releases)["harbour"])


def test_a_fixed_release_is_served_from_the_database_only_if_it_was_published(serve, releases, published):
    collection, settings = published
    publish(releases["harbour"], collection)
    publish(releases["kitchen"], collection)
    fixed = settings | {"store": None, "release": releases["harbour"]}
    client = serve(**fixed)
    (result,) = client.post("/v1/search", json={"query": "rope", "k": 3}).json()["results"]
    assert {passage["doc_id"] for passage in result["passages"]} == {"harbour"}
    with pytest.raises(ArtefactError, match="does not hold release"):
        serve(**(fixed | {"release": releases["garden"]}))


def test_the_address_and_its_password_are_in_no_message():
    config, _ = read_config({"UAE_DATABASE": "postgresql://me:hunter2@db/vectors", "UAE_COLLECTION": "papers"})
    assert config.collection == "papers"
    assert "hunter2" not in repr(config) + str(config)
    with pytest.raises(ConfigError, match="UAE_COLLECTION is set, and UAE_DATABASE is not"):
        read_config({"UAE_COLLECTION": "papers"})


def test_without_a_database_nothing_of_it_is_told(serve):
    client = serve()
    assert client.get("/v1/release").json()["database"] is None
    assert "uae_database_up" not in client.get("/metrics").text
    assert Config().database is None
