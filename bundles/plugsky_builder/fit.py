"""What decides which Python packages and wheels are right: those of a target, or of a host like the build machine."""

from __future__ import annotations

import platform
import sysconfig
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from packaging import tags
from packaging.markers import default_environment
from packaging.tags import Tag

from plugsky_builder.targets import Target


@dataclass(frozen=True, slots=True)
class Fit:
    """`name` is for people; `tags` are those of wheels from an index, `compiled_tags` also those of ones made here.

    `options` make pip choose for the target instead of for its own interpreter. `question` names all of that: equal
    questions have equal answers.
    """

    name: str
    question: str
    environment: Mapping[str, str]
    tags: AbstractSet[Tag]
    compiled_tags: AbstractSet[Tag]
    options: tuple[str, ...]
    target: Target | None


def fit_of(target: Target | None) -> Fit:
    """What fits `target`, or without one the build machine and its Python."""
    if target is None:
        environment = {name: str(value) for name, value in default_environment().items()}
        own = frozenset(tags.sys_tags())
        question = f"{platform.python_version()} {sysconfig.get_platform()} {platform.libc_ver()}"
        return Fit("hosts like this one", question, environment, own, own, (), None)
    platforms = [option for name in target.platforms() for option in ("--platform", name)]
    interpreter = f"cp{target.python.replace('.', '')}"
    abis = [option for name in (interpreter, "abi3", "none") for option in ("--abi", name)]
    version = ["--implementation", "cp", "--python-version", target.release.python]
    return Fit(
        str(target),
        f"{target.release.python} {interpreter} {' '.join(target.platforms())}",
        target.environment(),
        target.tags(),
        target.tags(compiled=True),
        (*platforms, *version, *abis),
        target,
    )
