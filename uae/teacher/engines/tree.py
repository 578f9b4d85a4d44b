"""Token trees: what several prompts share at their beginning goes through the model once.

The prompts of one passage begin alike: the passage, often the first words of the question, and with several answers the whole
prompt. A tree holds them in depth-first order. Each token attends to its ancestors only, and its position counts from the root.
So the model computes for every token what it would compute in the prompt alone.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Prompted(NamedTuple):
    """A prompt and its answer as tokens."""

    tokens: tuple[int, ...]
    start: int  # of the answer, at least 1
    truncated: bool
    pair: int  # its number in the caller's list


class Branch(NamedTuple):
    """Neighbouring nodes ``start .. stop - 1`` that attend to the trunk and among themselves, as ``sees`` says."""

    start: int
    stop: int
    sees: np.ndarray  # bool, (stop - start, stop - start)


@dataclass(frozen=True)
class Tree:
    """Sequences as ``n`` nodes in depth-first order. A sequence's last token is only predicted, never read: it is no node."""

    sequences: tuple[Prompted, ...]
    tokens: np.ndarray  # (n,)
    positions: np.ndarray  # (n,) distance from the root: what position embeddings get
    trunk: int  # the first ``trunk`` nodes are a chain, ancestors of all others
    branches: tuple[Branch, ...]
    reads: tuple[np.ndarray, ...]  # of each sequence, the nodes whose logits predict its answer's tokens


def shared_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """How many leading tokens are equal."""
    limit = min(len(first), len(second))
    if first[:limit] == second[:limit]:
        return limit
    return bisect_left(range(1, limit + 1), True, key=lambda length: first[:length] != second[:length])


def build_tree(sequences: Sequence[Prompted], branch_nodes: int) -> Tree:
    """The tree of ``sequences``, its branches gathered until they have ``branch_nodes`` nodes (a larger one stands alone).

    Attention's cost grows with the square of a branch's length, the number of calls falls with it.
    """
    sequences = tuple(sorted(sequences))
    bodies = [sequence.tokens[:-1] for sequence in sequences]
    # All share what the first and the last share, for they are sorted. A trunk of one sequence is the whole of it.
    trunk = shared_prefix(bodies[0], bodies[-1])
    tokens: list[int] = list(bodies[0][:trunk])
    positions = list(range(trunk))
    path = list(range(trunk))  # nodes from the root to the present one
    end = [0] * trunk  # of each node, one past its last descendant
    reads = []
    twigs = [trunk]  # where the trunk's children begin
    previous = bodies[0][:trunk]
    for sequence, body in zip(sequences, bodies, strict=True):
        shared = shared_prefix(previous, body)
        for node in path[shared:]:
            end[node] = len(tokens)
        if shared == trunk and len(body) > trunk and len(tokens) > twigs[-1]:
            twigs.append(len(tokens))
        fresh = range(len(tokens), len(tokens) + len(body) - shared)
        path[shared:] = fresh
        tokens += body[shared:]
        positions += range(shared, len(body))
        end += [0] * len(fresh)
        reads.append(np.array(path[sequence.start - 1 :]))
        previous = body
    for node in path:
        end[node] = len(tokens)
    twigs.append(len(tokens))
    branches = tuple(_branches(twigs, np.array(end), branch_nodes))
    return Tree(sequences, np.array(tokens), np.array(positions), trunk, branches, tuple(reads))


def _branches(twigs: list[int], end: np.ndarray, limit: int) -> Iterator[Branch]:
    start = twigs[0]
    for stop, following in zip(twigs[1:], [*twigs[2:], None], strict=True):
        if stop > start and (following is None or following - start > limit):
            node = np.arange(start, stop)
            yield Branch(start, stop, (node <= node[:, None]) & (node[:, None] < end[start:stop]))
            start = stop


def divide(sequences: Sequence[Prompted], nodes: int, reads: int) -> Iterator[list[Prompted]]:
    """Divide a passage's sequences among trees of at most so many nodes and answer tokens (one sequence at least)."""
    group: list[Prompted] = []
    size = answers = 0
    for sequence in sorted(sequences):
        shared = shared_prefix(group[-1].tokens, sequence.tokens) if group else 0
        answer = len(sequence.tokens) - sequence.start
        if group and (size + len(sequence.tokens) - shared > nodes or answers + answer > reads):
            yield group
            group, size, answers, shared = [], 0, 0, 0
        group.append(sequence)
        size += len(sequence.tokens) - shared
        answers += answer
    yield group
