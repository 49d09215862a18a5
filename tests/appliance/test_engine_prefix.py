"""The prefix tree finds what a plain comparison of all pairs finds, however sequences come, grow and go."""

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from plugsky.engine.scheduling.prefix import PrefixTree, Resident, TokenBuffer

TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=12)
ROOTS = st.sampled_from("ab")


def common(left, right):
    return next((n for n, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


def inner_nodes(tree):
    """Where sequences part; each such node must hold something apart from its child."""
    left, ends = list(tree._roots.values()), []
    while left:
        node = left.pop()
        inner = [child for child in node.children.values() if not isinstance(child, Resident)]
        assert node.parent is None or len(node.children) + len(node.ending) > 1
        assert all(child.end > node.end and child.parent is node for child in inner)
        ends += [child.end for child in inner]
        left += inner
    return sorted(ends)


class Trees(RuleBasedStateMachine):
    """A tree beside a list of the same sequences."""

    def __init__(self):
        super().__init__()
        self.tree, self.residents = PrefixTree(), {}

    @rule(root=ROOTS, tokens=TOKENS)
    def come(self, root, tokens):
        resident = Resident(0, root, TokenBuffer(tokens, room=1))
        self.residents[resident] = list(tokens)
        self.tree.add(resident)

    @precondition(lambda self: self.residents)
    @rule(data=st.data(), token=st.integers(0, 2))
    def grow(self, data, token):
        resident = data.draw(st.sampled_from(list(self.residents)))
        resident.tokens.append(token)
        self.residents[resident].append(token)

    @precondition(lambda self: self.residents)
    @rule(data=st.data())
    def go(self, data):
        resident = data.draw(st.sampled_from(list(self.residents)))
        self.tree.remove(resident)
        del self.residents[resident]

    @rule(root=ROOTS, tokens=TOKENS)
    def ask(self, root, tokens):
        found = [(alike.resident, alike.length) for alike in self.tree.alike(root, np.array(tokens, dtype=np.int32))]
        expected = {
            resident: common(tokens, theirs)
            for resident, theirs in self.residents.items()
            if resident.root == root and common(tokens, theirs)
        }
        assert dict(found) == expected
        assert len(found) == len(expected), "each is found once"
        lengths = [length for _, length in found]
        assert lengths == sorted(lengths, reverse=True), "the longest first"

    @invariant()
    def sizes_agree(self):
        assert len(self.tree) == len(self.residents)

    @invariant()
    def every_node_holds_something_apart(self):
        inner_nodes(self.tree)

    def teardown(self):
        for resident in self.residents:
            self.tree.remove(resident)
        assert not self.tree._roots
        assert not self.tree._home


Trees.TestCase.settings = settings(stateful_step_count=40, deadline=None)
TestTrees = Trees.TestCase


def test_a_long_common_beginning_is_compared_to_the_last_token():
    tree = PrefixTree()
    tokens = list(range(50_000))
    tree.add(Resident(0, "a", TokenBuffer(tokens)))
    tokens[49_999] += 1
    (found,) = tree.alike("a", np.array(tokens, dtype=np.int32))
    assert found.length == 49_999


def test_a_sequence_that_ended_where_another_went_on_is_found_by_what_it_has_grown_since():
    tree, ended = PrefixTree(), Resident(0, "a", TokenBuffer([1, 2, 3]))
    tree.add(ended)
    tree.add(Resident(1, "a", TokenBuffer([1, 2, 3, 4, 5])))
    for token in (8, 9):
        ended.tokens.append(token)
    found = next(tree.alike("a", np.array([1, 2, 3, 8, 9, 7], dtype=np.int32)))
    assert (found.resident, found.length) == (ended, 5)


def test_sequences_part_at_the_first_token_that_differs():
    tree = PrefixTree()
    for number, tokens in enumerate(([1, 2, 3, 4, 5], [1, 2, 3, 6, 7], [1, 2, 3, 6, 8])):
        tree.add(Resident(number, "a", TokenBuffer(tokens)))
    assert inner_nodes(tree) == [3, 4]
    found = tree.alike("a", np.array([1, 2, 3, 6, 9], dtype=np.int32))
    assert [(alike.resident.seq, alike.length) for alike in found] == [(1, 4), (2, 4), (0, 3)]


def test_a_node_that_all_have_grown_past_the_same_way_is_dissolved():
    tree = PrefixTree()
    shortest, short, long = (Resident(n, "a", TokenBuffer([1] * n)) for n in (1, 2, 4))
    for resident in (shortest, short, long):
        tree.add(resident)
    assert inner_nodes(tree) == [1, 2]
    for resident, token in ((shortest, 1), (shortest, 1), (shortest, 5), (short, 1), (short, 6)):
        resident.tokens.append(token)
    found = tree.alike("a", np.array([1, 1, 1, 1], dtype=np.int32))
    assert [(alike.resident.seq, alike.length) for alike in found] == [(4, 4), (1, 3), (2, 3)]
    assert inner_nodes(tree) == [3]


def test_slices_of_a_buffer_stay_valid_when_it_grows():
    buffer = TokenBuffer([1, 2, 3], room=0)
    slice_ = buffer.view(0, 3)
    for token in range(100):
        buffer.append(token)
    assert list(slice_) == [1, 2, 3]
    assert buffer.last() == 99
