"""Grouping of similar items into batches."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def group_alike(
    items: Iterable[T], key: Callable[[T], Hashable], size: int, max_waiting: int
) -> Iterator[list[T]]:
    """Group items with equal keys.

    Args:
        items: items, consumed one by one.
        key: returns the key of an item.
        size: size of the groups; groups may be smaller at the end or due to ``max_waiting``.
        max_waiting: maximum number of items in incomplete groups, to bound memory; beyond it the
            largest group is yielded incomplete.
    """
    groups: defaultdict[Hashable, list[T]] = defaultdict(list)
    waiting = 0
    for item in items:
        item_key = key(item)
        groups[item_key].append(item)
        waiting += 1
        if len(groups[item_key]) < size:
            if waiting <= max_waiting:
                continue
            item_key = max(groups, key=lambda other: len(groups[other]))
        group = groups.pop(item_key)
        waiting -= len(group)
        yield group
    yield from groups.values()
