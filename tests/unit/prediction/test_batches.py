"""Groups of like items."""

import random
from collections.abc import Iterator

import pytest

from panet.prediction.batches import group_alike


@pytest.mark.parametrize(("size", "max_waiting"), [(1, 4), (3, 12), (4, 4), (8, 5)])
def test_every_item_is_in_one_group_of_its_like(size: int, max_waiting: int) -> None:
    items = [random.Random(number).randrange(5) * 100 + number for number in range(97)]
    read = []

    def reading() -> Iterator[int]:
        for item in items:
            read.append(item)
            yield item

    out: list[int] = []
    for group in group_alike(reading(), lambda item: item // 100, size, max_waiting):
        assert 1 <= len(group) <= size
        assert len({item // 100 for item in group}) == 1
        out += group
        if len(read) < len(items):
            assert len(read) - len(out) <= max_waiting
    assert sorted(out) == sorted(items)


def test_full_groups_go_at_once() -> None:
    groups = list(group_alike("aabacb", str, 2, 100))
    assert groups == [["a", "a"], ["b", "b"], ["a"], ["c"]]
