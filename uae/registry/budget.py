"""The error budget of one test set that is looked at week after week: what one look may spend.

Ten looks at a level of 5 % each take an equal candidate for a better one in up to 40 % of all cases. So the looks share one
budget (alpha spending, as in group-sequential trials): look k may spend ``budget * 6 / (pi^2 * k^2)``. The series of 1/k^2 sums
to pi^2/6, so all looks together never spend more than the budget. Nothing is given back after a gain.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple


class Look(NamedTuple):
    number: int  # 1 is the first at this test set
    level: float  # what it may spend
    budget: float  # of all looks together
    units: int  # documents (or questions) of the test set


def next_look(budget: float, units: int, earlier: Iterable[int]) -> Look:
    """The look that comes now.

    A look counts as long as the test set has not doubled since. Then at most half of what is looked at today was looked at then.

    Args:
        units: documents of the test set today.
        earlier: documents of the test set at each earlier look.
    """
    number = 1 + sum(2 * then > units for then in earlier)
    return Look(number, budget * 6 / (math.pi * number) ** 2, budget, units)
