"""Dataset mapper that supports instance maps."""

from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.data.detection_utils import SizeMismatchError, filter_empty_instances
from detectron2.data.transforms import RandomFlip, TransformList
from detectron2.structures import Instances
from PIL import Image

from panet.utils.errors import UserError

from .instance_map import InstanceMap, object_class, object_ids, read_instance_map
from .mapped_masks import MappedMasks


class InstanceMapMapper(DatasetMapper):
    """detectron2's mapper with support for records with an instance map.

    Instead of "annotations", such a record has the keys of
    :func:`panet.data.instance_map.read_instance_map`. Its masks become ``BitMasks`` that share the
    map, regardless of ``INPUT.MASK_FORMAT``, and its boxes are computed from the masks.

    ``INPUT.RANDOM_FLIP`` may also be "both": horizontal and vertical, each with probability 1/2.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        both = is_train and cfg.INPUT.RANDOM_FLIP == "both"
        if both:
            cfg = cfg.clone()
            cfg.defrost()
            cfg.INPUT.RANDOM_FLIP = "horizontal"
        arguments: dict[str, Any] = super().from_config(cfg, is_train)
        if both:
            arguments["augmentations"].append(RandomFlip(horizontal=False, vertical=True))
        return arguments

    def __call__(self, dataset_dict: dict[str, Any]) -> Any:
        """See ``DatasetMapper``.

        Raises:
            UserError: if the image or the instance map cannot be read, or its size differs from
                that in the record.
        """
        if "instance_file_name" in dataset_dict:
            # detectron2's mapper creates instances only for records with this key.
            dataset_dict = {**dataset_dict, "annotations": []}
        try:
            return super().__call__(dataset_dict)
        except SizeMismatchError as error:
            raise UserError(" ".join(str(error).split())) from error
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow's errors
            raise UserError(
                f"The image {dataset_dict['file_name']} cannot be read: {error}"
            ) from error

    def _transform_annotations(
        self,
        dataset_dict: dict[str, Any],
        transforms: TransformList,
        image_shape: tuple[int, int],
    ) -> None:
        if "instance_file_name" not in dataset_dict:
            super()._transform_annotations(dataset_dict, transforms, image_shape)
            return
        del dataset_dict["annotations"]
        instance_map = read_instance_map(dataset_dict)
        transformed = InstanceMap(*map(transforms.apply_segmentation, instance_map))
        ids = transformed.ids(num_classes=max(dataset_dict.pop("label_classes")) + 1)
        objects = object_ids(ids)
        masks = MappedMasks(torch.from_numpy(ids.astype(np.int32)), torch.tensor(objects).int())
        instances = Instances(image_shape)
        classes = [object_class(object_id) for object_id in objects]
        instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
        instances.gt_boxes = masks.get_bounding_boxes()
        if self.use_instance_mask:
            instances.gt_masks = masks
        dataset_dict["instances"] = filter_empty_instances(instances)
