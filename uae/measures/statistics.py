"""Intervals and tests over questions or over their documents, by scipy: percentile bootstrap and paired randomisation."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import DegenerateDataWarning, bootstrap, permutation_test

Floats = npt.NDArray[np.float64]


class Resampling(NamedTuple):
    """How intervals and p-values are computed."""

    confidence: float  # of an interval, such as 0.95
    resamples: int  # of the bootstrap, and of the randomisation test where not all arrangements can be tried
    seed: int


class Estimate(NamedTuple):
    mean: float
    low: float
    high: float


class Gain(NamedTuple):
    absolute: Estimate
    relative: Estimate | None  # of the base's mean; None where that is 0
    p_value: float  # two-sided, paired randomisation test of equal means


def mean_with_interval(values: Floats, confidence: float, resamples: int, seed: int) -> Estimate:
    """Mean of per-question values, shape (n,), with its percentile bootstrap interval. One value alone has no width."""
    return _interval((values,), _mean, confidence, resamples, seed)


def mean_over_groups(values: Floats, groups: npt.NDArray[Any], confidence: float, resamples: int, seed: int) -> Estimate:
    """``mean_with_interval`` where only the groups are independent: whole groups are resampled (cluster bootstrap).

    Args:
        values: of each question, shape (n,). The mean is that over questions.
        groups: of each question, shape (n,): the document that it is asked about.
    """
    sums, sizes = sums_by_group(values, groups), sums_by_group(np.ones(len(values)), groups)
    return _interval((sums, sizes), _ratio, confidence, resamples, seed)


def paired_gain(base: Floats, system: Floats, confidence: float, resamples: int, seed: int) -> Gain:
    """How much better ``system`` is than ``base`` on the same questions, both shape (n,).

    On one question nothing can be said: p is 1, and the intervals have no width.
    """
    relative = None
    if base.mean() > 0:
        relative = _interval((base, system), _relative, confidence, resamples, seed)
    absolute = _interval((base, system), _reversed_difference, confidence, resamples, seed)
    if len(base) < 2:
        return Gain(absolute, relative, 1.0)  # of the two arrangements, both differ as much
    test = permutation_test(
        (system, base),
        _difference,
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        rng=_rng(seed),
        batch=1000,
    )
    return Gain(absolute, relative, float(test.pvalue))


def gain_over_groups(
    base: Floats, system: Floats, groups: npt.NDArray[Any], confidence: float, resamples: int, seed: int
) -> Gain:
    """``paired_gain`` where only the groups are independent: they are resampled, and change sides in the test, as a whole.

    The means are those over questions. The absolute gain's interval treats each resample as if it had as many questions as the
    data.

    Args:
        groups: of each question, shape (n,): the document that it is asked about.
    """
    size = len(base) / len(np.unique(groups))
    base, system = (sums_by_group(values, groups) / size for values in (base, system))
    return paired_gain(base, system, confidence, resamples, seed)


def kept_gain(
    first: tuple[Floats, Floats], second: tuple[Floats, Floats], confidence: float, resamples: int, seed: int
) -> Estimate | None:
    """How much of the relative gain that one judge sees another sees, too: 1 is all of it.

    Args:
        first, second: by judge: per-question values of base and system, all of shape (n,), on the same questions. Sums over each
            document (``sums_by_group``) instead resample documents.

    Returns:
        None where a judge finds the base worth nothing, or the first one sees no gain. Resamples of which that is true are left
        out of the interval.
    """
    if not np.isfinite(_kept(*first, *second, axis=-1)):
        return None
    return _interval((*first, *second), _kept, confidence, resamples, seed)


def sums_by_group(values: Floats, groups: npt.NDArray[Any]) -> Floats:
    """The sum of each group's values, in the order of the sorted groups."""
    _, places = np.unique(groups, return_inverse=True)
    return np.bincount(places, weights=values).astype(np.float64)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p-values of a family of tests, adjusted so that all of them together err as seldom as one (Holm 1979, step-down).

    Neither scipy nor ir-measures has it; statsmodels would be a large dependency for it.
    """
    adjusted: dict[str, float] = {}
    largest = 0.0
    for number, (name, p_value) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, (len(p_values) - number) * p_value))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


def bonferroni(resampling: Resampling, intervals: int) -> Resampling:
    """So that this many ``intervals`` together hold the truth with the given confidence, each of them is widened."""
    return resampling._replace(confidence=1 - (1 - resampling.confidence) / max(intervals, 1))


def _interval(data: Sequence[Floats], statistic: Callable[..., Any], confidence: float, resamples: int, seed: int) -> Estimate:
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
    # The relative gain of a resample in which the base answers no question is not defined, and left out.
    defined = result.bootstrap_distribution[np.isfinite(result.bootstrap_distribution)]
    if not len(defined):
        return Estimate(value, value, value)
    tail = (1 - confidence) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return Estimate(value, float(low), float(high))


def _rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def _mean(values: Floats, axis: int) -> Any:
    return values.mean(axis=axis)


def _ratio(sums: Floats, sizes: Floats, axis: int) -> Any:
    return sums.sum(axis=axis) / sizes.sum(axis=axis)


def _difference(system: Floats, base: Floats, axis: int) -> Any:
    return system.mean(axis=axis) - base.mean(axis=axis)


def _reversed_difference(base: Floats, system: Floats, axis: int) -> Any:
    return _difference(system, base, axis)


def _relative(base: Floats, system: Floats, axis: int) -> Any:
    base_mean = base.mean(axis=axis)
    return system.mean(axis=axis) / np.where(base_mean > 0, base_mean, np.nan) - 1


def _kept(first_base: Floats, first_system: Floats, second_base: Floats, second_system: Floats, axis: int) -> Any:
    gain = _relative(first_base, first_system, axis)
    return _relative(second_base, second_system, axis) / np.where(gain > 0, gain, np.nan)
