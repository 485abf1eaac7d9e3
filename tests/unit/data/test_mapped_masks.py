"""Masks that share a map, against detectron2's separate ones."""

import pytest
import torch
from detectron2.data.detection_utils import filter_empty_instances
from detectron2.structures import BitMasks, Boxes, Instances
from torch import Tensor

from panet.data.mapped_masks import MappedMasks

HEIGHT, WIDTH = 60, 90


@pytest.fixture
def masks() -> MappedMasks:
    """Four overlapping rectangles, one at the border, and one that is hidden."""
    ids = torch.zeros(HEIGHT, WIDTH, dtype=torch.int32)
    ids[5:40, 10:50] = 300
    ids[20:60, 40:90] = 7
    ids[0:10, 0:12] = 700
    ids[30:33, 35:45] = 301
    return MappedMasks(ids, torch.tensor([7, 300, 5, 301, 700], dtype=torch.int32))


def separate(masks: MappedMasks) -> BitMasks:
    return BitMasks(torch.stack([masks.ids == number for number in masks.objects.tolist()]))


def random_boxes(count: int, extent: float) -> Tensor:
    """Boxes within the image, with sides of up to ``extent`` pixels."""
    image = torch.tensor([WIDTH, HEIGHT])
    first = torch.rand(count, 2) * image
    second = (first + extent * torch.rand(count, 2)).minimum(image)
    boxes = torch.cat([first, second], dim=1)
    boxes[0] = torch.tensor([0.0, 0.0, WIDTH, HEIGHT])
    boxes[1] = torch.tensor([5.5, 3.0, 5.5, 9.0])
    return boxes


def test_masks_and_boxes(masks: MappedMasks) -> None:
    expected = separate(masks)
    assert torch.equal(masks.tensor, expected.tensor)
    assert masks.image_size == expected.image_size
    assert masks.nonempty().tolist() == [True, True, False, True, True]
    boxes, expected_boxes = masks.get_bounding_boxes(), expected.get_bounding_boxes()
    assert torch.equal(boxes.tensor, expected_boxes.tensor)


@pytest.mark.parametrize(
    "item",
    [1, slice(1, 4), torch.tensor([3, 0, 0, 3, 1]), torch.tensor([True, False, False, True, True])],
)
def test_selections(masks: MappedMasks, item: int | slice | Tensor) -> None:
    chosen, expected = masks[item], separate(masks)[item]
    assert len(chosen) == len(expected)
    assert torch.equal(chosen.tensor, expected.tensor)
    assert torch.equal(chosen.get_bounding_boxes().tensor, expected.get_bounding_boxes().tensor)
    assert chosen.ids.data_ptr() == masks.ids.data_ptr()


@pytest.mark.parametrize("mask_size", [7, 28])
@pytest.mark.parametrize("extent", [4.0, 60.0])
def test_crops(mask_size: int, extent: float) -> None:
    # Specks, so that every neighbour that is interpolated with counts.
    ids = torch.randint(0, 3, (HEIGHT, WIDTH)).int()
    masks = MappedMasks(ids, torch.tensor([1, 2], dtype=torch.int32))[torch.arange(300) % 2]
    boxes = random_boxes(300, extent)
    crops = masks.crop_and_resize(boxes, mask_size)
    expected = separate(masks).crop_and_resize(boxes, mask_size)
    assert crops.dtype == expected.dtype
    assert crops.shape == (300, mask_size, mask_size)
    assert 0.05 < expected.float().mean() < 0.95
    # Positions are rounded elsewhere, which decides where the interpolated value is 0.5.
    assert (crops != expected).float().mean() < 1e-3


def test_no_masks() -> None:
    ids = torch.zeros(HEIGHT, WIDTH, dtype=torch.int32)
    masks = MappedMasks(ids, torch.zeros(0, dtype=torch.int32))
    assert masks.tensor.shape == (0, HEIGHT, WIDTH)
    assert masks.nonempty().shape == (0,)
    assert masks.get_bounding_boxes().tensor.shape == (0, 4)
    assert masks.crop_and_resize(torch.zeros(0, 4), 28).shape == (0, 28, 28)


def test_in_instances(masks: MappedMasks) -> None:
    instances = Instances(
        (HEIGHT, WIDTH), gt_masks=masks, gt_boxes=Boxes(masks.get_bounding_boxes().tensor)
    )
    kept = filter_empty_instances(instances).to("cpu")
    assert isinstance(kept.gt_masks, MappedMasks)
    assert kept.gt_masks.objects.tolist() == [7, 300, 301, 700]
