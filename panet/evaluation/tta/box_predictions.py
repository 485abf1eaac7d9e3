"""Raw box-branch predictions for all proposals, before thresholding and NMS."""

from collections.abc import Mapping
from functools import singledispatch

from detectron2.modeling.roi_heads import CascadeROIHeads, ROIHeads, StandardROIHeads
from detectron2.structures import Boxes, Instances
from torch import Tensor

from panet.utils.errors import UserError

BoxPredictions = tuple[list[Tensor], list[Tensor]]
"""Boxes in pixels, (R, 4 K) or, if class-agnostic, (R, 4), and the probabilities of the K classes
and the background, (R, K + 1), for the R proposals of each image."""


@singledispatch
def predict_boxes(
    roi_heads: ROIHeads, features: Mapping[str, Tensor], proposals: list[Instances]
) -> BoxPredictions:
    """Run the box branch of RoI heads.

    Args:
        roi_heads: RoI heads in evaluation mode.
        features: feature maps by name, each (N, C, H_l, W_l).
        proposals: proposals of N images, with "proposal_boxes".

    Raises:
        UserError: if the RoI heads are not :class:`StandardROIHeads`.
    """
    raise UserError(
        "Test-time augmentation, voting and ensembles do not support the RoI heads "
        f"{type(roi_heads).__name__}; MODEL.ROI_HEADS.NAME must be PANetROIHeads, "
        "CascadePANetROIHeads, or detectron2's StandardROIHeads or CascadeROIHeads."
    )


@predict_boxes.register
def _(
    roi_heads: StandardROIHeads, features: Mapping[str, Tensor], proposals: list[Instances]
) -> BoxPredictions:
    levels = [features[name] for name in roi_heads.box_in_features]
    pooled = roi_heads.box_pooler(levels, [p.proposal_boxes for p in proposals])
    predictor = roi_heads.box_predictor
    predictions = predictor(roi_heads.box_head(pooled))
    boxes = predictor.predict_boxes(predictions, proposals)
    return list(boxes), list(predictor.predict_probs(predictions, proposals))


@predict_boxes.register
def _(
    roi_heads: CascadeROIHeads, features: Mapping[str, Tensor], proposals: list[Instances]
) -> BoxPredictions:
    levels = [features[name] for name in roi_heads.box_in_features]
    image_sizes = [p.image_size for p in proposals]
    boxes: list[Tensor] = []
    scores_of_stages = []
    for stage, predictor in enumerate(roi_heads.box_predictor):
        if stage > 0:
            proposals = list(map(_as_proposals, boxes, image_sizes))
        pooled = roi_heads.box_pooler(levels, [p.proposal_boxes for p in proposals])
        predictions = predictor(roi_heads.box_head[stage](pooled))
        boxes = list(predictor.predict_boxes(predictions, proposals))
        scores_of_stages.append(predictor.predict_probs(predictions, proposals))
    weight = 1.0 / roi_heads.num_cascade_stages
    return boxes, [sum(scores) * weight for scores in zip(*scores_of_stages)]


def _as_proposals(boxes: Tensor, image_size: tuple[int, int]) -> Instances:
    """Convert a stage's boxes, (R, 4), to proposals. All are kept, since scores are averaged."""
    proposal_boxes = Boxes(boxes)
    proposal_boxes.clip(image_size)
    return Instances(image_size, proposal_boxes=proposal_boxes)


def choose_candidates(
    boxes: Tensor, scores: Tensor, image_size: tuple[int, int], score_threshold: float
) -> Instances:
    """Select the boxes of one image that are the input of NMS.

    Args:
        boxes: (R, 4 K) or (R, 4).
        scores: (R, K + 1), with the background last.
        image_size: (H, W) to clip the boxes to.
        score_threshold: every box and class with a higher score is selected.

    Returns:
        Instances with "pred_boxes", "scores" and "pred_classes".
    """
    rows, classes = (scores[:, :-1] > score_threshold).nonzero(as_tuple=True)
    of_classes = boxes.view(len(boxes), -1, 4).expand(-1, scores.shape[1] - 1, -1)
    candidates = Boxes(of_classes[rows, classes])
    candidates.clip(image_size)
    return Instances(
        image_size, pred_boxes=candidates, scores=scores[rows, classes], pred_classes=classes
    )
