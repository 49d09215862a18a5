"""Chat templates: what published models use passes, what reaches for more is refused before it travels."""

import pytest

from plugsky.models.templates import MAX_TEMPLATE, check
from plugsky_bundles.errors import GgufError

GOOD = {
    "a plain chat": (
        "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ 'You are' }}{% endif %}"
        "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] }}{% endfor %}"
    ),
    "a namespace, a macro that calls itself, and tools": (
        "{% set ns = namespace(found=false) %}{% macro show(x) %}{% if x is mapping %}{{ show(x['items']) }}"
        "{% endif %}{% endmacro %}{% for tool in tools %}{% set ns.found = true %}{{ tool | tojson }}{% endfor %}"
    ),
    "loop controls, slices, ranges and methods": (
        "{% for i in range(messages | length - 1, -1, -1) %}{% if i > 3 %}{% break %}{% endif %}"
        "{{ messages[i]['content'].split('</think>')[-1].strip() }}{% endfor %}"
        "{{ messages[1:] | map(attribute='role') }}"
    ),
    "filters that read attributes, and text with underscores": (
        "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | join('_') }}"
        "{{ tools | map('tojson') | join('\n') }}{{ name | replace('_', ' ') }}{{ '__start__' }}"
        "{% for i in range(0, 10000) %}{% endfor %}{{ messages | map(attribute=0) | select('string') | list }}"
    ),
    "variables of its own that begin with an underscore": (
        "{% set _args = tool.arguments %}{% for key, _ in _args | items %}{{ key }}{% endfor %}"
    ),
    "a refusal and the date": "{{ raise_exception('no') }}{{ strftime_now('%d %B %Y') }}",
}
BAD = {
    "a class of a string": ("{{ ''.__class__ }}", "__class__"),
    "a class by item": ("{{ messages['__class__'] }}", "__class__"),
    "a private attribute": ("{{ messages._secret }}", "_secret"),
    "an attribute through a filter": ("{{ messages | map(attribute='__class__') }}", "__class__"),
    "a nested attribute through a filter": ("{{ messages | map(attribute='x.__class__') }}", "__class__"),
    "a private name": ("{{ _x }}", "'_x'"),
    "a private name that is set": ("{% set __x = 1 %}", "'__x'"),
    "an attribute without its name": ("{{ messages | selectattr('__class__') }}", "__class__"),
    "an attribute to sort by": ("{{ messages | sort(false, false, '_x.y') }}", "_x.y"),
    "an attribute in a later place": ("{{ messages | join(',', 'a._b') }}", "a._b"),
    "an attribute that is computed": ("{{ messages | map(attribute='_' ~ '_class__') }}", "computes an attribute"),
    "a refused filter by the hand of map": ("{{ messages | map('attr', '__class__') }}", "hands 'attr'"),
    "a filter that map computes": ("{{ messages | map('at' ~ 'tr', 'x') }}", "computes what the filter 'map'"),
    "a test that does not exist, in select": ("{{ messages | select('evil') }}", "hands 'evil'"),
    "the attr filter": ("{{ messages | attr('x') }}", "filter 'attr'"),
    "a filter that does not exist": ("{{ messages | sh }}", "filter 'sh'"),
    "a test that does not exist": ("{{ messages is evil }}", "test 'evil'"),
    "a function of the environment": ("{{ lipsum() }}", "calls 'lipsum'"),
    "cycler, a way to the globals": ("{{ cycler.__init__.__globals__ }}", "__"),
    "an import": ("{% import 'x' as x %}", "import"),
    "an include": ("{% include 'x' %}", "include"),
    "inheritance": ("{% extends 'x' %}", "extends"),
    "a range of a billion": ("{% for i in range(1000000000) %}x{% endfor %}", "counts to 1000000000"),
    "a range of a product": ("{% for i in range(9999 * 9999) %}x{% endfor %}", "counts to 99980001"),
    "a range of a product inside": ("{% for i in range(n + 101 * 100) %}x{% endfor %}", "counts to 10100"),
    "a range from far below": ("{% for i in range(-99999, 0) %}x{% endfor %}", "counts to 99999"),
    "a power in a range": ("{% for i in range(9 ** 9 ** 9) %}x{% endfor %}", "pow"),
    "a power": ("{{ 10 ** 10 ** 10 }}", "pow"),
    "a tag that does not exist": ("{% nonsense %}", "does not parse"),
    "a block that never ends": ("{% if x %}", "does not parse"),
    "a template of megabytes": ("x" * (MAX_TEMPLATE + 1), "the limit is"),
    "parentheses without end": ("{{ " + "(" * 5000 + " }}", "nested too deep"),
    "a sum without end": ("{{ 1" + "+1" * 5000 + " }}", "nested too deep"),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_template_as_published_models_have_it_passes(name):
    check(GOOD[name], "The template")


@pytest.mark.parametrize("name", BAD)
def test_a_template_that_reaches_for_more_is_refused(name):
    template, reason = BAD[name]
    with pytest.raises(GgufError) as caught:
        check(template, "The template")
    assert reason in caught.value.why
    assert caught.value.exit_code == 5
