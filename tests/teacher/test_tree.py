"""Token trees: what is shared, who is whose ancestor, and how sequences are divided."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uae.teacher.engines.tree import Prompted, build_tree, divide, shared_prefix


def prompted(*tokens: int, start: int, pair: int = 0) -> Prompted:
    return Prompted(tokens, start, False, pair)


sequences = st.lists(
    st.lists(st.integers(1, 3), min_size=2, max_size=9).flatmap(
        lambda tokens: st.builds(Prompted, st.just(tuple(tokens)), st.integers(1, len(tokens) - 1), st.just(False), st.just(0))
    ),
    min_size=1,
    max_size=8,
).map(lambda found: [s._replace(pair=number) for number, s in enumerate(found)])


def ancestors(tree) -> list[set[int]]:
    """Of each node, itself included, from the trunk and the branches' masks."""
    seen = [set(range(min(node, tree.trunk - 1) + 1)) for node in range(len(tree.tokens))]
    for branch in tree.branches:
        for row, node in enumerate(range(branch.start, branch.stop)):
            seen[node] |= {branch.start + int(column) for column in np.flatnonzero(branch.sees[row])}
    return seen


@given(sequences, st.integers(1, 12))
def test_every_prompt_is_read_along_its_own_ancestors(found, branch_nodes):
    """What a node attends to is exactly its sequence up to it, in order, at the positions it would have alone."""
    tree = build_tree(found, branch_nodes)
    seen = ancestors(tree)
    for sequence, reads in zip(tree.sequences, tree.reads, strict=True):
        assert len(reads) == len(sequence.tokens) - sequence.start
        for offset, node in enumerate(reads):
            path = sorted(seen[node])
            assert tree.tokens[path].tolist() == list(sequence.tokens[: sequence.start + offset])
            assert tree.positions[path].tolist() == list(range(len(path)))


@given(sequences, st.integers(1, 12))
def test_nothing_shared_is_read_twice(found, branch_nodes):
    tree = build_tree(found, branch_nodes)
    prefixes = {s.tokens[:length] for s in found for length in range(1, len(s.tokens))}
    assert len(tree.tokens) == len(prefixes)
    covered = [node for branch in tree.branches for node in range(branch.start, branch.stop)]
    assert covered == list(range(tree.trunk, len(tree.tokens)))


def test_trunk_branches_and_reads_of_a_small_tree():
    tree = build_tree([prompted(1, 2, 5, 9, start=3), prompted(1, 2, 3, 8, 7, start=3, pair=1)], branch_nodes=1)
    assert tree.tokens.tolist() == [1, 2, 3, 8, 5]
    assert tree.positions.tolist() == [0, 1, 2, 3, 2]
    assert tree.trunk == 2
    assert [(branch.start, branch.stop) for branch in tree.branches] == [(2, 4), (4, 5)]
    assert [reads.tolist() for reads in tree.reads] == [[2, 3], [4]]


def test_branches_are_gathered_up_to_the_limit():
    found = [prompted(1, n, n, 9, start=3, pair=n) for n in range(2, 8)]
    assert [b.stop - b.start for b in build_tree(found, branch_nodes=4).branches] == [4, 4, 4]
    assert [b.stop - b.start for b in build_tree(found, branch_nodes=100).branches] == [12]


def test_one_sequence_is_all_trunk():
    tree = build_tree([prompted(4, 5, 6, start=1)], branch_nodes=8)
    assert (tree.trunk, tree.branches) == (2, ())


def test_several_answers_share_the_whole_prompt():
    tree = build_tree([prompted(1, 2, 3, start=2), prompted(1, 2, 4, start=2, pair=1)], branch_nodes=8)
    assert tree.tokens.tolist() == [1, 2]
    assert [reads.tolist() for reads in tree.reads] == [[1], [1]]


@given(sequences, st.integers(1, 20), st.integers(1, 12))
def test_division_keeps_every_sequence_once_and_the_limits(found, nodes, reads):
    parts = list(divide(found, nodes, reads))
    assert sorted(s.pair for part in parts for s in part) == list(range(len(found)))
    for part in parts:
        tree = build_tree(part, 8)
        assert len(part) == 1 or (len(tree.tokens) <= nodes and sum(map(len, tree.reads)) <= reads)


@pytest.mark.parametrize(
    ("second", "expected"), [((1, 2, 3), 3), ((1, 2), 2), ((1, 5, 3), 1), ((7,), 0), ((), 0), ((1, 2, 3, 4), 3)]
)
def test_shared_prefix(second, expected):
    assert shared_prefix((1, 2, 3), second) == expected
