"""Chat templates: rendered as Hugging Face renders them, in a sandbox, in a child that is killed when it overstays."""

import pytest

from plugsky.core.errors import ErrorKind
from plugsky.engine import templates
from plugsky.engine.errors import EngineError
from plugsky.engine.renderer import Renderer
from plugsky.engine.templates import Render, Setup, TemplateRefusedError, compile_template, render

CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>'"
    " + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def said(content):
    """A conversation of one message."""
    return ({"role": "user", "content": content},)


HELLO = said("Grüße, 世界")


def rendered(source: str, messages=HELLO, **variables) -> str:
    return render(compile_template(source), Setup(source, "<s>", "</s>", 5.0), Render(messages, variables))


RENDERED = {
    "ChatML": (CHATML, "<|im_start|>user\nGrüße, 世界<|im_end|>\n<|im_start|>assistant\n"),
    "special tokens": ("{{ bos_token }}x{{ eos_token }}", "<s>x</s>"),
    "attributes of messages": ("{{ messages[0].content }}", "Grüße, 世界"),
    "lines are trimmed": ("  {% if true %}\na\n  {% endif %}\nb", "a\nb"),
    "tojson keeps characters": ("{{ messages[0].content | tojson }}", '"Grüße, 世界"'),
    "loop controls": ("{% for n in range(9) %}{% if n == 2 %}{% break %}{% endif %}{{ n }}{% endfor %}", "01"),
    "nothing is escaped": ("{{ '<&>' }}", "<&>"),
}


@pytest.mark.parametrize(("source", "text"), RENDERED.values(), ids=RENDERED.keys())
def test_a_template_renders(source, text):
    assert rendered(source) == text


def test_today_can_be_asked_for():
    assert rendered("{{ strftime_now('%Y') }}").isdigit()


REFUSED = {
    "it says so itself": ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
    "it reaches for Python's insides": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
    "it changes what it was given": ("{{ messages.append(1) }}", "append"),
    "it counts without end": ("{% for n in range(999999999) %}{% endfor %}", "OverflowError"),
    "it divides by zero": ("{{ 1 // 0 + messages | length }}", "ZeroDivisionError"),
    "it uses what is not there": ("{{ messages[7].content.x }}", "has no"),
    "it calls itself": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
}


@pytest.mark.parametrize(("source", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_a_template_that_misbehaves_is_refused(source, reason):
    with pytest.raises(TemplateRefusedError, match=reason):
        rendered(source)


def test_a_prompt_without_end_is_cut_off(monkeypatch):
    monkeypatch.setattr(templates, "MAX_TEXT", 1000)
    with pytest.raises(TemplateRefusedError, match="1000 characters"):
        rendered("{% for n in range(1000) %}{{ 'xx' }}{% endfor %}")


@pytest.fixture
def renderer(request):
    made = Renderer(request.param, bos="<s>", eos="</s>", timeout_s=1.0)
    yield made
    made.close()


@pytest.mark.integration
@pytest.mark.parametrize("renderer", [CHATML], indirect=True)
def test_the_child_renders_again_and_again(renderer):
    for turn in range(3):
        assert renderer.render(said(f"turn {turn}")).endswith(f"turn {turn}<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.integration
@pytest.mark.parametrize("renderer", [CHATML], indirect=True)
def test_a_conversation_longer_than_a_pipe_gets_through(renderer):
    assert len(renderer.render(said("x" * 3_000_000))) > 3_000_000


LOOP = (
    "{% if messages[0].content == 'loop' %}{% for a in range(99999) %}{% for b in range(99999) %}"
    "{% endfor %}{% endfor %}{% endif %}ok"
)


@pytest.mark.integration
@pytest.mark.parametrize("renderer", [LOOP], indirect=True)
def test_a_template_that_loops_is_killed_and_the_next_request_is_served(renderer):
    assert renderer.render(HELLO) == "ok"
    with pytest.raises(EngineError) as refusal:
        renderer.render(said("loop"))
    assert refusal.value.kind is ErrorKind.TIMEOUT
    assert renderer.render(HELLO) == "ok"


BOMB = "{% if messages[0].content == 'boom' %}{{ messages[0].content * 999999999 }}{% endif %}ok"


@pytest.mark.integration
@pytest.mark.parametrize("renderer", [BOMB], indirect=True)
def test_a_template_that_eats_memory_harms_only_itself(renderer):
    with pytest.raises(EngineError) as refusal:
        renderer.render(said("boom"))
    assert "MemoryError" in refusal.value.what
    assert renderer.render(HELLO) == "ok"


@pytest.mark.integration
@pytest.mark.parametrize("renderer", ["{% for %}"], indirect=True)
def test_a_template_that_is_none_is_named(renderer):
    with pytest.raises(EngineError, match="cannot be compiled") as refusal:
        renderer.render(HELLO)
    assert refusal.value.param == "messages"


@pytest.mark.integration
@pytest.mark.parametrize("renderer", ["{{ raise_exception('only\\x1b[2J users') }}"], indirect=True)
def test_a_templates_own_words_reach_the_client_without_control_characters(renderer):
    with pytest.raises(EngineError, match=r"only\[2J users"):
        renderer.render(HELLO)
