"""Instance maps of Mapillary Vistas: images whose pixel values identify objects."""

from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from pycocotools import mask as rle

from panet.utils.errors import UserError

NO_OBJECT = -1
"""The class of labels that are not objects."""


class InstanceMap(NamedTuple):
    """An instance map as two 8-bit planes.

    detectron2's transforms accept maps of any type, but only those of 8 bits are resized so that
    they stay aligned with the image.

    Attributes:
        classes: (H, W), 1 + class of the object; 0 for no object.
        numbers: (H, W), distinguishes the objects of a class.
    """

    classes: npt.NDArray[np.uint8]
    numbers: npt.NDArray[np.uint8]

    def ids(self, num_classes: int) -> npt.NDArray[np.uint16]:
        """Ids of the objects, (H, W): 256 * (1 + class) + number; 0 for no object.

        Classes from ``num_classes`` on are fill values of transforms, not objects.
        """
        ids = (self.classes.astype(np.uint16) << 8 | self.numbers).astype(np.uint16, copy=False)
        ids[(self.classes == 0) | (self.classes > num_classes)] = 0
        return ids


def read_instance_map(record: dict[str, Any]) -> InstanceMap:
    """Read the instance map of an image, a 16-bit PNG.

    Args:
        record: of the image. "instance_file_name" is the path of the PNG; its values are 256 *
            label index + object number. "label_classes" has the class of each label, or
            :data:`NO_OBJECT`. "height" and "width" are those of the image.

    Raises:
        UserError: if the file does not exist, is not such a PNG, differs in size from the image,
            or has labels that are not listed.
    """
    file_name = record["instance_file_name"]
    if not Path(file_name).is_file():
        raise UserError(f"The instance map {file_name} does not exist; unpack the dataset again.")
    values: Any = cv2.imread(file_name, cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16 or values.ndim != 2:
        raise UserError(
            f"The instance map {file_name} is not a PNG with one 16-bit channel; unpack the "
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
            f"The instance map {file_name} has the label {labels.max()}, but the dataset's config "
            f"file lists only 0 to {num_labels - 1}; use the same version of the dataset for both."
        )
    classes = np.array(record["label_classes"], np.int64) + 1
    return InstanceMap(classes.astype(np.uint8)[labels], (values & 255).astype(np.uint8))


def object_ids(ids: npt.NDArray[np.uint16]) -> list[int]:
    """The ids of the objects in a map of :meth:`InstanceMap.ids`, in ascending order."""
    present: list[int] = np.flatnonzero(np.bincount(ids.ravel())).tolist()
    return [object_id for object_id in present if object_id > 0]


def object_class(object_id: int) -> int:
    """The class of an object id, starting at 0."""
    return object_id // 256 - 1


def encode_objects(ids: npt.NDArray[np.uint16]) -> dict[int, dict[str, Any]]:
    """Encode the masks of all objects of a map in a single pass over it.

    Args:
        ids: (H, W), see :meth:`InstanceMap.ids`.

    Returns:
        For each object id, the same as ``pycocotools.mask.encode`` for its mask.
    """
    height, width = ids.shape
    columns = ids.ravel(order="F")
    starts = np.append(0, np.flatnonzero(columns[1:] != columns[:-1]) + 1)
    ends = np.append(starts[1:], columns.size)
    # Group the runs by object, each group from left to right.
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
