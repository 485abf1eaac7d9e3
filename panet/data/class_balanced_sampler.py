"""Class-balanced sampling of training images."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
from detectron2.utils import comm
from torch.utils.data import Sampler

from panet.utils.errors import UserError

_DRAWS_AT_ONCE = 4096


class ClassBalancedTrainingSampler(Sampler[int]):
    """Infinite stream of images: draws a class uniformly, then an image of that class uniformly.

    An image belongs to a class if it has at least one object of it that is not a crowd. Classes
    without images and images without objects are never drawn. Images are drawn with replacement.

    The processes of a distributed training draw the same stream and take turns. The stream is
    identical at every iteration over the sampler.
    """

    def __init__(self, records: Sequence[Mapping[str, Any]], seed: int | None = None) -> None:
        """
        Args:
            records: images in detectron2's format, with "annotations".
            seed: identical on all processes; None for a random one shared by all processes.

        Raises:
            UserError: if no image has an object.
        """
        super().__init__()
        self.seed = comm.shared_random_seed() if seed is None else seed
        self.images_by_class = _images_by_class(records)

    def __iter__(self) -> Iterator[int]:
        return islice(self._draw(), comm.get_rank(), None, comm.get_world_size())

    def _draw(self) -> Iterator[int]:
        rng = np.random.default_rng(self.seed)
        counts = np.array([len(images) for images in self.images_by_class])
        starts = counts.cumsum() - counts
        images = np.concatenate(self.images_by_class)
        while True:
            classes = rng.integers(len(counts), size=_DRAWS_AT_ONCE)
            yield from images[starts[classes] + rng.integers(counts[classes])].tolist()


def _images_by_class(records: Sequence[Mapping[str, Any]]) -> list[npt.NDArray[np.int64]]:
    """Indices of the images of each class, for all classes with images."""
    images: dict[int, list[int]] = {}
    for index, record in enumerate(records):
        annotations = record["annotations"]
        for category in {a["category_id"] for a in annotations if not a.get("iscrowd", 0)}:
            images.setdefault(category, []).append(index)
    if not images:
        raise UserError(
            "ClassBalancedTrainingSampler draws images by the classes of their objects, but no "
            "training image has an object; set DATALOADER.SAMPLER_TRAIN to TrainingSampler."
        )
    return [np.array(images[category]) for category in sorted(images)]
