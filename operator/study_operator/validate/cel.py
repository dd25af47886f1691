"""Evaluate the rules of crds/study.yaml: as much of CEL, the Common Expression Language, as they need.

There is no CEL among the operator's dependencies, and a second wording of each rule would go its own way. What this
module cannot evaluate raises `Unsupported`, so that a new rule is never passed over; a test evaluates all of them.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+\.\d+(?:[eE][-+]?\d+)?|\d+)|(?P<text>'[^']*'|\"[^\"]*\")|(?P<name>[A-Za-z_]\w*)"
    r"|(?P<sign>&&|\|\||[=!<>]=|[-!<>()\[\]?:.,+]))"
)
_Node = Callable[[Mapping[str, Any]], Any]
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
    "in": lambda value, of: value in of,
}
_METHODS: dict[str, Callable[..., Any]] = {
    "size": len,
    "contains": lambda text, part: part in text,
    "matches": lambda text, pattern: re.search(pattern, text, re.ASCII) is not None,
    "startsWith": str.startswith,
    "endsWith": str.endswith,
    "replace": str.replace,
    "indexOf": lambda of, item: of.find(item) if isinstance(of, str) else _index(of, item),
    "lastIndexOf": lambda of, item: of.rfind(item) if isinstance(of, str) else _last_index(of, item),
}
_MACROS: dict[str, Callable[[list[Any], list[Any]], Any]] = {
    "all": lambda items, found: all(found),
    "exists": lambda items, found: any(found),
    "exists_one": lambda items, found: sum(map(bool, found)) == 1,
    "filter": lambda items, found: [item for item, keep in zip(items, found, strict=True) if keep],
    "map": lambda items, found: found,
}


class Unsupported(Exception):
    """A rule has something that this module does not know."""


def holds(rule: str, value: Any) -> bool:
    """Return whether a rule holds for a value, which the rule calls self.

    Raises:
        Unsupported: it cannot be evaluated here.
    """
    try:
        return bool(_Parser(rule).parse()({"self": value}))
    except (KeyError, TypeError, AttributeError) as error:
        raise Unsupported(f"{rule!r}: {error!r}") from None


def _index(items: list[Any], item: Any) -> int:
    return items.index(item) if item in items else -1


def _last_index(items: list[Any], item: Any) -> int:
    return len(items) - 1 - items[::-1].index(item) if item in items else -1


class _Parser:
    """Makes a function of an expression, by descent."""

    def __init__(self, rule: str) -> None:
        self._tokens: list[tuple[str, str]] = []
        place, rule = 0, rule.rstrip()
        while place < len(rule):
            match = _TOKEN.match(rule, place)
            if match is None or match.lastgroup is None:
                raise Unsupported(f"{rule!r} at {rule[place:]!r}")
            self._tokens.append((match.lastgroup, match[match.lastgroup]))
            place = match.end()
        self._tokens.append(("end", ""))
        self._rule = rule

    def parse(self) -> _Node:
        """Return the function, which takes the values of variables."""
        node = self._choice()
        if self._tokens[0][0] != "end":
            raise Unsupported(f"{self._rule!r} at {self._tokens[0][1]!r}")
        return node

    def _next(self) -> tuple[str, str]:
        return self._tokens.pop(0)

    def _take(self, *signs: str) -> str | None:
        kind, text = self._tokens[0]
        if kind != "text" and text in signs:
            self._tokens.pop(0)
            return text
        return None

    def _expect(self, sign: str) -> None:
        if self._take(sign) is None:
            raise Unsupported(f"{self._rule!r}: {sign!r} is missing before {self._tokens[0][1]!r}")

    def _choice(self) -> _Node:
        condition = self._or()
        if self._take("?") is None:
            return condition
        yes = self._choice()
        self._expect(":")
        no = self._choice()
        return lambda env: yes(env) if condition(env) else no(env)

    def _or(self) -> _Node:
        parts = [self._and()]
        while self._take("||"):
            parts.append(self._and())
        return parts[0] if len(parts) == 1 else lambda env: any(part(env) for part in parts)

    def _and(self) -> _Node:
        parts = [self._relation()]
        while self._take("&&"):
            parts.append(self._relation())
        return parts[0] if len(parts) == 1 else lambda env: all(part(env) for part in parts)

    def _relation(self) -> _Node:
        left = self._unary()
        if (sign := self._take(*_COMPARE)) is None:
            return left
        right, compare = self._unary(), _COMPARE[sign]
        return lambda env: compare(left(env), right(env))

    def _unary(self) -> _Node:
        if self._take("!"):
            inner = self._unary()
            return lambda env: not inner(env)
        if self._take("-"):
            inner = self._unary()
            return lambda env: -inner(env)
        return self._member()

    def _member(self) -> _Node:
        node = self._primary()
        while True:
            if self._take("["):
                node = self._at(node, self._choice())
                self._expect("]")
            elif self._take("."):
                name = self._next()[1]
                node = self._call(node, name) if self._take("(") else self._field(node, name)
            else:
                return node

    @staticmethod
    def _at(of: _Node, place: _Node) -> _Node:
        return lambda env: of(env)[place(env)]

    @staticmethod
    def _field(of: _Node, name: str) -> _Node:
        return lambda env: of(env)[name]

    def _call(self, of: _Node, name: str) -> _Node:
        if name in _MACROS:
            variable = self._next()[1]
            self._expect(",")
            body, result = self._choice(), _MACROS[name]
            self._expect(")")

            def macro(env: Mapping[str, Any]) -> Any:
                items = list(of(env))
                return result(items, [body({**env, variable: item}) for item in items])

            return macro
        if name not in _METHODS:
            raise Unsupported(f"{self._rule!r}: the function {name}")
        arguments, method = self._list(")"), _METHODS[name]
        return lambda env: method(of(env), *(argument(env) for argument in arguments))

    def _list(self, end: str) -> list[_Node]:
        found: list[_Node] = []
        while self._take(end) is None:
            found.append(self._choice())
            self._take(",")
        return found

    def _primary(self) -> _Node:
        kind, text = self._next()
        if kind == "number":
            number = float(text) if "." in text else int(text)
            return lambda env: number
        if kind == "text":
            return lambda env: text[1:-1]
        if kind == "name" and text == "has":
            self._expect("(")
            path = [self._next()[1]]
            while self._take("."):
                path.append(self._next()[1])
            self._expect(")")
            return lambda env: _has(env, path)
        if kind == "name" and text in ("true", "false"):
            return lambda env: text == "true"
        if kind == "name" and self._tokens[0][1] != "(":
            return lambda env: env[text]
        if text == "(":
            inner = self._choice()
            self._expect(")")
            return inner
        if text == "[":
            items = self._list("]")
            return lambda env: [item(env) for item in items]
        raise Unsupported(f"{self._rule!r} at {text!r}")


def _has(env: Mapping[str, Any], path: list[str]) -> bool:
    value: Any = env
    for name in path[:-1]:
        value = value[name]
    return path[-1] in value
