"""Intervals and tests over questions, by scipy: percentile bootstrap and paired randomisation."""

import warnings
from typing import NamedTuple

import numpy as np
from scipy.stats import DegenerateDataWarning, bootstrap, permutation_test


class Estimate(NamedTuple):
    mean: float
    low: float
    high: float


class Gain(NamedTuple):
    absolute: Estimate
    relative: Estimate | None  # of the base's mean; None where that is 0
    p_value: float  # two-sided, paired randomisation test of equal means


def mean_with_interval(values: np.ndarray, confidence: float, resamples: int, seed: int) -> Estimate:
    """Mean of per-question values, shape (n,), with its percentile bootstrap interval."""
    return _interval((values,), _mean, confidence, resamples, seed)


def paired_gain(base: np.ndarray, system: np.ndarray, confidence: float, resamples: int, seed: int) -> Gain:
    """How much better ``system`` is than ``base`` on the same questions, both shape (n,)."""
    relative = None
    if base.mean() > 0:
        relative = _interval((base, system), _relative, confidence, resamples, seed)
    test = permutation_test(
        (system, base),
        _difference,
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        rng=_rng(seed),
        batch=1000,
    )
    return Gain(_interval((base, system), _reversed_difference, confidence, resamples, seed), relative, float(test.pvalue))


def gain_over_groups(
    base: np.ndarray, system: np.ndarray, groups: np.ndarray, confidence: float, resamples: int, seed: int
) -> Gain:
    """``paired_gain`` where only the groups are independent: they are resampled, and change sides in the test, as a whole.

    The means are those over questions. The absolute gain's interval takes the number of questions in a resample for that in the
    data.

    Args:
        groups: of each question, shape (n,): the document that it is asked about.
    """
    _, places = np.unique(groups, return_inverse=True)
    size = len(base) / (places.max() + 1)
    sums = (np.bincount(places, weights=values) / size for values in (base, system))
    return paired_gain(*sums, confidence, resamples, seed)


def kept_gain(
    first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray], confidence: float, resamples: int, seed: int
) -> Estimate | None:
    """How much of the relative gain that one judge sees another sees, too: 1 is all of it.

    Args:
        first, second: by judge: per-question values of base and system, all of shape (n,), on the same questions.

    Returns:
        None where a judge finds the base worth nothing, or the first one sees no gain. Resamples of which that is true are left
        out of the interval.
    """
    if not np.isfinite(_kept(*first, *second, axis=-1)):
        return None
    return _interval((*first, *second), _kept, confidence, resamples, seed)


def _interval(data: tuple[np.ndarray, ...], statistic, confidence: float, resamples: int, seed: int) -> Estimate:
    value = float(statistic(*data, axis=-1))
    if len(data[0]) < 2:
        return Estimate(value, value, value)
    with warnings.catch_warnings():
        # nan in a resample is expected (below); scipy's warning about it speaks of another method than ours
        warnings.simplefilter("ignore", DegenerateDataWarning)
        result = bootstrap(
            data,
            statistic,
            paired=len(data) > 1,
            vectorized=True,
            confidence_level=confidence,
            n_resamples=resamples,
            method="percentile",
            rng=_rng(seed),
            batch=1000,
        )
    # nanquantile: the relative gain of a resample in which the base answers no question is not defined
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(result.bootstrap_distribution, [tail, 1 - tail])
    return Estimate(value, float(low), float(high))


def _rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def _mean(values, axis):
    return values.mean(axis=axis)


def _difference(system, base, axis):
    return system.mean(axis=axis) - base.mean(axis=axis)


def _reversed_difference(base, system, axis):
    return _difference(system, base, axis)


def _relative(base, system, axis):
    base_mean = base.mean(axis=axis)
    return system.mean(axis=axis) / np.where(base_mean > 0, base_mean, np.nan) - 1


def _kept(first_base, first_system, second_base, second_system, axis):
    gain = _relative(first_base, first_system, axis)
    return _relative(second_base, second_system, axis) / np.where(gain > 0, gain, np.nan)
