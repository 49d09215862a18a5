"""Packages in stages that dpkg can take without apt: every rule of dpkg holds, whatever the packages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugsky_builder.debs import order
from plugsky_bundles.errors import SourceError

NAMES = [f"p{number}" for number in range(8)]


def stage_of(stages):
    return {name: number for number, names in enumerate(stages) for name in names}


def test_a_package_waits_for_what_it_pre_depends_on():
    packages = {
        "python3": {"Pre-Depends": "python3-minimal (= 3.13), libc6", "Depends": "tzdata"},
        "python3-minimal": {"Depends": "libc6 (>= 2.38)"},
        "libc6": {},
        "tzdata": {},
    }
    assert order.stages(packages) == [["libc6", "python3-minimal", "tzdata"], ["python3"]]


def test_what_a_pre_dependency_depends_on_is_there_when_it_is_configured():
    packages = {"a": {"Pre-Depends": "b"}, "b": {"Depends": "c"}, "c": {"Pre-Depends": "d"}, "d": {}}
    stages = stage_of(order.stages(packages))
    assert (stages["d"], stages["c"], stages["b"], stages["a"]) == (0, 1, 1, 2)


def test_a_circle_of_dependencies_is_one_stage():
    assert order.stages({"a": {"Depends": "b"}, "b": {"Depends": "a"}}) == [["b", "a"]]


def test_a_circle_with_a_pre_dependency_cannot_be_put_in_order():
    with pytest.raises(SourceError, match="circle"):
        order.stages({"a": {"Pre-Depends": "b"}, "b": {"Depends": "a"}})


@pytest.mark.parametrize(
    ("relation", "found"),
    [
        ("b", {"b"}),
        ("b (>= 1.0) | c", {"b", "c"}),
        ("python3:any, c", {"c"}),
        ("mail-agent", {"d"}),
        ("not-here", set()),
    ],
)
def test_relations_are_read_as_debian_writes_them(relation, found):
    packages = {"a": {"Depends": relation}, "b": {}, "c": {}, "d": {"Provides": "mail-agent (= 1), other"}}
    assert set(order.closure(["a"], packages)) - {"a"} == found


def test_the_closure_follows_every_need_and_nothing_else():
    packages = {"a": {"Depends": "b"}, "b": {"Pre-Depends": "c"}, "c": {}, "d": {"Depends": "a"}}
    assert list(order.closure(["a", "absent"], packages)) == ["a", "b", "c"]


@given(
    st.dictionaries(
        st.sampled_from(NAMES),
        st.fixed_dictionaries(
            {
                "Depends": st.lists(st.sampled_from(NAMES), max_size=3).map(", ".join),
                "Pre-Depends": st.lists(st.sampled_from(NAMES), max_size=1).map(", ".join),
            }
        ),
        max_size=len(NAMES),
    )
)
def test_every_rule_of_dpkg_holds(packages):
    try:
        stages = order.stages(packages)
    except SourceError:
        return
    stage = stage_of(stages)
    assert set(stage) == set(packages)
    assert sum(len(names) for names in stages) == len(packages)
    for name, fields in packages.items():
        for other in filter(None, fields["Depends"].split(", ")):
            assert other not in stage or stage[other] <= stage[name]
        for other in filter(None, fields["Pre-Depends"].split(", ")):
            assert other not in stage or other == name or stage[other] < stage[name]
