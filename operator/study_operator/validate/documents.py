"""Read YAML as kubectl does, and know the line of each field.

kubectl turns YAML into JSON by the rules of YAML 1.1: `y`, `n`, `on` and `off` are booleans, and 010 is 8.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

_TRUE = frozenset({"y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"})
_FALSE = frozenset({"n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"})
_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_INT = re.compile(r"[-+]?(0[xX][0-9a-fA-F]+|0[oO]?[0-7]+|0[bB][01]+|0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


@dataclass
class Document:
    """One document of a file.

    Attributes:
        value: its content, as JSON has it.
        line: where it begins, from 1.
        lines: the line of each field, by its path, such as spec.parameters[0].name.
        twice: paths of fields that are given twice; the last one counts.
    """

    value: Any
    line: int
    lines: dict[str, int] = field(default_factory=dict)
    twice: list[str] = field(default_factory=list)

    def line_of(self, path: str) -> int:
        """Return the line of a field, or of what it would be in."""
        while path:
            if path in self.lines:
                return self.lines[path]
            path = re.sub(r"(\.[^.\[\]]*|\[\d+\]|^[^.\[\]]*)$", "", path)
        return self.line


def read(text: str) -> Iterator[Document]:
    """Yield the documents of a file, but for empty ones. The items of a List are documents.

    Raises:
        ValueError: the text is no YAML. The message has the line.
    """
    try:
        nodes = [node for node in yaml.compose_all(text, Loader=yaml.SafeLoader) if node is not None]
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from None
    for node in nodes:
        for one in _items(node):
            document = Document(None, one.start_mark.line + 1)
            document.value = _Reader(document).value(one, "")
            if document.value is not None:
                yield document


def _items(node: yaml.Node) -> list[yaml.Node]:
    """Return the items of a List of Kubernetes, or the node itself."""
    if isinstance(node, yaml.MappingNode):
        fields = {key.value: value for key, value in node.value if isinstance(key, yaml.ScalarNode)}
        kind, items = fields.get("kind"), fields.get("items")
        if isinstance(kind, yaml.ScalarNode) and kind.value.endswith("List") and isinstance(items, yaml.SequenceNode):
            return list(items.value)
    return [node]


class _Reader:
    """Turns the nodes of one document into values."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._open: set[int] = set()

    def value(self, node: yaml.Node, path: str) -> Any:
        self._document.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.ScalarNode):
            return scalar(node)
        if id(node) in self._open:
            raise ValueError(f"line {node.start_mark.line + 1}: a value is part of itself")
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.SequenceNode):
                return [self.value(item, f"{path}[{place}]") for place, item in enumerate(node.value)]
            return self._mapping(node, path)
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: yaml.MappingNode, path: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key, value in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                for one in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    inner = self.value(one, path)
                    merged |= inner if isinstance(inner, dict) else {}
                continue
            if not isinstance(key, yaml.ScalarNode):
                raise ValueError(f"line {key.start_mark.line + 1}: a list or an object cannot be a name")
            name = _name(scalar(key))
            inner_path = f"{path}.{name}" if path else name
            if name in found:
                self._document.twice.append(inner_path)
                self._document.lines.pop(inner_path, None)
            self._document.lines[inner_path] = key.start_mark.line + 1
            found[name] = self.value(value, inner_path)
        return merged | found


def _name(key: Any) -> str:
    """Return a key as kubectl has it in JSON, where names are text: an unquoted y is "true"."""
    if isinstance(key, bool):
        return "true" if key else "false"
    return "null" if key is None else str(key)


def scalar(node: yaml.ScalarNode) -> Any:
    """Return the value of a scalar.

    Raises:
        ValueError: JSON cannot have it.
    """
    text: str = node.value
    return text if node.style else plain(text, node.start_mark.line + 1)


def plain(text: str, line: int = 1) -> Any:
    """Return what a text without quotes is.

    Raises:
        ValueError: JSON cannot have it.
    """
    if text in _NULL:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    bare = text.replace("_", "")
    if _INT.fullmatch(bare):
        digits = bare.lstrip("+-")
        if re.fullmatch(r"0[0-7]+", digits):
            digits = f"0o{digits[1:]}"
        return int(digits, 0) * (-1 if bare.startswith("-") else 1)
    is_number = _FLOAT.fullmatch(bare) is not None
    if (is_number and not math.isfinite(float(bare))) or _INFINITE.fullmatch(text):
        raise ValueError(f"line {line}: {text} is no number that JSON can have: put it in quotes if it is text")
    return float(bare) if is_number else text
