"""Dagster's tables, while the database is away: they are waited for, and a refusal for good is not."""

import time

import pytest

psycopg2 = pytest.importorskip("psycopg2", reason="needs the extra platform")
pytest.importorskip("dagster_postgres", reason="needs the extra platform")

from dagster_project.storage import PATIENCE_S, PatientPostgresStorage, is_away  # noqa: E402

AWAY = 'connection to server at "127.0.0.1", port 5433 failed: Connection refused'
WRONG = 'connection to server at "127.0.0.1", port 5433 failed: FATAL:  password authentication failed for user "postgres"'


@pytest.fixture
def clock(monkeypatch):
    """Time that passes by sleeping alone."""
    now = [time.monotonic()]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return now


@pytest.fixture
def address(new_database):
    """Of an empty database, as Dagster is told it."""
    return new_database(extension=False).replace("postgresql://", "postgresql+psycopg2://")


def refuse(monkeypatch, said: str, seconds: float) -> list[float]:
    """Let connections fail for a while. Returns when they were tried."""
    connect, begun, tried = psycopg2.connect, time.monotonic(), []

    def failing(*arguments, **named):
        tried.append(time.monotonic())
        if time.monotonic() - begun < seconds:
            raise psycopg2.OperationalError(said)
        return connect(*arguments, **named)

    monkeypatch.setattr(psycopg2, "connect", failing)
    return tried


def test_a_database_that_is_away_for_a_minute_is_waited_for_by_all_three(address, clock, monkeypatch):
    refuse(monkeypatch, AWAY, 60)  # a process that begins now
    storage = PatientPostgresStorage(address)
    for asked in (
        lambda: storage.run_storage.get_runs(),
        lambda: storage.event_log_storage.get_maximum_record_id(),
        lambda: storage.schedule_storage.all_instigator_state(),
    ):
        refuse(monkeypatch, AWAY, 60)
        assert not asked()


def test_a_refusal_for_good_is_said_at_once(clock, monkeypatch):
    tried = refuse(monkeypatch, WRONG, 1e9)
    with pytest.raises(Exception, match="password authentication failed"):
        PatientPostgresStorage("postgresql+psycopg2://postgres:x@127.0.0.1:5433/dagster")
    assert len(tried) == 1


def test_patience_ends_and_is_not_begun_anew_by_each_who_tries(address, clock, monkeypatch):
    storage = PatientPostgresStorage(address)
    begun = time.monotonic()
    refuse(monkeypatch, AWAY, 1e9)
    for _ in range(5):
        with pytest.raises(Exception, match="too many retries"):
            storage.run_storage.get_runs()
    assert PATIENCE_S < clock[0] - begun < 2 * PATIENCE_S


@pytest.mark.parametrize("words", ["the database system is starting up", "sorry, too many clients already"])
def test_what_the_server_says_of_later_is_waited_for(words):
    assert is_away(psycopg2.OperationalError(f"FATAL:  {words}"))
