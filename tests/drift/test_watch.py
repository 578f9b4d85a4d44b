"""How a log is cut into a reference and windows, and what is measured of them."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from uae.drift.clusters import cluster
from uae.drift.signals import Measured, tie_breakers
from uae.drift.watch import judge, low_limit, shares, spans

START = datetime(2026, 11, 1, tzinfo=UTC)


def log(*runs: tuple[int, str], a_day: int = 1000) -> pd.DataFrame:
    """So many queries by each encoder in turn, so many a day."""
    encoders = [encoder for number, encoder in runs for _ in range(number)]
    times = [START + timedelta(days=n // a_day, seconds=n % a_day) for n in range(len(encoders))]
    times = pd.Series(times, dtype="datetime64[ms, UTC]")
    return pd.DataFrame({"time": times, "text": [f"query {n}" for n in range(len(encoders))], "encoder": encoders})


def cut(queries: pd.DataFrame, reference: int, window: int):
    found = spans(queries, reference, window)
    first = found.reference and (found.reference.start, found.reference.stop)
    return first, [(span.start, span.stop) for span in found.windows], (found.recent.start, found.recent.stop)


def test_the_first_queries_are_the_reference_of_the_first_encoder():
    assert cut(log((25, "a")), 10, 6) == ((0, 10), [(10, 16)], (19, 25))  # the next window begins with the next day


def test_windows_follow_each_other_where_days_are_short():
    assert cut(log((28, "a"), a_day=3), 10, 6) == ((0, 10), [(10, 16), (18, 24), (24, 28)], (22, 28))


def test_the_last_queries_before_a_new_encoder_are_its_reference():
    assert cut(log((30, "a"), (9, "b")), 10, 6)[:2] == ((20, 30), [(30, 36)])
    assert cut(log((4, "a"), (9, "b")), 10, 6)[:2] == ((0, 10), [(10, 13)])


def test_an_encoder_that_came_back_counts_from_its_return():
    assert cut(log((30, "a"), (20, "b"), (9, "a")), 10, 6)[:2] == ((40, 50), [(50, 56)])


@pytest.mark.parametrize("number", [0, 9])
def test_too_few_queries_are_no_reference(number):
    assert cut(log((number, "a")), 10, 6) == (None, [], (number, number))


def test_a_full_reference_and_nothing_after_it_is_watched_by_no_window():
    assert cut(log((10, "a")), 10, 6) == ((0, 10), [], (10, 10))


def test_a_query_that_is_asked_again_counts_once_in_its_span():
    queries = log((12, "a"))
    queries["text"] = ["Where is the key?", "where is the KEY", "b", "c", "d", "b"] * 2
    found = spans(queries, 6, 6)
    assert found.reference.places.tolist() == [0, 2, 3, 4]
    assert found.windows[0].places.tolist() == [6, 8, 9, 10]


def measured(cosines, new=None) -> Measured:
    cosines = np.asarray(cosines, float)
    new = np.zeros(len(cosines)) if new is None else np.asarray(new, float)
    return Measured(cosines, [["word"] if share else [] for share in new], new, np.zeros((len(cosines), 2), np.float32))


def test_shares_count_what_is_farther_than_all_but_a_twentieth_of_the_reference():
    low = low_limit(measured(np.arange(1, 100) / 100), 0.05)
    assert low == 0.05
    told = shares(measured([0.01, 0.049, 0.05, 0.9], [0.5, 0, 0, 0]), low, 0.95)
    assert (told["low"]["queries"], told["low"]["of"], told["low"]["share"]) == (2, 4, 0.5)
    assert told["low"]["low"] < 0.5 < told["low"]["high"]
    assert told["with_new_words"]["share"] == 0.25
    assert shares(measured([]), low, 0.95)["low"]["share"] is None


@pytest.mark.parametrize("signal", ["best scores", "new words"])
def test_a_window_says_when_and_by_which_signal_it_drifted(signal):
    rng = np.random.default_rng(0)
    reference, now = rng.normal(0.6, 0.1, 300), rng.normal(0.6, 0.1, 300)
    new = np.zeros(300)
    changed = np.arange(100, 300)[rng.random(200) < 0.2]
    if signal == "new words":
        new[changed] = 0.5
    else:
        now[changed] = 0.1
    window = judge(measured(reference), measured(now, new), rng.random(600), 1, 0.05)
    assert 100 < window.first_over < 250
    assert signal in window.reasons
    assert {"best scores": "new words", "new words": "best scores"}[signal] not in window.reasons
    assert len(window.evidence["all"]) == 300
    assert window.evidence["all"][window.first_over] >= window.limit > max(window.evidence["all"][: window.first_over])
    quiet = judge(measured(reference), measured(rng.normal(0.6, 0.1, 300)), rng.random(600), 1, 0.05)
    assert (quiet.first_over, quiet.reasons) == (None, [])


def test_tie_breakers_are_the_same_at_each_look_and_others_elsewhere():
    texts = ["Where is the key?", "what", "where is the KEY"]
    here = tie_breakers(texts, 13, 1)
    assert here.tolist() == tie_breakers(texts, 13, 1).tolist()
    assert here[0] == here[2] != here[1]
    assert not set(here) & {*tie_breakers(texts, 13, 2), *tie_breakers(texts, 14, 1)}
    many = tie_breakers([f"q{n}" for n in range(2000)], 0, 0)
    assert many.min() >= 0
    assert many.max() < 1
    assert np.quantile(many, [0.25, 0.5, 0.75]) == pytest.approx([0.25, 0.5, 0.75], abs=0.04)


def test_queries_that_are_alike_are_put_together_with_their_words():
    axes = np.eye(6, dtype=np.float32)
    near = [axes[0] + 0.1 * axes[k] for k in (1, 2, 3)] + [axes[4], axes[4] + 0.1 * axes[5]]
    vectors = np.array([v / np.linalg.norm(v) for v in near])
    texts = ["Is soup served?", "When is the soup hot?", "Who cooks soup?", "a key", "two keys"]
    ordinary = np.array([axes[0], axes[0] * 0.96 + axes[1] * 0.28, axes[2], axes[3], axes[4], axes[5]])
    (found,) = cluster(texts, vectors, ["Where is the hot valve?"] * 6, ordinary)  # two are no cluster
    assert sorted(found.places) == [0, 1, 2]
    assert found.words[0] == "soup"
    assert set(found.examples) == {0, 1, 2}
    assert cluster(texts[:2], vectors[:2], [], ordinary) == []
