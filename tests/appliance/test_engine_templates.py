"""Chat templates: rendered as Hugging Face renders them, in a sandbox, in a child that is killed when it overstays."""

import pytest

from plugsky.core.errors import ErrorKind
from plugsky.engine.errors import EngineError
from plugsky.engine.prompting import templates
from plugsky.engine.prompting.renderer import Renderer
from plugsky.engine.prompting.templates import Render, Setup, TemplateRefusedError, compile_template, render

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
    "blocks that mark an answer": ("{% generation %}a{% endgeneration %}b", "ab"),
    "namespaces": (
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
        "1",
    ),
    "macros": ("{% macro f(x) %}[{{ x }}]{% endmacro %}{{ f(messages | length) }}", "[1]"),
    "tojson of what a filter gives": ("{{ messages | map(attribute='role') | tojson }}", '["user"]'),
    "tojson as Hugging Face has it": ("{{ {'b': 1, 'a': 'é'} | tojson(sort_keys=true) }}", '{"a": "é", "b": 1}'),
    "pairs of a mapping": ("{% for k, v in messages[0] | items %}{{ k }} {% endfor %}", "role content "),
    "methods of texts": ("{{ 'a<think>b'.split('<think>')[-1].lstrip('b') }}", ""),
    "a variable that is not there": ("{% if tools is defined and tools %}x{% endif %}", ""),
    "nothing is escaped": ("{{ '<&>' }}", "<&>"),
}


@pytest.mark.parametrize(("source", "text"), RENDERED.values(), ids=RENDERED.keys())
def test_a_template_renders(source, text):
    assert rendered(source) == text


def test_what_a_request_brings_reaches_the_template():
    source = "{% for tool in tools %}{{ tool.function.name }}{% endfor %}{{ enable_thinking }}"
    assert rendered(source, tools=[{"function": {"name": "f"}}], enable_thinking=False) == "fFalse"


def test_no_variable_takes_the_place_of_the_messages():
    assert rendered("{{ messages[0].content }}", messages=HELLO, add_generation_prompt=False) == HELLO[0]["content"]


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


STUCK = "{% if messages[0].content == 'loop' %}{% set n = messages | length + 8 %}{{ n ** (n ** n) % 7 }}{% endif %}ok"


@pytest.mark.integration
@pytest.mark.parametrize("renderer", [STUCK], indirect=True)
def test_a_template_that_never_comes_back_from_one_operation_is_killed_too(renderer):
    with pytest.raises(EngineError) as refusal:
        renderer.render(said("loop"))
    assert refusal.value.kind is ErrorKind.TIMEOUT
    assert renderer.render(HELLO) == "ok"


@pytest.mark.integration
@pytest.mark.parametrize("renderer", ["{{ 9 ** (9 ** 9) % 7 }}"], indirect=True)
def test_a_template_that_cannot_be_compiled_in_its_time_is_said_to_take_too_long(renderer):
    with pytest.raises(EngineError, match="took longer than 1 seconds") as refusal:
        renderer.start()
    assert refusal.value.kind is ErrorKind.TIMEOUT


FLOOD = "{% if messages[0].content == 'flood' %}{% for n in range(99999) %}{{ 'x' * 9999 }}{% endfor %}{% endif %}ok"


@pytest.mark.integration
@pytest.mark.parametrize("renderer", [FLOOD], indirect=True)
def test_a_template_that_writes_without_end_is_refused_and_the_next_request_is_served(renderer):
    with pytest.raises(EngineError, match="longer than") as refusal:
        renderer.render(said("flood"))
    assert refusal.value.kind is ErrorKind.BAD_REQUEST
    assert renderer.render(HELLO) == "ok"


HOARD = (
    "{% if messages[0].content == 'boom' %}{% set ns = namespace(all=[]) %}{% for n in range(99999) %}"
    "{% set ns.all = ns.all + ['x' * 100000] %}{% endfor %}{% endif %}ok"
)


@pytest.mark.integration
@pytest.mark.parametrize("renderer", [HOARD], indirect=True)
def test_a_template_that_hoards_memory_bit_by_bit_harms_only_itself(renderer):
    with pytest.raises(EngineError) as refusal:
        renderer.render(said("boom"))
    assert refusal.value.param == "messages"
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
