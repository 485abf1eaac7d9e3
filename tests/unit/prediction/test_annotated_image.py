"""Pictures show every detection, its label legibly, and leave the rest of the image alone."""

from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools import mask as rle

from panet.prediction.annotated_image import draw

GREY = 100


@pytest.fixture
def image() -> np.ndarray:
    return np.full((240, 320, 3), GREY, np.uint8)


def ellipse(center: tuple[int, int], axes: tuple[int, int]) -> np.ndarray:
    mask = np.zeros((240, 320), np.uint8)
    cv2.ellipse(mask, center, axes, 0, 0, 360, 1, -1)
    return mask


def detection(mask: np.ndarray, category: int = 1, with_mask: bool = True) -> dict[str, Any]:
    encoded = rle.encode(np.asfortranarray(mask))
    found = {
        "category_id": category,
        "category": "Straße",
        "bbox": rle.toBbox(encoded).tolist(),
        "score": 0.876,
    }
    size, counts = encoded["size"], encoded["counts"].decode()
    return {**found, "segmentation": {"size": size, "counts": counts}} if with_mask else found


def test_a_mask_is_tinted_and_nothing_outside_of_the_box_changes(image: np.ndarray) -> None:
    mask = ellipse((160, 120), (100, 80))
    drawn = draw(image, [detection(mask)])
    assert (image == GREY).all()
    changed = (drawn != image).any(axis=2)
    inside = cv2.erode(mask, np.ones((9, 9))) > 0
    inside[:70] = False  # where the label may be
    assert changed[inside].all()
    assert len(np.unique(drawn[inside], axis=0)) == 1
    # Halfway to its colour, which the edge of the box has.
    np.testing.assert_allclose(drawn[120, 160], (GREY + drawn[120, 60].astype(int)) / 2, atol=1)
    outside = np.ones_like(changed)
    outside[37:205, 57:265] = False  # the lines are 2 pixels wide
    assert not changed[outside].any()
    corner = changed[180:196, 66:76]  # within the box and not the mask
    assert not corner.any()


def test_without_masks_there_are_boxes(image: np.ndarray) -> None:
    mask = ellipse((160, 120), (100, 80))
    changed = (draw(image, [detection(mask, with_mask=False)]) != image).any(axis=2)
    assert changed[120, [60, 260]].all()
    assert not changed[120, 65:255].any()


@pytest.mark.parametrize(
    ("center", "axes"), [((160, 120), (100, 80)), ((310, 232), (8, 6)), ((5, 6), (5, 5))]
)
def test_labels_are_light_on_dark_and_within_the_image(
    image: np.ndarray, center: tuple[int, int], axes: tuple[int, int]
) -> None:
    drawn = draw(image, [detection(ellipse(center, axes))]).max(axis=2)
    rows, columns = np.nonzero(drawn < 5)
    assert len(rows) > 300
    label = drawn[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    assert label.shape[1] > 2 * label.shape[0] >= 24
    assert 0.05 < (label > 150).mean() < 0.5
    if axes[0] == 100:
        assert (rows.min(), columns.min()) == pytest.approx((40, 60), abs=1)
    else:  # it leaves a small one to be seen
        box = drawn[max(0, center[1] - 6) : center[1] + 3, center[0] - 5 : center[0] + 5]
        assert (box >= 5).mean() > 0.5


def test_labels_have_one_line(image: np.ndarray) -> None:
    found = detection(ellipse((160, 120), (100, 80)))
    drawn = [draw(image, [{**found, "category": name}]) for name in ("two words", "two\nwords")]
    np.testing.assert_array_equal(*drawn)


def test_small_detections_lie_on_large_ones(image: np.ndarray) -> None:
    large = detection(ellipse((160, 130), (100, 80)), category=1)
    small = detection(ellipse((160, 150), (40, 40)), category=2)
    drawn = draw(image, [large, small], by_category=True)
    np.testing.assert_array_equal(draw(image, [small, large], by_category=True), drawn)
    below, color = drawn[200, 160].astype(int), drawn[150, 120].astype(int)
    np.testing.assert_allclose(drawn[150, 160], (below + color) / 2, atol=1)
    np.testing.assert_array_equal(drawn[150, 120], draw(image, [small], True)[150, 120])


def test_categories_keep_their_colours(image: np.ndarray) -> None:
    first, second = ellipse((80, 120), (60, 60)), ellipse((240, 120), (60, 60))

    def colors(categories: tuple[int, int], by_category: bool) -> list[list[int]]:
        found = [detection(mask, number) for mask, number in zip((first, second), categories)]
        drawn = draw(image, found, by_category)
        return [drawn[150, 80].tolist(), drawn[150, 240].tolist()]

    one, other = colors((3, 5), True)
    assert one != other
    assert colors((5, 3), True) == [other, one]
    assert colors((3, 3), True) == [one, one]
    assert colors((3, 3), False)[0] != colors((3, 3), False)[1]


def test_empty_masks_and_images_without_detections(image: np.ndarray) -> None:
    np.testing.assert_array_equal(draw(image, []), image)
    found = {**detection(ellipse((160, 120), (60, 60))), "bbox": [20.0, 20.0, 60.0, 60.0]}
    empty = detection(np.zeros((240, 320), np.uint8))
    found["segmentation"] = empty["segmentation"]
    assert (draw(image, [found]) != image).any()
