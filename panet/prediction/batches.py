"""Putting images of like size together."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def group_alike(
    items: Iterable[T], key: Callable[[T], Hashable], size: int, max_waiting: int
) -> Iterator[list[T]]:
    """Groups of items with equal keys.

    Args:
        items: read one by one.
        key: of an item.
        size: of a group; the last ones may be smaller.
        max_waiting: when more items than that wait for others like them, those that have found the
            most go on, so that memory stays bounded.
    """
    groups: defaultdict[Hashable, list[T]] = defaultdict(list)
    waiting = 0
    for item in items:
        own = key(item)
        groups[own].append(item)
        waiting += 1
        if len(groups[own]) < size:
            if waiting <= max_waiting:
                continue
            own = max(groups, key=lambda other: len(groups[other]))
        group = groups.pop(own)
        waiting -= len(group)
        yield group
    yield from groups.values()
