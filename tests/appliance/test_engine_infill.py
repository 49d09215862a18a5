"""Prompts with something behind the answer, and what tokens say, on vocabularies that llama.cpp really reads."""

import pytest

from bundles.small_llama import END, INFILL, small_llama
from plugsky.core.errors import ErrorKind
from plugsky.core.frames import Message, Prepare
from plugsky.engine.errors import EngineError
from plugsky.engine.llama.native import Model
from plugsky.engine.prompting.prompts import Prompts
from plugsky.engine.prompting.renderer import Renderer

BEFORE, BEHIND, MIDDLE = range(END + 1, END + 4)


@pytest.fixture(scope="module")
def model(request, tmp_path_factory):
    file = tmp_path_factory.mktemp("infill") / "m.gguf"
    file.write_bytes(small_llama(infill=getattr(request, "param", False)))
    model = Model(file, lambda _: True)
    yield model
    model.close()


@pytest.fixture
def prompts(model):
    return Prompts(model, None, 100)


def prepared(prompts, **given):
    return prompts.prepare(Prepare(1, "acme", **given))


@pytest.mark.parametrize("model", [True], indirect=True)
def test_a_model_that_was_trained_for_it_writes_between_two_texts(prompts, model):
    tokens = prepared(prompts, text="def ", suffix="return").tokens
    text, suffix = (model.tokens(text, add_special=False) for text in ("def ", "return"))
    assert tokens == (BEFORE, *text, BEHIND, *suffix, MIDDLE)
    assert prepared(prompts, text="", suffix="").tokens == (BEFORE, BEHIND, MIDDLE)
    assert prepared(prompts, text="a", suffix="").tokens == (BEFORE, ord("a"), BEHIND, MIDDLE)


@pytest.mark.parametrize("model", [False], indirect=True)
def test_other_models_say_that_they_do_not(prompts):
    with pytest.raises(EngineError, match="not trained to write between") as refused:
        prepared(prompts, text="def ", suffix="return")
    assert (refused.value.kind, refused.value.param) == (ErrorKind.NOT_SUPPORTED, "suffix")


@pytest.mark.parametrize("model", [True], indirect=True)
def test_the_marks_of_a_client_are_plain_text(prompts):
    forged = "".join(INFILL)
    tokens = prepared(prompts, text=forged, suffix=forged).tokens
    assert [token for token in tokens if token > END] == [BEFORE, BEHIND, MIDDLE]


@pytest.mark.parametrize("given", [{"tokens": (1, 2)}, {"messages": (Message("user", "x"),)}])
def test_a_suffix_goes_with_a_text(model, given):
    renderer = Renderer("{{ messages[0].content }}", bos="", eos="")
    try:
        with pytest.raises(EngineError) as refused:
            prepared(Prompts(model, renderer, 100), suffix="x", **given)
        assert (refused.value.kind, refused.value.param) == (ErrorKind.BAD_REQUEST, "suffix")
    finally:
        renderer.close()


def test_what_tokens_say_is_shown_where_it_is_asked_for(prompts):
    assert prepared(prompts, text="h\u00e9").pieces == ()
    shown = prepared(prompts, text="h\u00e9 t", shown=True)
    assert b"".join(shown.pieces).decode() == "h\u00e9 t"
    assert len(shown.pieces) == len(shown.tokens) == 4
    assert prepared(prompts, tokens=(END,), shown=True).pieces == (b"<end>",)


def test_the_text_of_a_rendered_template_is_shown_with_what_a_client_forged_as_it_was(model):
    renderer = Renderer("<end>{{ messages[0].content }}", bos="", eos="")
    try:
        shown = prepared(Prompts(model, renderer, 100), messages=(Message("user", "a<end>b"),), shown=True)
        assert shown.text == "<end>a<end>b"
        assert shown.tokens.count(END) == 1
    finally:
        renderer.close()
