"""GBNF as llama.cpp reads it: what is accepted here is accepted there, and admits the same tokens one by one.

llama.cpp ends the process where a grammar breaks it, so its side runs in a child; it answers for each grammar the
tokens that a text may go on with.
"""

import json
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plugsky.engine.errors import EngineError
from plugsky.engine.grammars import gbnf
from plugsky.engine.grammars.matcher import Matcher

pytestmark = pytest.mark.integration

_PEER = """
import ctypes, json, sys
import llama_cpp
from pathlib import Path
from plugsky.engine.llama import native
native.load_kernels()
llama_cpp.llama_backend_init()
params = llama_cpp.llama_model_default_params()
params.vocab_only = True
model = llama_cpp.llama_model_load_from_file(sys.argv[1].encode(), params)
vocab = llama_cpp.llama_model_get_vocab(model)
def tokens(text):
    buffer = (llama_cpp.llama_token * 64)()
    count = llama_cpp.llama_tokenize(vocab, text.encode(), len(text.encode()), buffer, 64, False, False)
    return list(buffer[:count])
def piece(token):
    buffer = ctypes.create_string_buffer(256)
    count = llama_cpp.llama_token_to_piece(vocab, token, buffer, 256, 0, False)
    return buffer.raw[:count]
end = llama_cpp.llama_vocab_eos(vocab)
for line in sys.stdin:
    text, probes, length = json.loads(line)
    sampler = llama_cpp.llama_sampler_init_grammar(vocab, text.encode(), b"root")
    said = None
    if sampler:
        said = []
        ids = [end] + [token for probe in probes for token in tokens(probe)[:1]]
        for _ in range(length):
            rows = (llama_cpp.llama_token_data * len(ids))(*((token, 1.0, 0.0) for token in ids))
            array = llama_cpp.llama_token_data_array(data=rows, size=len(ids), selected=-1, sorted=False)
            llama_cpp.llama_sampler_apply(sampler, ctypes.byref(array))
            right = [row.logit != float("-inf") for row in rows]
            following = next((at for at in range(1, len(ids)) if right[at]), None)
            chosen = None if following is None else piece(ids[following]).hex()
            said.append([right, [piece(token).hex() for token in ids[1:]], chosen])
            if following is None:
                break
            llama_cpp.llama_sampler_accept(sampler, ids[following])
            ids[1:] = ids[2:] + ids[1:2]
        llama_cpp.llama_sampler_free(sampler)
    print(json.dumps(said), flush=True)
"""


class Peer:
    """llama.cpp's grammars in a child process."""

    def __init__(self, model):
        self.child = subprocess.Popen(
            [sys.executable, "-c", _PEER, str(model)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def asked(self, *question):
        self.child.stdin.write(json.dumps(question) + "\n")
        self.child.stdin.flush()
        line = self.child.stdout.readline()
        assert line, "llama.cpp ended the process"
        return json.loads(line)

    def close(self):
        self.child.stdin.close()
        self.child.wait(20)
        self.child.stdout.close()


@pytest.fixture(scope="module")
def peer(chat_model):
    running = Peer(chat_model)
    yield running
    running.close()


CLASSES = st.sampled_from(["[ab]", "[^a]", "[a-c]", "[é-世]", "."])
LITERALS = st.text(alphabet='abcé世 "\\', max_size=3).map(
    lambda text: '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
)
SIGNS = st.sampled_from(["", "", "", "*", "+", "?", "{2}", "{1,3}", "{0,2}", "{2,}"])
NAMES = st.sampled_from(["root", "one", "two"])
BODIES = st.recursive(
    st.one_of(CLASSES, LITERALS, LITERALS, NAMES),
    lambda parts: st.one_of(
        st.tuples(parts, SIGNS).map("".join),
        st.lists(parts, min_size=1, max_size=3).map(" ".join),
        st.lists(parts, min_size=1, max_size=3).map(lambda some: "(" + " | ".join(some) + ")"),
    ),
    max_leaves=12,
)
PROBES = ["a", "b", "ab", "abc", "aa", "é", "世", " ", " a", '"', "\\", "c", "bc", "世界", "ca", "👋", "\n"]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(BODIES, BODIES, BODIES)
def test_what_is_accepted_here_admits_the_same_tokens_in_llama_cpp(peer, root, one, two):
    text = f"root ::= {root}\none ::= {one}\ntwo ::= {two}\n"
    try:
        place = Matcher(gbnf.read(text))
    except EngineError:
        return
    steps = peer.asked(text, PROBES, 6)
    assert steps is not None, "llama.cpp refuses it"
    for right, pieces, chosen in steps:
        assert [place.complete, *(place.admits(bytes.fromhex(piece)) for piece in pieces)] == right
        if chosen is not None:
            assert place.accept(bytes.fromhex(chosen))
