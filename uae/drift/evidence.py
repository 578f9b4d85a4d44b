"""Evidence that queries have changed, as a number that may be looked at as often as one likes.

Each query has a value that says how unusual it is, and the strangest part of a reference sets a limit. How often later queries
lie beyond the limit is what is judged.

While nothing changes, queries are exchangeable. So the next value falls into each gap between the values before it with the same
chance. With ``r`` gaps beyond the limit, the share ``q`` of queries beyond it has the distribution Beta(r, m + 1 - r), where
``m`` is the size of the reference. That is exact, whatever the values' own distribution is.

A player bets that a share ``s`` of queries is of a new kind, which always lies beyond the limit. In place of ``q`` the share is
then ``s + (1 - s) q``. The player's capital is the likelihood of what came under the bet, divided by that under no change. Such a
ratio is a martingale that begins at 1. By Ville's inequality it ever reaches 1 / a with a chance of at most a. That holds for all
looks together, so there is nothing to correct. Source: Ramdas et al., *Game-theoretic statistics and safe anytime-valid
inference* (2023).
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.special import betaln, logsumexp
from scipy.stats import beta

Floats = npt.NDArray[np.float64]

# The capital is spread over these bets evenly, so that nobody has to know which will be right.
_STRANGEST: Final = (0.01, 0.02, 0.05, 0.1, 0.2)  # of the reference
_SHARES: Final = (0.025, 0.05, 0.1, 0.2, 0.4)  # of the new kind
_STEPS: Final = 32  # of q: midpoints of so many equally likely parts


def limit(reference: Floats, strangest: float) -> tuple[float, int]:
    """The value beyond which that part of the reference lies, and how many gaps between values are beyond it.

    Args:
        reference: distinct values, shape (m,) of 1 or more; high ones are unusual.
    """
    gaps = max(1, round(strangest * (len(reference) + 1)))
    gaps = min(gaps, len(reference))
    return float(np.sort(reference)[len(reference) - gaps]), gaps


def log_evidence(reference: Floats, values: Floats) -> Floats:
    """The natural logarithm of the capital after each value, shape (n,).

    Args:
        reference: shape (m,). No two values of both may be equal: where they can be, break ties at random (``untied``).
        values: in the order in which they came, shape (n,).
    """
    return together([_of_limit(len(reference), gaps, values > least) for least, gaps in _limits(reference)])


def untied(values: Floats, ties: Floats) -> Floats:
    """Values of which no two are equal, in the same order; ``ties`` orders those that were.

    Args:
        ties: distinct numbers, shape (n,), that have nothing to do with the values.
    """
    ranks = np.empty(len(values))
    ranks[np.lexsort((ties, values))] = np.arange(len(values))
    return ranks


def together(logs: Sequence[Floats]) -> Floats:
    """The logarithm of the mean capital of several players, who may bet on the same queries. It is a martingale, too."""
    return np.asarray(logsumexp(logs, axis=0) - np.log(len(logs)))


def log_limit(false_alarms: float, window: int) -> float:
    """What the logarithm has to reach in a window, so that all windows together raise a false alarm with this chance at most.

    Window ``j`` has ``1 / (j (j + 1))`` of the chance; over all windows these add up to 1.

    Args:
        window: 1 for the first one after the reference.
    """
    return float(np.log(window * (window + 1) / false_alarms))


def _limits(reference: Floats) -> list[tuple[float, int]]:
    return [limit(reference, part) for part in _STRANGEST]


def _of_limit(size: int, gaps: int, beyond: npt.NDArray[np.bool_]) -> Floats:
    """The capital's logarithm by bets on one limit, shape (n,)."""
    rest = size + 1 - gaps
    seen = np.arange(1, len(beyond) + 1)
    high = np.cumsum(beyond)
    unchanged = betaln(gaps + high, rest + seen - high) - betaln(gaps, rest)
    share = beta.ppf((np.arange(_STEPS) + 0.5) / _STEPS, gaps, rest)
    new = np.array(_SHARES)[:, None]
    mixed = (new + (1 - new) * share).ravel()
    # Any mixture of shares is a fair bet, so the few steps cost power at most, and no validity.
    bets = np.outer(high, np.log(mixed)) + np.outer(seen - high, np.log1p(-mixed))
    return np.asarray(logsumexp(bets, axis=1) - np.log(len(mixed)) - unchanged)
