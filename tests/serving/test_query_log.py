"""The log of queries: what is kept, for how long, what a person can have removed, and that no request suffers from it."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import uae.serving.query_log as module
from uae.io.errors import ArtefactError
from uae.release.open import Release
from uae.serving.query_log import QUERIES, Logged, QueryLog, forget_queries, read_queries, remove_expired

NOW = datetime.now(UTC)
BYTES = 10_000_000


def asked(text: str, *doc_ids: str, time: datetime = NOW) -> Logged:
    score = 0.5 if doc_ids else None
    passages = [f"{doc_id}-p" for doc_id in doc_ids]
    return Logged(
        time,
        text,
        "uae",
        "cosine",
        score,
        5,
        None,
        False,
        passages,
        list(doc_ids),
        [f"{d}.md" for d in doc_ids],
        "f" * 64,
        "e" * 64,
    )


def texts(folder) -> list[str]:
    return read_queries(folder)["text"].to_pylist()


@pytest.fixture(autouse=True)
def writes_only_when_told(monkeypatch):
    monkeypatch.setattr(module, "_FLUSH_S", 3600)


@pytest.fixture
def opened():
    logs = []

    def open_log(folder, days=30, max_bytes=BYTES, dropped=lambda _: None) -> QueryLog:
        logs.append(QueryLog(folder, days, max_bytes, dropped))
        return logs[-1]

    yield open_log
    for each in logs:
        each.close()


def test_what_was_asked_is_read_back(tmp_path, opened):
    log = opened(tmp_path)
    assert texts(tmp_path) == []
    second, first = asked("b", "d1"), asked("a", time=NOW - timedelta(seconds=5))
    log.add([second, first])
    log.flush()
    (a, b) = read_queries(tmp_path).to_pylist()
    assert (a["text"], a["best_score"], a["doc_ids"]) == ("a", None, [])
    assert b == second._replace(time=b["time"])._asdict()
    assert abs(b["time"] - NOW) < timedelta(milliseconds=1)


def test_a_stopped_service_has_written_what_waited(tmp_path):
    log = QueryLog(tmp_path, 30, BYTES)
    log.add([asked("a")])
    log.close()
    assert texts(tmp_path) == ["a"]


def test_queries_of_one_day_go_into_one_part_until_it_is_full(tmp_path, opened, monkeypatch):
    monkeypatch.setattr(module, "_PART_ROWS", 3)
    log = opened(tmp_path)
    for n in range(5):
        log.add([asked(f"q{n}", time=NOW + timedelta(milliseconds=n))])
        log.flush()
    assert sorted(pq.ParquetFile(part).metadata.num_rows for part in tmp_path.glob("*.parquet")) == [2, 3]
    assert texts(tmp_path) == [f"q{n}" for n in range(5)]


def test_a_part_holds_one_day_and_goes_with_it(tmp_path, opened):
    log = opened(tmp_path, days=2)
    log.add([asked("old", time=NOW - timedelta(days=4)), asked("yesterday", time=NOW - timedelta(days=1)), asked("now")])
    log.flush()
    assert texts(tmp_path) == ["yesterday", "now"]
    assert len(list(tmp_path.glob("*.parquet"))) == 2  # writing has removed what was too old already


def test_what_is_too_old_is_neither_read_nor_kept_where_no_service_runs(tmp_path):
    log = QueryLog(tmp_path, 30, BYTES)
    log.add([asked("old", time=NOW - timedelta(days=4)), asked("now")])
    log.close()
    (tmp_path / "log.json").write_text(json.dumps({"format": 1, "days": 2}))
    assert texts(tmp_path) == ["now"]
    remove_expired(tmp_path)
    assert len(list(tmp_path.glob("*.parquet"))) == 1


def test_the_oldest_go_where_the_log_is_too_large(tmp_path, opened):
    log = opened(tmp_path, max_bytes=BYTES)
    log.add([asked("old", time=NOW - timedelta(days=2)), asked("older", time=NOW - timedelta(days=3))])
    log.flush()
    size = max(part.stat().st_size for part in tmp_path.glob("*.parquet"))
    smaller = opened(tmp_path, max_bytes=2 * size + 100)
    smaller.add([asked("new")])
    smaller.flush()
    assert texts(tmp_path) == ["old", "new"]


def test_two_services_write_into_one_folder(tmp_path, opened):
    logs = [opened(tmp_path), opened(tmp_path)]

    def write(n: int) -> None:
        logs[n % 2].add([asked(f"q{n}")])
        logs[n % 2].flush()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write, range(20)))
    for log in logs:
        log.flush()
    assert sorted(texts(tmp_path)) == sorted(f"q{n}" for n in range(20))


def test_a_forgotten_document_takes_its_queries_along(tmp_path, opened):
    log = opened(tmp_path)
    log.add([asked("stays", "d1"), asked("goes", "d1", "d2"), asked("goes too", "d3"), asked("unanswered")])
    log.flush()
    assert forget_queries(tmp_path, doc_ids=["d2"], sources=["d3.md"]) == (2, 1)
    assert sorted(texts(tmp_path)) == ["stays", "unanswered"]
    assert forget_queries(tmp_path, doc_ids=["d2"]) == (0, 0)
    assert all(b"goes" not in file.read_bytes() for file in tmp_path.iterdir())
    assert '"d2"' not in (tmp_path / "forgotten.json").read_text()


@pytest.mark.parametrize("found", ["[]", '{"a": 1}', '{"a": "yesterday"}'])
def test_a_damaged_record_of_what_was_forgotten_is_named(tmp_path, opened, found):
    opened(tmp_path)
    (tmp_path / "forgotten.json").write_text(found)
    with pytest.raises(ArtefactError, match=r"forgotten\.json is not what uae forget writes"):
        forget_queries(tmp_path, doc_ids=["d1"])


def test_a_part_of_which_nothing_is_left_goes(tmp_path, opened):
    log = opened(tmp_path)
    log.add([asked("goes", "d1")])
    log.flush()
    assert forget_queries(tmp_path, doc_ids=["d1"]) == (1, 1)
    assert list(tmp_path.glob("*.parquet")) == []
    log.add([asked("next")])
    log.flush()
    assert texts(tmp_path) == ["next"]


def test_what_waits_in_memory_is_forgotten_too_and_what_comes_later_is_not(tmp_path, opened):
    log = opened(tmp_path)
    log.add([asked("waits", "d1")])
    forget_queries(tmp_path, doc_ids=["d1"])
    log.add([asked("later", "d1", time=datetime.now(UTC) + timedelta(seconds=1))])
    log.flush()
    assert texts(tmp_path) == ["later"]


def test_forgetting_where_there_is_no_log_does_nothing(tmp_path):
    assert forget_queries(tmp_path / "none", doc_ids=["d1"]) == (0, 0)
    assert not (tmp_path / "none").exists()


def test_a_full_queue_drops_and_counts(tmp_path, opened, monkeypatch):
    monkeypatch.setattr(module, "_MOST_WAITING", 2)
    dropped = []
    log = opened(tmp_path, dropped=dropped.append)
    log.add([asked("a"), asked("b"), asked("c")])
    assert sum(dropped) == 1
    log.flush()
    assert texts(tmp_path) == ["a", "b"]


def test_a_disk_that_fails_drops_counts_and_the_next_write_goes_on(tmp_path, opened, monkeypatch, caplog):
    dropped = []
    log = opened(tmp_path, dropped=dropped.append)
    log.add([asked("lost")])
    with monkeypatch.context() as broken:
        broken.setattr(module.pq, "write_table", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        log.flush()
    assert dropped == [1]
    log.add([asked("kept")])
    log.flush()
    assert texts(tmp_path) == ["kept"]
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_half_a_surrogate_pair_stops_nothing(tmp_path, opened):
    log = opened(tmp_path)
    log.add([asked("\ud800 half")])
    log.flush()
    assert texts(tmp_path) == ["? half"]


def test_bad_logs_are_named(tmp_path, opened):
    with pytest.raises(ArtefactError, match="holds no log of queries"):
        read_queries(tmp_path)
    log = opened(tmp_path)
    log.add([asked("a")])
    log.flush()
    (tmp_path / "2026-01-01-x.parquet").write_bytes(b"PAR1 no table")
    with pytest.raises(ArtefactError, match=r"2026-01-01-x\.parquet is damaged"):
        read_queries(tmp_path)
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "2026-01-01-x.parquet")
    with pytest.raises(ArtefactError, match=r"2026-01-01-x\.parquet has not the columns"):
        read_queries(tmp_path)
    (tmp_path / "2026-01-01-x.parquet").unlink()
    (tmp_path / "log.json").write_text('{"format": 2, "days": 3}')
    with pytest.raises(ArtefactError, match="not of format 1"):
        read_queries(tmp_path)


def test_a_place_that_cannot_be_written_stops_the_start(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtefactError, match="cannot write"):
        QueryLog(tmp_path / "file", 30, BYTES)
    assert "query-log" not in {thread.name for thread in threading.enumerate()}


def test_the_service_keeps_no_log_unless_it_is_told_to(serve, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert serve().post("/v1/search", json={"query": "Where are the keys?"}).status_code == 200
    assert list(tmp_path.iterdir()) == []


def test_the_service_logs_what_was_asked_and_found(serve, release, tmp_path):
    client = serve(query_log=tmp_path / "log", query_log_days=7)
    body = {"query": ["Where are the keys?", "ice"], "k": 2, "filters": {"doc_id": "d1"}, "min_score": -1}
    reply = client.post("/v1/search", json=body).json()
    assert client.post("/v1/search", json={"query": "pump", "min_score": 2}).status_code == 200
    assert client.post("/v1/search", json={"query": "pump", "system": "bm25", "k": 0}).status_code == 422
    client.__exit__(None, None, None)  # the service stops
    rows = {row["text"]: row for row in read_queries(tmp_path / "log").to_pylist()}
    assert set(rows) == {"Where are the keys?", "ice", "pump"}
    for result in reply["results"]:
        row, passages = rows[result["query"]], result["passages"]
        assert row["best_score"] == pytest.approx(passages[0]["score"])
        assert row["passage_ids"] == [passage["passage_id"] for passage in passages]
        assert (set(row["doc_ids"]), set(row["sources"])) == ({"d1"}, {"manual-1.md"})
        assert (row["system"], row["score_is"], row["release"]) == ("uae", reply["score_is"], reply["release"])
        assert row["encoder"] == Release(release, "cpu").encoder
        assert (row["k"], row["min_score"], row["filtered"]) == (2, -1.0, True)
    assert (rows["pump"]["best_score"], rows["pump"]["passage_ids"], rows["pump"]["filtered"]) == (None, [], False)
    assert json.loads((tmp_path / "log" / "log.json").read_text()) == {"format": 1, "days": 7}
    assert set(rows["ice"]) == set(QUERIES.names)


def test_a_log_that_cannot_be_written_fails_no_request(serve, tmp_path, monkeypatch):
    client = serve(query_log=tmp_path / "log")
    monkeypatch.setattr(QueryLog, "_write", lambda *_: (_ for _ in ()).throw(OSError(5, "Input/output error")))
    assert client.post("/v1/search", json={"query": ["a", "b"]}).status_code == 200
    client.app.state.retrieval._query_log.flush()
    assert "uae_query_log_dropped_total 2.0" in client.get("/metrics").text
