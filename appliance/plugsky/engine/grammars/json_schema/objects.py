"""Objects as grammars: named properties in their order, then perhaps others, with commas where they belong."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from plugsky.engine.grammars.grammar import inverted
from plugsky.engine.grammars.json_schema.gbnf_text import Rules, char_class, counted, literal

Trie = dict[str, "Trie"]

_NOT_PLAIN = [(1, 0x1F), (0x22, 0x22), (0x5C, 0x5C)]


@dataclass(frozen=True, slots=True)
class Property:
    """A property by its name, the rule of its value, and whether it must be there."""

    name: str
    rule: str
    required: bool


def members(rules: Rules, properties: Sequence[Property], extra: str | None, least: int, most: int | None) -> str:
    """GBNF of an object. ``extra`` is the rule of other properties' values; the counts hold when none are named."""
    if not properties:
        return _map(extra, least, most)
    pairs = [f'{literal(json.dumps(part.name, ensure_ascii=False))} ":" ws {part.rule}' for part in properties]
    others = f'{_other_name(rules, [part.name for part in properties])} ":" ws {extra}' if extra else None
    rest = rules.add(f'("," ws {others})*' if others else '""')
    begins: list[str] = [f'{others} ("," ws {others})*'] if others else []
    optional = True
    for part, pair in zip(reversed(properties), reversed(pairs), strict=True):
        begins = [f"{pair} {rest}", *(() if part.required else begins)]
        optional = optional and not part.required
        rest = rules.add(f'"," ws {pair} {rest}' if part.required else f'("," ws {pair})? {rest}')
    inside = f"({' | '.join(begins)}) ws"
    return f'"{{" ws ({inside})? "}}"' if optional else f'"{{" ws {inside} "}}"'


def _map(value: str | None, least: int, most: int | None) -> str:
    if value is None or most == 0:
        return '"{" ws "}"'
    pair = f'string ":" ws {value}'
    inside = f'{pair} ("," ws {pair}){counted(max(0, least - 1), None if most is None else most - 1)} ws'
    return f'"{{" ws {inside} "}}"' if least else f'"{{" ws ({inside})? "}}"'


def _other_name(rules: Rules, names: Sequence[str]) -> str:
    """The rule of names that are none of ``names``, written without escapes: an escape could spell one of them."""
    trie: Trie = {}
    for name in names:
        node = trie
        for char in name:
            node = node.setdefault(char, {})
        node[""] = {}
    rest = rules.add(f"{char_class(inverted(_NOT_PLAIN))}*")
    return rules.add(rf'"\"" {_unlike(rules, trie, rest)} "\""')


def _unlike(rules: Rules, trie: Trie, rest: str) -> str:
    """The rule of what does not spell a name of ``trie`` from here on."""
    chars = sorted(char for char in trie if char)
    parts = [f"{char_class(inverted([*_NOT_PLAIN, *((ord(char), ord(char)) for char in chars)]))} {rest}"]
    parts += [
        f"{literal(char)} {_unlike(rules, trie[char], rest)}" for char in chars if char not in '"\\' and char >= " "
    ]
    if "" not in trie:
        parts.append('""')
    return rules.add(" | ".join(parts))
