"""Random texts that a grammar admits: derived from its rules, with the shortest ways taken once a budget is spent."""

import random

from plugsky.engine.grammars import gbnf
from plugsky.engine.grammars.grammar import Chars, Ref, Repeat


class Writer:
    """Writes texts by one grammar."""

    def __init__(self, text: str) -> None:
        self._grammar = gbnf.read(text)
        self._cost = [10**9] * len(self._grammar.rules)
        changed = True
        while changed:
            best = [min(sum(map(self._price, items)) + 1 for items in rule) for rule in self._grammar.rules]
            changed, self._cost = best != self._cost, best

    def text(self, seed: int, budget: int = 200) -> str:
        """One text; the same for the same seed."""
        chance = random.Random(seed)  # noqa: S311 - repeatable on purpose
        left, made = budget, []
        work = [Ref(self._grammar.root)]
        while work:
            item = work.pop()
            left -= 1
            match item:
                case Chars(ranges):
                    made.append(self._char(chance, ranges))
                case Ref(rule):
                    ways = self._grammar.rules[rule]
                    chosen = chance.choice(ways) if left > 0 else min(ways, key=lambda way: sum(map(self._price, way)))
                    work += reversed(chosen)
                case Repeat(rule, least, most):
                    more = chance.choice([0, 0, 1, 2, 5]) if left > 0 else 0
                    times = least + more if most is None else min(most, least + more)
                    work += [Ref(rule)] * times
        return "".join(made)

    def _price(self, item) -> int:
        match item:
            case Chars():
                return 1
            case Ref(rule):
                return self._cost[rule]
            case Repeat(rule, least, _):
                return least * self._cost[rule]

    @staticmethod
    def _char(chance, ranges) -> str:
        low, high = chance.choice(ranges)
        while True:
            code = chance.choice([low, high, chance.randint(low, high), chance.randint(low, min(high, max(low, 126)))])
            if not 0xD800 <= code <= 0xDFFF:
                return chr(code)
