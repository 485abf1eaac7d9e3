"""Masks that share an instance map."""

from typing import Any

import torch
from detectron2.structures import BitMasks, Boxes
from torch import Tensor
from torchvision.ops import roi_align


class MappedMasks(BitMasks):
    """``BitMasks`` of the objects in an instance map, with the memory of a single mask.

    Training repeats an object's mask for each of its proposals. With several hundred proposals and
    images of several million pixels, separate masks would take gigabytes.
    """

    def __init__(self, ids: Tensor, objects: Tensor) -> None:
        """
        Args:
            ids: (H, W), int32; id of the visible object, 0 for none.
            objects: (N,), int32; id of each object, above 0; may contain duplicates.
        """
        self.ids = ids
        self.objects = objects
        self.image_size = tuple(ids.shape)

    @property
    def tensor(self) -> Tensor:
        """Separate masks, (N, H, W), bool."""
        return self.ids == self.objects[:, None, None]

    @property
    def device(self) -> torch.device:
        return self.ids.device

    def to(self, *args: Any, **kwargs: Any) -> "MappedMasks":
        return MappedMasks(self.ids.to(*args, **kwargs), self.objects.to(*args, **kwargs))

    def __len__(self) -> int:
        return len(self.objects)

    def __getitem__(self, item: int | slice | Tensor) -> "MappedMasks":
        return MappedMasks(self.ids, self.objects[item].reshape(-1))

    def nonempty(self) -> Tensor:
        pixels = torch.bincount(self.ids.flatten(), minlength=self._bound())
        return pixels[self.objects] > 0

    def get_bounding_boxes(self) -> Boxes:
        y, x = torch.nonzero(self.ids, as_tuple=True)
        seen = self.ids[y, x].long()
        nothing = x.new_zeros(self._bound())
        # One pass over the map; objects that are not in it keep zeros, as in BitMasks.
        edges = [
            nothing.scatter_reduce(0, seen, position, reduce, include_self=False)
            for position, reduce in ((x, "amin"), (y, "amin"), (x + 1, "amax"), (y + 1, "amax"))
        ]
        return Boxes(torch.stack(edges, dim=1)[self.objects].float())

    def crop_and_resize(self, boxes: Tensor, mask_size: int) -> Tensor:
        """Crop each mask by its box, see ``BitMasks``.

        Args:
            boxes: (N, 4), x0, y0, x1, y1 in pixels, within the image.
            mask_size: side of the cropped masks.

        Returns:
            (N, mask_size, mask_size), bool.
        """
        height, width = self.image_size
        crops = [torch.empty((0, mask_size, mask_size), dtype=torch.bool, device=self.device)]
        corners = boxes.detach().long().tolist()
        for box, (x0, y0, x1, y1), number in zip(boxes, corners, self.objects):
            # Include the neighbours used by the interpolation.
            left, top = max(x0 - 2, 0), max(y0 - 2, 0)
            mask = self.ids[top : min(y1 + 3, height), left : min(x1 + 3, width)] == number
            moved = box - box.new_tensor([left, top, left, top])
            crop = roi_align(mask[None, None].to(box.dtype), [moved[None]], mask_size, aligned=True)
            crops.append(crop[0] >= 0.5)
        return torch.cat(crops)

    def _bound(self) -> int:
        """A number above all object ids, in ``objects`` and in the map."""
        numbers = (self.ids.flatten(), self.objects)
        return 1 + max(int(part.max()) for part in numbers if part.numel() > 0)
