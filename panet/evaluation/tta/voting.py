"""Box voting and mask voting."""

import torch
from detectron2.structures import Instances, pairwise_iou
from torch import Tensor
from torch.nn import functional as F


def voting_weights(detections: Instances, voters: Instances, iou: float) -> Tensor:
    """Compute the weight of each voter for each detection.

    The weight is the voter's score if both have the same class and their boxes overlap enough,
    else 0.

    Args:
        detections: N instances with "pred_boxes" and "pred_classes".
        voters: M instances with "pred_boxes", "pred_classes" and "scores".
        iou: minimum intersection over union.

    Returns:
        (N, M).
    """
    same_class = detections.pred_classes[:, None] == voters.pred_classes
    near = pairwise_iou(detections.pred_boxes, voters.pred_boxes) >= iou
    return torch.where(same_class & near, voters.scores, 0.0)


def vote_boxes(detections: Instances, candidates: Instances, iou: float) -> Tensor:
    """Box voting: average the candidates that overlap each detection, weighted by their scores.

    Gidaris and Komodakis, "Object detection via a multi-region & semantic segmentation-aware CNN
    model", ICCV 2015, section 5.

    Args:
        detections: N instances kept by NMS.
        candidates: M instances that were the input of NMS.
        iou: see :func:`voting_weights`.

    Returns:
        Boxes, (N, 4). A detection without overlapping candidates keeps its box.
    """
    boxes = detections.pred_boxes.tensor.clone()
    # Per class, to avoid a large (N, M) matrix with many classes.
    for label in detections.pred_classes.unique():
        ours = detections.pred_classes == label
        rivals = candidates[candidates.pred_classes == label]
        weights = voting_weights(detections[ours], rivals, iou)
        total = weights.sum(1, keepdim=True)
        mean = weights @ rivals.pred_boxes.tensor / total
        boxes[ours] = torch.where(total > 0, mean, boxes[ours])
    return boxes


def vote_masks(detections: Instances, voters: Instances, iou: float) -> Tensor:
    """Mask voting: average the masks of voters that overlap each detection, weighted by score.

    Each mask is pasted into the image at its own box, as in Dai et al., "Instance-aware Semantic
    Segmentation via Multi-task Network Cascades", CVPR 2016, section 5.

    Args:
        detections: N instances of an image of (H, W) pixels.
        voters: M instances of the same image, including all detections, with "pred_masks",
            (M, 1, h, w), mask probabilities within their boxes.
        iou: see :func:`voting_weights`.

    Returns:
        Masks, (N, H, W), bool: where the average is at least 0.5.
    """
    height, width = detections.image_size
    boxes = voters.pred_boxes.tensor
    masks = torch.zeros(len(detections), height, width, dtype=torch.bool, device=boxes.device)
    for mask, weights in zip(masks, voting_weights(detections, voters, iou)):
        chosen = weights.nonzero().flatten()
        weights = weights[chosen] / weights[chosen].sum()
        rows, columns = _enclosing_region(boxes[chosen], height, width)
        pasted = _paste(voters.pred_masks[chosen], boxes[chosen], rows, columns)
        mask[rows, columns] = torch.einsum("m,mhw->hw", weights, pasted) >= 0.5
    return masks


def _enclosing_region(boxes: Tensor, height: int, width: int) -> tuple[slice, slice]:
    """Return the image rows and columns that boxes, (M, 4), cover. Outside, masks are below 0.5."""
    left, top = boxes[:, :2].amin(0).floor().clamp(min=0).int().tolist()
    right, bottom = boxes[:, 2:].amax(0).ceil().int().tolist()
    return slice(top, min(bottom, height)), slice(left, min(right, width))


def _paste(masks: Tensor, boxes: Tensor, rows: slice, columns: slice) -> Tensor:
    """Sample masks, (M, 1, h, w), of boxes, (M, 4), at pixel centers: (M, rows, columns)."""
    left, top, right, bottom = boxes.split(1, dim=1)
    y, x = (torch.arange(s.start, s.stop, device=boxes.device) + 0.5 for s in (rows, columns))
    # From image coordinates to box coordinates between -1 and 1.
    y, x = (y - top) / (bottom - top) * 2 - 1, (x - left) / (right - left) * 2 - 1
    shape = (-1, y.shape[1], x.shape[1])
    grid = torch.stack((x[:, None].expand(shape), y[:, :, None].expand(shape)), dim=3)
    return F.grid_sample(masks, grid, align_corners=False)[:, 0]
