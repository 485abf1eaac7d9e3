"""Detections that agree on a box or a mask vote on it."""

import torch
from detectron2.layers.mask_ops import _do_paste_mask
from detectron2.structures import Instances, pairwise_iou
from torch import Tensor


def voting_weights(detections: Instances, voters: Instances, iou: float) -> Tensor:
    """The weight that each voter has for each detection.

    It is the voter's score, if both are of one class and their boxes overlap enough; else 0.

    Args:
        detections: N, with "pred_boxes" and "pred_classes".
        voters: M, with "scores" too.
        iou: the least intersection over union.

    Returns:
        (N, M).
    """
    same_class = detections.pred_classes[:, None] == voters.pred_classes
    near = pairwise_iou(detections.pred_boxes, voters.pred_boxes) >= iou
    return torch.where(same_class & near, voters.scores, 0.0)


def vote_boxes(detections: Instances, candidates: Instances, iou: float) -> Tensor:
    """Box voting: the mean of all candidates that overlap a detection, weighted by their scores.

    Gidaris and Komodakis, "Object detection via a multi-region & semantic segmentation-aware CNN
    model", ICCV 2015, section 5.

    Args:
        detections: what NMS has kept, N.
        candidates: what NMS has chosen from, M.
        iou: see :func:`voting_weights`.

    Returns:
        (N, 4), where a detection without candidates keeps its box.
    """
    boxes = detections.pred_boxes.tensor.clone()
    # By class, as the matrix of all with all is large where there are many classes.
    for label in detections.pred_classes.unique():
        ours = detections.pred_classes == label
        rivals = candidates[candidates.pred_classes == label]
        weights = voting_weights(detections[ours], rivals, iou)
        total = weights.sum(1, keepdim=True)
        mean = weights @ rivals.pred_boxes.tensor / total
        boxes[ours] = torch.where(total > 0, mean, boxes[ours])
    return boxes


def vote_masks(detections: Instances, voters: Instances, iou: float) -> Tensor:
    """Mask voting: the mean of the masks that overlap a detection, weighted by their scores.

    Each is pasted into the image where its own box is, as in Dai et al., "Instance-aware Semantic
    Segmentation via Multi-task Network Cascades", CVPR 2016, section 5.

    Args:
        detections: N, of an image of (H, W) pixels.
        voters: M in the same image, all detections among them, with "pred_masks", probabilities,
            (M, 1, h, w), in their boxes.
        iou: see :func:`voting_weights`.

    Returns:
        (N, H, W), bool: where the mean is at least 0.5.
    """
    height, width = detections.image_size
    boxes = voters.pred_boxes.tensor
    masks = torch.zeros(len(detections), height, width, dtype=torch.bool, device=boxes.device)
    for mask, weights in zip(masks, voting_weights(detections, voters, iou)):
        chosen = weights.nonzero().flatten()
        weights = weights[chosen] / weights[chosen].sum()
        pasted, region = _do_paste_mask(voters.pred_masks[chosen], boxes[chosen], height, width)
        mask[region] = torch.einsum("m,mhw->hw", weights, pasted) >= 0.5
    return masks
