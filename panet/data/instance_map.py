"""Instance maps: images whose pixels tell which object they show, as Mapillary Vistas has them."""

from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from pycocotools import mask as rle

from panet.utils.errors import UserError

NO_OBJECT = -1
"""In place of a class, for labels that are not objects."""


class InstanceMap(NamedTuple):
    """An image of objects, in planes of 8 bits.

    detectron2's transforms take maps of any type, but resize those of 8 bits alone so that they
    stay aligned with the photograph.

    Attributes:
        classes: (H, W), 1 + the class of the object, 0 where there is none.
        numbers: (H, W), tells the objects of a class apart.
    """

    classes: npt.NDArray[np.uint8]
    numbers: npt.NDArray[np.uint8]

    def ids(self, num_classes: int) -> npt.NDArray[np.uint16]:
        """A number for each object, (H, W): 256 * (1 + its class) + its number, 0 for none.

        Classes from ``num_classes`` on are what transforms fill a map with, and no objects.
        """
        ids = (self.classes.astype(np.uint16) << 8 | self.numbers).astype(np.uint16, copy=False)
        ids[(self.classes == 0) | (self.classes > num_classes)] = 0
        return ids


def read_instance_map(record: dict[str, Any]) -> InstanceMap:
    """Read the PNG of 16 bits that belongs to an image.

    Args:
        record: of the image. "instance_file_name" is the PNG's path; its values are 256 * the
            index of a label + the number of an object. "label_classes" has the class of each label,
            or :data:`NO_OBJECT`. "height" and "width" are those of the image.

    Raises:
        UserError: if the file is not there, is no such PNG, has another size than the image, or
            has labels that are not listed.
    """
    file_name = record["instance_file_name"]
    if not Path(file_name).is_file():
        raise UserError(f"The instance map {file_name} does not exist; unpack the dataset again.")
    values: Any = cv2.imread(file_name, cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16 or values.ndim != 2:
        raise UserError(
            f"{file_name} is not a PNG of one channel of 16 bits, as instance maps are; unpack the "
            "dataset again."
        )
    height, width = values.shape
    if (height, width) != (record["height"], record["width"]):
        raise UserError(
            f"The instance map {file_name} is {width} x {height} pixels, but its image "
            f"{record['file_name']} is {record['width']} x {record['height']}; unpack the dataset "
            "again."
        )
    labels = values >> 8
    num_labels = len(record["label_classes"])
    if labels.max() >= num_labels:
        raise UserError(
            f"{file_name} has the label {labels.max()}, but the dataset's config file lists only "
            f"0 to {num_labels - 1}; take both from the same version of the dataset."
        )
    classes = np.array(record["label_classes"], np.int64) + 1
    return InstanceMap(classes.astype(np.uint8)[labels], (values & 255).astype(np.uint8))


def object_ids(ids: npt.NDArray[np.uint16]) -> list[int]:
    """Which objects a map of :meth:`InstanceMap.ids` shows, in ascending order."""
    present: list[int] = np.flatnonzero(np.bincount(ids.ravel())).tolist()
    return [object_id for object_id in present if object_id > 0]


def object_class(object_id: int) -> int:
    """The class of an object, from 0 on."""
    return object_id // 256 - 1


def encode_objects(ids: npt.NDArray[np.uint16]) -> dict[int, dict[str, Any]]:
    """The masks of all objects of a map, in COCO's run-length encoding.

    It goes over the map once, however many objects there are.

    Args:
        ids: (H, W), see :meth:`InstanceMap.ids`.

    Returns:
        For each object, what ``pycocotools.mask.encode`` makes of its mask.
    """
    height, width = ids.shape
    columns = ids.ravel(order="F")
    starts = np.append(0, np.flatnonzero(columns[1:] != columns[:-1]) + 1)
    ends = np.append(starts[1:], columns.size)
    # Runs of one object after those of the other, each object's from left to right.
    values = columns[starts]
    order = np.argsort(values, kind="stable")
    objects, first = np.unique(values[order], return_index=True)
    encoded = {}
    for object_id, runs in zip(objects.tolist(), np.split(order, first[1:])):
        if object_id == 0:
            continue
        gaps = starts[runs] - np.append(0, ends[runs][:-1])
        counts = np.stack([gaps, ends[runs] - starts[runs]], axis=1).ravel().tolist()
        rest = columns.size - int(ends[runs][-1])
        uncompressed = {"size": [height, width], "counts": [*counts, rest] if rest else counts}
        encoded[object_id] = rle.frPyObjects(uncompressed, height, width)
    return encoded
