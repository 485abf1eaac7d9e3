"""Sampling the images of every class equally often."""

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
    """An endless stream of images: each time a class, all equally likely, then an image of it.

    An image has a class if it has at least one object of it, however many, that is no crowd.
    Classes that no image has are not drawn, and neither are images without objects. Images are
    drawn with replacement.

    The processes of a distributed training draw the same stream and take turns. The stream is the
    same one at every iteration over the sampler.
    """

    def __init__(self, records: Sequence[Mapping[str, Any]], seed: int | None = None) -> None:
        """
        Args:
            records: images in detectron2's format, with "annotations".
            seed: the same one on all processes; None for a random one that they agree on.

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
    """The images of every class that any of them has, by their indices."""
    found: dict[int, list[int]] = {}
    for index, record in enumerate(records):
        annotations = record["annotations"]
        for category in {a["category_id"] for a in annotations if not a.get("iscrowd", 0)}:
            found.setdefault(category, []).append(index)
    if not found:
        raise UserError(
            "ClassBalancedTrainingSampler draws images by the classes of their objects, but no "
            "training image has an object; choose DATALOADER.SAMPLER_TRAIN TrainingSampler."
        )
    return [np.array(found[category]) for category in sorted(found)]
