"""In which order dpkg can take packages without apt's help. Pure.

dpkg unpacks a package only once what it pre-depends on is configured, and configures one only once what it depends on
is unpacked (deb-control(5), Debian Policy 7.2). So packages form **stages**: `dpkg --unpack` of a stage's files, then
`dpkg --configure --pending`, then the next stage. A package's stage is later than those of its pre-dependencies and not
earlier than those of its dependencies; which is the longest path over both, and the fewest stages there can be. Inside
a stage, packages come after those they depend on where no circle forbids it. What no package of the set offers is there
on the host already, because the set was resolved so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from debian.deb822 import PkgRelation

from plugsky_bundles.errors import SourceError

PRE_DEPENDS: Final = "Pre-Depends"
DEPENDS: Final = "Depends"

Fields = Mapping[str, str]
"""The control fields of a package."""


def closure(roots: Iterable[str], packages: Mapping[str, Fields]) -> dict[str, Fields]:
    """Those of `packages` (by name) that `roots` need, themselves included, as far as they are there."""
    offers = _offers(packages)
    found: dict[str, Fields] = {}
    waiting = [name for name in roots if name in packages]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = packages[name]
            waiting += sorted(_needs(packages[name], (PRE_DEPENDS, DEPENDS), offers))
    return dict(sorted(found.items()))


def stages(packages: Mapping[str, Fields]) -> list[list[str]]:
    """The names of `packages` by stage, as described above. Raises SourceError for a circle of pre-dependencies."""
    offers = _offers(packages)
    before = {name: _needs(fields, (PRE_DEPENDS,), offers) - {name} for name, fields in packages.items()}
    beside = {name: _needs(fields, (DEPENDS,), offers) - {name} for name, fields in packages.items()}
    stage = dict.fromkeys(packages, 0)
    for _ in range(len(packages) + 1):
        moved = False
        for name in packages:
            least = max(
                [stage[name], *(stage[other] + 1 for other in before[name]), *(stage[other] for other in beside[name])]
            )
            moved, stage[name] = moved or least > stage[name], least
        if not moved:
            break
    else:
        raise SourceError(
            "The packages cannot be put in order", "some pre-depend on each other in a circle", "Leave one of them out"
        )
    needs = {name: before[name] | beside[name] for name in packages}
    result: list[list[str]] = [[] for _ in range(max(stage.values(), default=-1) + 1)]
    for name in _dependencies_first(needs):
        result[stage[name]].append(name)
    return result


def _dependencies_first(needs: Mapping[str, set[str]]) -> list[str]:
    """Depth first by name; a circle is cut where it closes."""
    order: dict[str, None] = {}
    for start in sorted(needs):
        path = [(start, iter(sorted(needs[start])))]
        seen = {start}
        while path:
            name, rest = path[-1]
            following = next((other for other in rest if other not in order and other not in seen), None)
            if following is None:
                order.setdefault(name)
                path.pop()
            else:
                seen.add(following)
                path.append((following, iter(sorted(needs[following]))))
    return list(order)


def _offers(packages: Mapping[str, Fields]) -> dict[str, set[str]]:
    """Which packages stand behind a name: the one called so, and those that provide it."""
    offers: dict[str, set[str]] = {name: {name} for name in packages}
    for name, fields in packages.items():
        for alternative in _relation(fields.get("Provides", "")):
            for provided in alternative:
                offers.setdefault(provided, set()).add(name)
    return offers


def _needs(fields: Fields, relations: Iterable[str], offers: Mapping[str, set[str]]) -> set[str]:
    return {
        offering
        for relation in relations
        for alternatives in _relation(fields.get(relation, ""))
        for name in alternatives
        for offering in offers.get(name, ())
    }


def _relation(text: str) -> list[list[str]]:
    """The names in a relation field: an and of ors."""
    return [[str(item["name"]) for item in group] for group in PkgRelation.parse_relations(text)] if text else []
