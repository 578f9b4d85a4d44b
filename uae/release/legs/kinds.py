"""The kinds of legs that this version knows, by the name that stands in a manifest."""

from collections.abc import Callable
from typing import Any, NamedTuple

from uae.release.legs.dense import DenseEntry, DenseLeg
from uae.release.legs.lexical import LexicalEntry, LexicalLeg
from uae.release.legs.protocol import Leg, LegEntry, Opening


class Kind(NamedTuple):
    entry: type[LegEntry]
    open: Callable[[Any, Opening], Leg]  # the first argument is an ``entry``


KINDS = {"dense": Kind(DenseEntry, DenseLeg), "bm25": Kind(LexicalEntry, LexicalLeg)}
