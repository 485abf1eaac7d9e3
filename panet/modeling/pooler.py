"""Adaptive feature pooling: every RoI from every level (section 3.2 of the paper)."""

from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling.poolers import ROIPooler, convert_boxes_to_pooler_format
from detectron2.structures import Boxes
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from .choices import check_choice

POOLER_TYPES = {"ROIAlign": False, "ROIAlignV2": True}
"""Pooler types of detectron2 that pool from all levels, and whether each aligns by half a pixel."""


class AssignedLevelPooler(ROIPooler):
    """detectron2's pooler, every RoI from the one level that its size assigns it to.

    The output has the leading axis that heads expect of :class:`AllLevelPooler`, of length 1.
    """

    def forward(self, x: list[Tensor], box_lists: list[Boxes]) -> Tensor:
        """
        Args:
            x: feature maps from fine to coarse, each (N, C, H_l, W_l).
            box_lists: N sets of boxes in pixels of the input image, R in all.

        Returns:
            (1, R, C, output_size, output_size).
        """
        return super().forward(x, box_lists)[None]


class AllLevelPooler(nn.Module):
    """RoIAlign of every RoI from all levels."""

    def __init__(
        self,
        output_size: int,
        scales: Sequence[float],
        sampling_ratio: int,
        pooler_type: str = "ROIAlignV2",
    ) -> None:
        """
        Args:
            output_size: height and width of the pooled grid, in bins.
            scales: for each level, its size divided by the input image's.
            sampling_ratio: samples along each side of a bin; 0 for as many as the bin has pixels.
            pooler_type: "ROIAlignV2", or "ROIAlign" for the legacy one without the shift by half
                a pixel.

        Raises:
            ValueError: if ``pooler_type`` is neither of these.
        """
        super().__init__()
        check_choice("POOLER_TYPE for adaptive feature pooling", pooler_type, POOLER_TYPES)
        self.output_size = output_size
        self.scales = tuple(scales)
        self.sampling_ratio = sampling_ratio
        self.aligned = POOLER_TYPES[pooler_type]

    def forward(self, x: list[Tensor], box_lists: list[Boxes]) -> Tensor:
        """
        Args:
            x: L feature maps, one for each scale, each (N, C, H_l, W_l).
            box_lists: N sets of boxes in pixels of the input image, R in all.

        Returns:
            (L, R, C, output_size, output_size).
        """
        rois = convert_boxes_to_pooler_format(box_lists)
        # The gather needs a grid that is the same for every RoI. On CUDA, roi_align's own kernel
        # is not what bounds the model.
        if self.sampling_ratio > 0 and not x[0].is_cuda:
            return gather_roi_align(
                x, rois, self.output_size, self.scales, self.sampling_ratio, self.aligned
            )
        # Coordinates in half precision would move the samples.
        exact = torch.promote_types(x[0].dtype, torch.float32)
        pooled = [
            roi_align(
                level.to(exact),
                rois.to(exact),
                self.output_size,
                scale,
                self.sampling_ratio,
                self.aligned,
            )
            for level, scale in zip(x, self.scales)
        ]
        return torch.stack(pooled).to(x[0].dtype)


def gather_roi_align(
    x: Sequence[Tensor],
    rois: Tensor,
    output_size: int,
    scales: Sequence[float],
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """RoIAlign of all RoIs from all levels as one weighted sum of rows of one table.

    With a fixed grid of s x s samples a bin, every output is a weighted sum of 4 s^2 feature
    vectors, so that all levels together are a single :func:`torch.nn.functional.embedding_bag`
    over their pixels. It computes what ``torchvision.ops.roi_align`` does.

    Args:
        x: L feature maps, each (N, C, H_l, W_l).
        rois: (R, 5): index into the batch, then x0, y0, x1, y1 in pixels of the input image.
        output_size: height and width of the pooled grid, in bins.
        scales: for each level, its size divided by the input image's.
        sampling_ratio: samples along each side of a bin, at least 1.
        aligned: whether to shift by half a pixel, as ROIAlignV2 does.

    Returns:
        (L, R, C, output_size, output_size), each level channels-last in memory.
    """
    channels = x[0].shape[1]
    table = torch.cat([level.permute(0, 2, 3, 1).reshape(-1, channels) for level in x])
    # Coordinates in half precision would move the samples.
    rois = rois.to(torch.promote_types(table.dtype, torch.float32))
    indices, weights, first_row = [], [], 0
    for level, scale in zip(x, scales):
        level_indices, level_weights = _bag_of_pixels(
            rois, level.shape, output_size, scale, sampling_ratio, aligned
        )
        indices.append(level_indices + first_row)
        weights.append(level_weights)
        first_row += level.shape[0] * level.shape[2] * level.shape[3]
    pooled = F.embedding_bag(
        torch.cat(indices),
        table,
        mode="sum",
        per_sample_weights=torch.cat(weights).to(table.dtype),
    )
    pooled = pooled.view(len(x), len(rois), output_size, output_size, channels)
    return pooled.permute(0, 1, 4, 2, 3)


def _bag_of_pixels(
    rois: Tensor,
    shape: torch.Size,
    output_size: int,
    scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> tuple[Tensor, Tensor]:
    """The pixels of one level that each bin sums, and their weights.

    Returns:
        Row of the level's (N * H * W, C) table, and weight, each
        (R * output_size^2, 4 * sampling_ratio^2).
    """
    _, _, height, width = shape
    batch, x0, y0, x1, y1 = rois.unbind(1)
    y, y_weight = _linear_samples(y0, y1, height, output_size, scale, sampling_ratio, aligned)
    x, x_weight = _linear_samples(x0, x1, width, output_size, scale, sampling_ratio, aligned)
    # (R, bins in y, bins in x, pixels in y, pixels in x)
    rows = (batch.long()[:, None, None] * height + y) * width
    indices = rows[:, :, None, :, None] + x[:, None, :, None, :]
    weights = y_weight[:, :, None, :, None] * x_weight[:, None, :, None, :]
    return indices.flatten(3).flatten(0, 2), weights.flatten(3).flatten(0, 2)


def _linear_samples(
    start: Tensor,
    end: Tensor,
    length: int,
    output_size: int,
    scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> tuple[Tensor, Tensor]:
    """RoIAlign along one axis: the two neighbours of every sample and their weights.

    Args:
        start, end: (R,), the RoIs' extent in pixels of the input image.
        length: pixels of the level along the axis.

    Returns:
        Pixel and weight, each (R, output_size, 2 * sampling_ratio). The weights are those of
        linear interpolation divided by ``sampling_ratio``, and zero for samples more than a
        pixel outside the level.
    """
    start = start * scale - (0.5 if aligned else 0.0)
    extent = end * scale - (0.5 if aligned else 0.0) - start
    if not aligned:
        extent = extent.clamp(min=1.0)
    samples = output_size * sampling_ratio
    centers = (torch.arange(samples, device=start.device, dtype=start.dtype) + 0.5) / samples
    position = start[:, None] + extent[:, None] * centers
    inside = (position >= -1.0) & (position <= length)
    position = position.clamp(min=0.0, max=length - 1.0)
    low = position.floor()
    fraction = position - low
    low = low.long()
    high = (low + 1).clamp(max=length - 1)
    scaled = inside.to(position.dtype) / sampling_ratio
    pixels = torch.stack([low, high], dim=-1)
    weights = torch.stack([(1.0 - fraction) * scaled, fraction * scaled], dim=-1)
    return (
        pixels.view(-1, output_size, 2 * sampling_ratio),
        weights.view(-1, output_size, 2 * sampling_ratio),
    )


def build_pooler(
    cfg: CfgNode, head_cfg: CfgNode, input_shape: dict[str, ShapeSpec]
) -> AllLevelPooler | AssignedLevelPooler:
    """The pooler of one head.

    Args:
        cfg: the whole configuration.
        head_cfg: its node ``MODEL.ROI_BOX_HEAD`` or ``MODEL.ROI_MASK_HEAD``.
        input_shape: the feature maps, by name.
    """
    pooler = AllLevelPooler if cfg.MODEL.ADAPTIVE_POOLING.ENABLED else AssignedLevelPooler
    return pooler(
        output_size=head_cfg.POOLER_RESOLUTION,
        scales=[1.0 / input_shape[f].stride for f in cfg.MODEL.ROI_HEADS.IN_FEATURES],
        sampling_ratio=head_cfg.POOLER_SAMPLING_RATIO,
        pooler_type=head_cfg.POOLER_TYPE,
    )
