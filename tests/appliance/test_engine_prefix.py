"""The prefix tree finds what a plain comparison of all pairs finds, however sequences come, grow and go."""

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from plugsky.engine.prefix import PrefixTree, Resident, TokenBuffer

TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=12)
ROOTS = st.sampled_from("ab")


def common(left, right):
    return next((n for n, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


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


def test_slices_of_a_buffer_stay_valid_when_it_grows():
    buffer = TokenBuffer([1, 2, 3], room=0)
    slice_ = buffer.view(0, 3)
    for token in range(100):
        buffer.append(token)
    assert list(slice_) == [1, 2, 3]
    assert buffer.last() == 99
