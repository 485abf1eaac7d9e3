"""Ensembles of models with test-time augmentation (TTA)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data.detection_utils import read_image
from detectron2.layers import batched_nms
from detectron2.modeling import GeneralizedRCNN, GeneralizedRCNNWithTTA
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference_single_image
from detectron2.structures import Boxes, ImageList, Instances, ROIMasks
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from panet.utils.errors import UserError

from .box_predictions import choose_candidates, predict_boxes
from .tight_boxes import tighten_boxes
from .views import (
    ViewMapper,
    batches_of_like_size,
    build_view_mapper,
    check_options,
    drop_others,
    make_views,
    map_back,
)
from .voting import vote_boxes, vote_masks

Features = dict[str, Tensor]


class RCNNEnsemble(GeneralizedRCNNWithTTA):
    """One or several models on one or several TTA views of each image, merged into one result.

    For every view, one model proposes boxes and the predictions of all models for these proposals
    are averaged: classes and boxes before thresholding and NMS, masks after. The detections of all
    views are then mapped to the image and merged by another NMS, with box and mask voting.

    :class:`GeneralizedRCNNWithTTA` runs every view twice, for boxes and then for masks. This class
    runs each view once and keeps only its detections.
    """

    def __init__(
        self,
        cfg: CfgNode,
        models: Sequence[nn.Module],
        proposals_from: int = 0,
        tta_mapper: ViewMapper | None = None,
        batch_size: int | None = None,
    ) -> None:
        """
        Args:
            cfg: configuration with the keys ``TEST.AUG``, ``TEST.BOX_VOTING``,
                ``TEST.MASK_VOTING``, ``TEST.TIGHTEN_BOXES``; score threshold and NMS are
                configured as for a single model.
            models: ``GeneralizedRCNN``s for the same classes, in evaluation mode. Models without
                a mask head are ignored for masks.
            proposals_from: 0-based index of the model that proposes boxes for all models.
            tta_mapper: makes the views of an image; default: :func:`build_view_mapper`.
            batch_size: number of views of equal size in a batch; default:
                ``TEST.AUG.BATCH_SIZE``.

        Raises:
            UserError: if the models cannot be merged, or a key has an invalid value.
        """
        members: list[Any] = [
            m.module if isinstance(m, DistributedDataParallel) else m for m in models
        ]
        _check_members(cfg, members, proposals_from)
        check_options(cfg)
        batch_size = cfg.TEST.AUG.BATCH_SIZE if batch_size is None else batch_size
        parent_cfg = cfg.clone()
        parent_cfg.defrost()
        parent_cfg.MODEL.LOAD_PROPOSALS = False  # not supported by the superclass
        super().__init__(parent_cfg, members[0], tta_mapper or build_view_mapper(cfg), batch_size)
        self.cfg = cfg.clone()
        self.members: Any = nn.ModuleList(members)
        self.proposer = members[proposals_from]
        self.has_masks = any(member.roi_heads.mask_on for member in members)

    def __call__(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Instances]]:
        """
        Args:
            batched_inputs: inputs of ``GeneralizedRCNN``: "image", (3, H', W'), in the channel
                order ``INPUT.FORMAT``, or a "file_name" to read it from; "height" and "width" of
                the result, by default those of the image; "proposals" if there is no RPN.

        Returns:
            The output of ``GeneralizedRCNN`` for each image: "instances".
        """
        return [self._inference_one_image(self._complete(inputs)) for inputs in batched_inputs]

    def _complete(self, inputs: dict[str, Any]) -> dict[str, Any]:
        inputs = dict(inputs)
        if "image" not in inputs:
            image = read_image(inputs["file_name"], self.cfg.INPUT.FORMAT)
            inputs["image"] = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        inputs.setdefault("height", inputs["image"].shape[1])
        inputs.setdefault("width", inputs["image"].shape[2])
        return inputs

    @torch.no_grad()
    def _inference_one_image(self, input: dict[str, Any]) -> dict[str, Instances]:
        views = make_views(input, self.tta_mapper)
        transforms = [view["transforms"] for view in views]
        pairs = [
            pair
            for batch in batches_of_like_size(views, self.batch_size)
            for pair in self._detect(batch)
        ]
        height, width = input["image"].shape[1:]
        sizes = (height, width), (input["height"], input["width"])
        detections, candidates = (
            Instances.cat([map_back(*view, *sizes) for view in zip(instances, transforms)])
            for instances in zip(*pairs)
        )
        return {"instances": self._merge(detections, candidates, several=len(views) > 1)}

    def _detect(self, views: list[dict[str, Any]]) -> list[tuple[Instances, Instances]]:
        """Return detections and box-voting candidates in each of several views of equal size."""
        features, proposals = self._propose(views)
        heads, test = self.cfg.MODEL.ROI_HEADS, self.cfg.TEST
        pairs = []
        for view, boxes, scores in zip(views, *self._average_boxes(features, proposals)):
            predictions = (boxes, scores, view["image"].shape[1:], heads.SCORE_THRESH_TEST)
            detections, _ = fast_rcnn_inference_single_image(
                *predictions, heads.NMS_THRESH_TEST, test.DETECTIONS_PER_IMAGE
            )
            candidates = detections[:0]
            if test.BOX_VOTING.ENABLED:
                candidates = choose_candidates(*predictions)
            transforms = view["transforms"]
            pairs.append((drop_others(detections, transforms), drop_others(candidates, transforms)))
        if self.has_masks:
            self._average_masks(features, [detections for detections, _ in pairs])
        return pairs

    def _propose(self, views: list[dict[str, Any]]) -> tuple[list[Features], list[Instances]]:
        """Return the feature maps of each member and the proposals for all members."""
        proposals = None
        features = []
        for member in self.members:
            images = self._preprocess(member, views)
            features.append(member.backbone(images.tensor))
            if member is self.proposer and member.proposal_generator is not None:
                proposals, _ = member.proposal_generator(images, features[-1], None)
        if proposals is None:
            proposals = [view["proposals"].to(self.proposer.device) for view in views]
        return features, proposals

    def _preprocess(self, member: GeneralizedRCNN, views: list[dict[str, Any]]) -> ImageList:
        if member.input_format not in (None, self.cfg.INPUT.FORMAT):
            views = [{**view, "image": view["image"].flip(0)} for view in views]
        return member.preprocess_image(views)

    def _average_boxes(
        self, features: list[Features], proposals: list[Instances]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Average boxes, (R, 4 K) or (R, 4), and class probabilities, (R, K + 1), for each view."""
        predictions = [
            predict_boxes(member.roi_heads, maps, proposals)
            for member, maps in zip(self.members, features)
        ]
        boxes, scores = zip(*predictions)
        return list(map(_mean_boxes, zip(*boxes))), [torch.stack(s).mean(0) for s in zip(*scores)]

    def _average_masks(self, features: list[Features], detections: list[Instances]) -> None:
        """Set the "pred_masks", (N, 1, h, w), of the detections of each view."""
        masks = []
        for member, maps in zip(self.members, features):
            if member.roi_heads.mask_on:
                copies = [Instances(d.image_size, **d.get_fields()) for d in detections]
                outputs = member.roi_heads.forward_with_given_boxes(maps, copies)
                masks.append([output.pred_masks for output in outputs])
        for instances, of_members in zip(detections, zip(*masks)):
            if len({mask.shape for mask in of_members}) > 1:
                raise UserError(
                    "The models of TEST.ENSEMBLE.MEMBERS predict masks of different sizes; set "
                    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION to the same value for all of them."
                )
            instances.pred_masks = torch.stack(of_members).mean(0)

    def _merge(self, detections: Instances, candidates: Instances, several: bool) -> Instances:
        """Merge the detections of one or several views, in pixels of the result."""
        test = self.cfg.TEST
        kept = detections
        if several:
            threshold = self.cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST
            boxes, scores = detections.pred_boxes.tensor, detections.scores
            order = batched_nms(boxes, scores, detections.pred_classes, threshold)
            limit = test.DETECTIONS_PER_IMAGE
            kept = detections[order[:limit] if limit >= 0 else order]
        if self.has_masks:
            if several and test.MASK_VOTING.ENABLED:
                masks = vote_masks(kept, detections, test.MASK_VOTING.IOU)
            else:
                in_boxes = ROIMasks(kept.pred_masks[:, 0])
                masks = in_boxes.to_bitmasks(kept.pred_boxes, *kept.image_size).tensor
            kept.pred_masks = masks
        if test.BOX_VOTING.ENABLED:
            kept.pred_boxes = Boxes(vote_boxes(kept, candidates, test.BOX_VOTING.IOU))
        if test.TIGHTEN_BOXES:
            tighten_boxes(kept)
        return kept


def add_tta(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """Wrap a model with the TTA views, voting and box tightening enabled in ``cfg.TEST``.

    Args:
        cfg: keys ``TEST.AUG``, ``TEST.BOX_VOTING``, ``TEST.MASK_VOTING``, ``TEST.TIGHTEN_BOXES``.
        model: a ``GeneralizedRCNN``, or any model if none of these is enabled.

    Returns:
        ``model`` itself if none is enabled, or if it is an :class:`RCNNEnsemble` already.

    Raises:
        UserError: if the model does not support them.
    """
    enabled = cfg.TEST.AUG.ENABLED or cfg.TEST.BOX_VOTING.ENABLED or cfg.TEST.TIGHTEN_BOXES
    return RCNNEnsemble(cfg, [model]) if enabled and not isinstance(model, RCNNEnsemble) else model


def _mean_boxes(boxes: Sequence[Tensor]) -> Tensor:
    """Average the boxes of all members, expanding class-agnostic ones to all classes."""
    most = max(b.shape[1] for b in boxes)
    return torch.stack([b.repeat(1, most // b.shape[1]) for b in boxes]).mean(0)


def _check_members(cfg: CfgNode, members: Sequence[Any], proposals_from: int) -> None:
    for member in members:
        if not isinstance(member, GeneralizedRCNN):
            raise UserError(
                "Test-time augmentation, voting, box tightening and ensembles need "
                "MODEL.META_ARCHITECTURE GeneralizedRCNN, but this model is a "
                f"{type(member).__name__}; disable TEST.AUG, TEST.BOX_VOTING and "
                "TEST.TIGHTEN_BOXES."
            )
    if cfg.MODEL.KEYPOINT_ON:
        raise UserError(
            "MODEL.KEYPOINT_ON is True, but test-time augmentation and ensembles do not support "
            "keypoints; set it to False."
        )
    if not 0 <= proposals_from < len(members):
        raise UserError(
            f"TEST.ENSEMBLE.PROPOSALS_FROM is {proposals_from}; it must be the 0-based index of "
            f"one of the {len(members)} models."
        )
    if members[proposals_from].proposal_generator is None and not cfg.MODEL.LOAD_PROPOSALS:
        raise UserError(
            f"Model {proposals_from}, selected by TEST.ENSEMBLE.PROPOSALS_FROM, has no RPN; "
            "select another model, or read proposals from files with MODEL.LOAD_PROPOSALS."
        )
    num_classes = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    for member in members:
        if member.roi_heads.num_classes != num_classes:
            raise UserError(
                f"MODEL.ROI_HEADS.NUM_CLASSES is {num_classes}, but a model of "
                f"TEST.ENSEMBLE.MEMBERS has {member.roi_heads.num_classes} classes."
            )
    if cfg.TEST.TIGHTEN_BOXES and not any(member.roi_heads.mask_on for member in members):
        raise UserError("TEST.TIGHTEN_BOXES is True, but the model has no masks; set it to False.")
