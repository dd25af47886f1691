"""Shares a fixed number of places fairly among namespaces: workers, and threads of the pool.

A namespace that has no place gets any free one. A namespace that has some gets another one only while a quarter of all
places stays free. So nobody finds all places taken by one namespace, and what a new one asks for begins at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)


class Shares:
    """Who has how many places.

    Args:
        size: how many places there are.

    Attributes:
        free: how many of them nobody has.
    """

    def __init__(self, size: int) -> None:
        self.free, self._kept = size, size // 4
        self._held: Counter[str | None] = Counter()

    def may_take(self, owner: str | None) -> bool:
        """Return whether an owner may have another place now. The operator itself (None) may have any free one."""
        return self.free > (self._kept if owner is not None and self._held[owner] else 0)

    def take(self, owner: str | None) -> None:
        """Give a place to an owner."""
        self.free -= 1
        self._held[owner] += 1

    def give_back(self, owner: str | None) -> None:
        """Take one place away from an owner."""
        self.free += 1
        self._held[owner] -= 1
        if not self._held[owner]:
            del self._held[owner]


class Rounds(Generic[Item]):
    """Items that wait, each of an owner. One owner after the other has a turn; each owner's items keep their order."""

    def __init__(self) -> None:
        self._waiting: dict[str | None, dict[Item, float]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def __contains__(self, item: object) -> bool:
        return any(item in items for items in self._waiting.values())

    def add(self, owner: str | None, item: Item, since: float = 0.0) -> None:
        """Let an item wait, behind those of its owner."""
        self._waiting.setdefault(owner, {})[item] = since

    def discard(self, owner: str | None, item: Item) -> None:
        """Let an item wait no longer."""
        items = self._waiting.get(owner, {})
        items.pop(item, None)
        if not items:
            self._waiting.pop(owner, None)

    def pop(self, allowed: Callable[[str | None], bool]) -> tuple[str | None, Item, float] | None:
        """Take out the next item whose owner is allowed. Return it with its owner and since when it has waited."""
        for owner, items in self._waiting.items():
            if allowed(owner):
                item = next(iter(items))
                since = items.pop(item)
                del self._waiting[owner]
                if items:
                    self._waiting[owner] = items  # behind the others
                return owner, item, since
        return None

    def firsts(self) -> Iterator[tuple[str | None, Item, float]]:
        """Yield each owner's first item, and since when it has waited."""
        for owner, items in list(self._waiting.items()):
            item = next(iter(items))
            yield owner, item, items[item]
