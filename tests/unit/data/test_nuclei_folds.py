"""The folds of the nuclei's training split."""

from collections import Counter
from typing import Any

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from panet.data.nuclei import NUM_FOLDS, choose_fold


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Of the files of a training split of 200 images."""
    names = [f"{number:016x}.png" for number in range(200)]

    def read() -> list[dict[str, Any]]:
        return [{"file_name": f"anywhere/train/{name}"} for name in names]

    monkeypatch.setitem(DatasetCatalog.data, "nuclei_train", read)
    return names


def names_of(dataset: str) -> list[str]:
    return [record["file_name"].rpartition("/")[2] for record in DatasetCatalog.get(dataset)]


def test_every_image_is_in_one_fold(names: list[str]) -> None:
    folds = [names_of(f"nuclei_fold_{fold}") for fold in range(1, NUM_FOLDS + 1)]
    assert sorted(name for fold in folds for name in fold) == names
    assert all(20 < len(fold) < 60 for fold in folds)


def test_a_fold_and_its_rest_are_the_whole(names: list[str]) -> None:
    for fold in range(1, NUM_FOLDS + 1):
        held_out, rest = names_of(f"nuclei_fold_{fold}"), names_of(f"nuclei_but_fold_{fold}")
        assert Counter(held_out + rest) == Counter(names)


def test_the_fold_depends_on_the_name_alone() -> None:
    # As computed by sha256sum; a change would make published choices irreproducible.
    assert [choose_fold(f"{name}.png") for name in "abcd"] == [5, 5, 3, 3]


def test_they_are_evaluated_as_the_split_is() -> None:
    of_split = MetadataCatalog.get("nuclei_train")
    for name in ("nuclei_fold_1", "nuclei_but_fold_1"):
        metadata = MetadataCatalog.get(name)
        assert metadata.evaluator_type == of_split.evaluator_type
        assert metadata.thing_classes == of_split.thing_classes
        assert metadata.image_root == of_split.image_root
