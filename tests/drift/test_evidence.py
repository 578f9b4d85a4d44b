"""The evidence against figures worked out in another way, and its promise: false alarms are as rare as they were meant to be."""

import numpy as np
import pytest
from scipy.stats import beta as beta_distribution
from scipy.stats import betabinom

from uae.drift import evidence
from uae.drift.evidence import limit, log_evidence, log_limit, together, untied


def test_the_limit_cuts_off_that_part_of_the_reference():
    reference = np.random.default_rng(0).permutation(99.0 + np.arange(99))
    for part, gaps in ((0.01, 1), (0.05, 5), (0.2, 20)):
        least, found = limit(reference, part)
        assert found == gaps
        assert (reference > least).sum() == gaps - 1  # the limit itself is a value of the reference
    assert limit(np.array([3.0]), 0.5) == (3.0, 1)


def test_no_change_is_as_likely_as_scipys_beta_binomial_says(monkeypatch):
    """Capital times the chance under no change is a mixture of binomial chances."""
    monkeypatch.setattr(evidence, "_STRANGEST", (0.1,))
    reference, rng = np.arange(99.0), np.random.default_rng(1)
    values = rng.uniform(0, 110, 40)
    found = log_evidence(reference, values)
    _, gaps = limit(reference, 0.1)
    shares = beta_distribution.ppf((np.arange(32) + 0.5) / 32, gaps, 100 - gaps)
    mixed = np.concatenate([s + (1 - s) * shares for s in (0.025, 0.05, 0.1, 0.2, 0.4)])
    for n in (1, 7, 40):
        k = int((values[:n] > limit(reference, 0.1)[0]).sum())
        likely = np.mean(mixed**k * (1 - mixed) ** (n - k))
        one_order = betabinom.pmf(k, n, gaps, 100 - gaps) / np.exp(betabinom_orders(n, k))
        assert np.exp(found[n - 1]) == pytest.approx(likely / one_order, rel=1e-9)


def betabinom_orders(n: int, k: int) -> float:
    from scipy.special import gammaln

    return float(gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1))


def test_the_capital_is_fair():
    """Over all orders of few values its mean is 1, exactly, after every number of values."""
    from itertools import permutations

    capital = [np.exp(log_evidence(np.array(order[:3], float), np.array(order[3:], float))) for order in permutations(range(7))]
    assert np.mean(capital, axis=0) == pytest.approx(np.ones(4), rel=1e-12)
    assert np.std(capital, axis=0).min() > 0.01  # it does depend on the order


def test_looking_after_every_query_raises_no_more_false_alarms_than_were_allowed():
    rng, alarms = np.random.default_rng(2), 0
    for _ in range(400):
        values = rng.normal(size=500)
        alarms += bool((log_evidence(values[:200], values[200:]) >= np.log(1 / 0.05)).any())
    assert alarms / 400 <= 0.05


def test_a_new_kind_of_query_is_found_and_the_earlier_the_more_there_are():
    rng, when = np.random.default_rng(3), {}
    for share in (0.05, 0.1, 0.3):
        found = []
        for _ in range(40):
            values = np.where(rng.random(500) < share, rng.normal(4, 1, 500), rng.normal(size=500))
            over = np.flatnonzero(log_evidence(rng.normal(size=500), values) >= log_limit(0.05, 1))
            found.append(over[0] if len(over) else 10_000)
        when[share] = np.median(found)
    assert when[0.3] < when[0.1] < when[0.05] < 500


def test_fewer_strange_queries_are_no_drift():
    values = np.random.default_rng(4).normal(size=500)
    assert log_evidence(values, values.mean() + 0.1 * values).max() < np.log(2)


def test_all_windows_together_have_the_chance_of_one():
    assert sum(np.exp(-log_limit(0.05, window)) for window in range(1, 10_000)) == pytest.approx(0.05, rel=1e-3)


def test_players_together_have_their_mean():
    first, second = np.log([1.0, 4.0]), np.log([3.0, 2.0])
    assert np.exp(together([first, second])) == pytest.approx([2.0, 3.0])


def test_ties_are_broken_and_order_is_kept():
    values, ties = np.array([0.0, 2.0, 0.0, 1.0, 0.0]), np.array([0.9, 0.1, 0.3, 0.5, 0.6])
    assert untied(values, ties).tolist() == [2, 4, 0, 3, 1]
