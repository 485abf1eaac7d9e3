"""Instance maps: reading, and run-length encoding."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools import mask as rle

from panet.data.instance_map import (
    InstanceMap,
    encode_objects,
    object_class,
    object_ids,
    read_instance_map,
)
from panet.utils.errors import UserError

# Labels 0 and 2 are objects, of the classes 0 and 1.
LABEL_CLASSES = (0, -1, 1)


def write(path: Path, values: Any, dtype: type = np.uint16, **changes: Any) -> dict[str, Any]:
    """Write a PNG and return the record of its image."""
    array = np.array(values, dtype)
    cv2.imwrite(str(path), array)
    return {
        "file_name": "image.jpg",
        "instance_file_name": str(path),
        "label_classes": LABEL_CLASSES,
        "height": array.shape[0],
        "width": array.shape[1],
        **changes,
    }


def test_objects_of_a_map(tmp_path: Path) -> None:
    record = write(tmp_path / "map.png", [[0, 1, 256], [512, 514, 256 + 9]])
    instance_map = read_instance_map(record)
    assert instance_map.classes.tolist() == [[1, 1, 0], [2, 2, 0]]
    ids = instance_map.ids(num_classes=2)
    assert (ids == 0).tolist() == [[False, False, True], [False, False, True]]
    objects = object_ids(ids)
    assert len(objects) == 4
    assert [object_class(i) for i in objects] == [0, 0, 1, 1]
    assert [object_class(int(i)) for i in ids[:, :2].ravel()] == [0, 0, 1, 1]


def test_what_transforms_fill_maps_with_is_no_object() -> None:
    filled = np.array([[0, 255, 1]], np.uint8)
    ids = InstanceMap(filled, np.array([[0, 255, 0]], np.uint8)).ids(num_classes=2)
    assert (ids > 0).tolist() == [[False, False, True]]


@pytest.mark.parametrize(
    ("values", "dtype", "changes", "message"),
    [
        ([[0, 3 * 256]], np.uint16, {}, "map.png has the label 3, .* lists only 0 to 2"),
        ([[0, 1]], np.uint8, {}, "map.png is not a PNG with one 16-bit channel"),
        ([[[0, 1, 2]]], np.uint16, {}, "map.png is not a PNG with one 16-bit channel"),
        ([[0, 1]], np.uint16, {"width": 3}, "map.png is 2 x 1 pixels, .*image.jpg is 3 x 1"),
        ([[0]], np.uint16, {"instance_file_name": "gone.png"}, "map gone.png does not exist"),
    ],
)
def test_wrong_maps_are_named(
    tmp_path: Path, values: Any, dtype: type, changes: dict[str, Any], message: str
) -> None:
    record = write(tmp_path / "map.png", values, dtype, **changes)
    with pytest.raises(UserError, match=message) as error:
        read_instance_map(record)
    assert "\n" not in str(error.value)


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    record = write(tmp_path / "map.png", [[0]])
    (tmp_path / "map.png").write_text("no image")
    with pytest.raises(UserError, match="map.png is not a PNG"):
        read_instance_map(record)


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (40, 30)])
def test_encoding_is_that_of_every_mask(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    for share in (0.0, 0.5, 1.0):
        ids = rng.integers(256, 262, size).astype(np.uint16)
        ids[rng.random(size) < share] = 0
        encoded = encode_objects(ids)
        assert sorted(encoded) == object_ids(ids)
        for object_id, mask in encoded.items():
            assert mask == rle.encode(np.asfortranarray(ids == object_id, np.uint8))
