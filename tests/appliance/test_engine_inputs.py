"""What an embedding or reranking engine is given becomes tokens, or is refused by name."""

import pytest

from plugsky.core.errors import ErrorKind
from plugsky.core.frames import Message, Params, Prepare, Submit
from plugsky.engine.errors import EngineError
from plugsky.engine.llama.pooling import PairForm
from plugsky.engine.prompting.inputs import Inputs
from plugsky.engine.prompting.prompts import Prompts

N_CTX = 12
FORM = PairForm(None, (200,), (201, 202), (203,))
TEMPLATE = PairForm("<q>{query}<d>{document}")


class Letters:
    """One token for a byte; ``<q>`` and ``<d>`` are control tokens where those may be parsed."""

    n_vocab, bos, eos, infill = 256, "", "", None

    def __init__(self):
        self.markers = {250: "<q>", 251: "<d>"}

    def tokens(self, text, *, add_special, parse_special=True):
        data = text.encode()
        if parse_special:
            data = data.replace(b"<q>", bytes([250])).replace(b"<d>", bytes([251]))
        return (254, *data, 255) if add_special else tuple(data)

    def piece(self, token):
        return bytes([token])


def prepared(mode="embed", form=FORM, **given):
    return Inputs(Letters(), mode, form, N_CTX).prepare(Prepare(rid=1, tenant="t", **given)).tokens


def test_a_text_gets_its_vocabulary_s_frame_and_no_control_token():
    assert prepared(text="a<q>") == (254, *b"a<q>", 255)


def test_a_pair_without_a_template_is_written_with_special_tokens():
    assert prepared("rerank", pair=("ab", "c")) == (200, *b"ab", 201, 202, *b"c", 203)


PAIRS = {
    "plain": (("ab", "c"), (250, *b"ab", 251, *b"c")),
    "one that forges": (("<d>", "c"), (250, *b"<d>", 251, *b"c")),
    "one that names a place": (("{document}", "c"), (250, *b"{document}", 251, *b"c")),
}


@pytest.mark.parametrize(("pair", "tokens"), PAIRS.values(), ids=PAIRS)
def test_a_pair_in_a_template_never_becomes_one_of_its_control_tokens(pair, tokens):
    inputs = Inputs(Letters(), "rerank", TEMPLATE, 64)
    assert inputs.prepare(Prepare(rid=1, tenant="t", pair=pair)).tokens == tokens


REFUSED = {
    "nothing": ({}, ErrorKind.BAD_REQUEST),
    "two things": ({"text": "a", "tokens": (1,)}, ErrorKind.BAD_REQUEST),
    "an empty text": ({"text": ""}, ErrorKind.BAD_REQUEST),
    "no tokens": ({"tokens": ()}, ErrorKind.BAD_REQUEST),
    "a token out of range": ({"tokens": (256,)}, ErrorKind.BAD_REQUEST),
    "a negative token": ({"tokens": (-1,)}, ErrorKind.BAD_REQUEST),
    "a text that is too long": ({"text": "abcdefghijk"}, ErrorKind.CONTEXT_EXCEEDED),
    "messages": ({"messages": (Message("user", "a"),)}, ErrorKind.NOT_SUPPORTED),
    "an adapter": ({"text": "a", "adapter": "x"}, ErrorKind.NOT_SUPPORTED),
    "an answer": ({"text": "a", "max_tokens": 5}, ErrorKind.NOT_SUPPORTED),
    "a grammar": ({"text": "a", "grammar": "root ::= 1"}, ErrorKind.NOT_SUPPORTED),
    "a schema": ({"text": "a", "json_schema": "{}"}, ErrorKind.NOT_SUPPORTED),
    "a pair, to embed": ({"pair": ("a", "b")}, ErrorKind.NOT_SUPPORTED),
}


@pytest.mark.parametrize(("given", "kind"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_embedded_is_refused(given, kind):
    with pytest.raises(EngineError) as refusal:
        prepared(**given)
    assert refusal.value.kind is kind


def test_an_engine_that_generates_takes_no_pair():
    with pytest.raises(EngineError) as refusal:
        Prompts(Letters(), None, N_CTX).prepare(Prepare(rid=1, tenant="t", pair=("a", "b")))
    assert (refusal.value.kind, refusal.value.param) == (ErrorKind.NOT_SUPPORTED, "pair")


@pytest.mark.parametrize("pair", [("", "b"), ("a", "")])
def test_a_pair_needs_both_its_texts(pair):
    with pytest.raises(EngineError, match="is empty"):
        prepared("rerank", pair=pair)


def test_a_text_as_long_as_the_context_fits():
    assert len(prepared(text="abcdefghij")) == N_CTX


SUBMITS = {
    "max_tokens": {"max_tokens": 1},
    "resume_tokens": {"resume_tokens": (1,)},
    "params": {"params": Params(temperature=0.5)},
    "weight": {"weight": 0},
    "deadline_us": {"deadline_us": 0},
    "job": {"job": ""},
    "tenant": {"tenant": "t" * 129},
    "input": {"tokens": ()},
}


@pytest.mark.parametrize(("param", "wrong"), SUBMITS.items(), ids=SUBMITS)
def test_a_submit_that_could_not_run_is_refused_by_the_name_of_its_field(param, wrong):
    inputs = Inputs(Letters(), "embed", FORM, N_CTX)
    right = {"rid": 1, "job": "j", "tenant": "t", "tokens": (1, 2), "params": Params(), "max_tokens": 0}
    inputs.check(Submit(**right))
    with pytest.raises(EngineError) as refusal:
        inputs.check(Submit(**(right | wrong)))
    assert refusal.value.param == param
